// A bank of two power functions and its snapshots, from which `allennlp average sweep` finds the best length afterwards.
(import 'task.libsonnet') + {
  trainer+: {
    moving_average: {
      type: 'bank',
      active: 'long',
      averages: {
        short: { type: 'power_function', sigma_rel: 0.05 },
        long: { type: 'power_function', sigma_rel: 0.10 },
      },
    },
    checkpointer: {},
    callbacks+: [{
      type: 'moving_average_snapshots',
      every_num_updates: std.max(1, std.floor(std.parseInt(std.extVar('NUM_UPDATES')) / 16)),
    }],
  },
}
