// Every five updates the slow weights go half the way to the raw ones, which are set to them (Lookahead).
local k = 5;

(import 'task.libsonnet') + {
  trainer+: {
    moving_average: {
      type: 'exponential',
      decay: { type: 'constant', decay: std.pow(0.5, 1 / k) },
      update_every: k,
    },
    callbacks+: [{ type: 'experiments.feedback.Feedback', every_num_updates: k }],
  },
}
