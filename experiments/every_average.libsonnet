// Averages do not touch the trajectory that they average, so one run gives them all, exactly paired.
local num_updates = std.parseInt(std.extVar('NUM_UPDATES'));

local everywhere = {
  'exponential 0.9999': { type: 'exponential' },
  'exponential 0.999': { type: 'exponential', decay: 0.999 },
  'exponential 0.999, no warm-up': {
    type: 'exponential',
    decay: { type: 'constant', decay: 0.999 },
    zero_debias: true,
  },
  'power function 0.05': { type: 'power_function', sigma_rel: 0.05 },
  'power function 0.10': { type: 'power_function', sigma_rel: 0.10 },
  'power function 0.20': { type: 'power_function', sigma_rel: 0.20 },
  'window, last quarter': {
    type: 'window',
    window_size: 10,
    update_every: std.max(1, std.floor(num_updates / 40)),
  },
};

// Averages over about this share of the training.
local short(percent) = {
  ['exponential, %d%%' % percent]: {
    type: 'exponential',
    decay: { type: 'constant', decay: std.max(0, 1 - 100 / (percent * num_updates)) },
    zero_debias: true,
  },
  ['power function, %d%%' % percent]: { type: 'power_function', gamma: 100 / percent - 1 },
};

// The mean over the last part of the training: its equivalent learning rate falls linearly there.
local last(percent) = {
  ['uniform, last %d%%' % percent]: {
    type: 'uniform',
    start_step: std.floor(num_updates * (100 - percent) / 100),
  },
};

local of_task = {
  overfitting: {
    'exponential 0.99': { type: 'exponential', decay: 0.99 },
    'uniform from half-way': { type: 'uniform', start_step: std.floor(num_updates / 2) },
    'polynomial 8': { type: 'polynomial', eta: 8 },
  },
};
local others = short(1) + short(2) + short(5) + last(10) + last(20) + last(50);

{
  type: 'bank',
  active: 'exponential 0.9999',
  averages: everywhere + std.get(of_task, std.extVar('TASK'), others),
}
