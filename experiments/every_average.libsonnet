// Averages do not touch the trajectory that they average, so one run gives them all, exactly paired.
local num_updates = std.parseInt(std.extVar('NUM_UPDATES'));

{
  type: 'bank',
  active: 'exponential 0.9999',
  averages: {
    'exponential 0.9999': { type: 'exponential' },
    'exponential 0.999': { type: 'exponential', decay: 0.999 },
    'exponential 0.99': { type: 'exponential', decay: 0.99 },
    'exponential 0.999, no warm-up': {
      type: 'exponential',
      decay: { type: 'constant', decay: 0.999 },
      zero_debias: true,
    },
    'uniform from half-way': { type: 'uniform', start_step: std.floor(num_updates / 2) },
    'power function 0.05': { type: 'power_function', sigma_rel: 0.05 },
    'power function 0.10': { type: 'power_function', sigma_rel: 0.10 },
    'power function 0.20': { type: 'power_function', sigma_rel: 0.20 },
    'polynomial 8': { type: 'polynomial', eta: 8 },
    'window, last quarter': {
      type: 'window',
      window_size: 10,
      update_every: std.max(1, std.floor(num_updates / 40)),
    },
  },
}
