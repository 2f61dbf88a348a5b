// Killed in the middle and recovered, with the exponential average at its default.
(import 'task.libsonnet') + {
  trainer+: {
    moving_average: { type: 'exponential' },
    checkpointer: {},
    callbacks+: [{
      type: 'experiments.kill_once.KillOnce',
      after_num_epochs: std.parseInt(std.extVar('NUM_EPOCHS')) / 2,
    }],
  },
}
