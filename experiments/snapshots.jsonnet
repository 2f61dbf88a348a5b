// A bank of two power functions and its snapshots, from which `allennlp average sweep` finds the best length afterwards.
(import 'tagger.libsonnet') + {
  trainer+: {
    moving_average: {
      type: 'bank',
      active: 'long',
      averages: {
        short: { type: 'power_function', sigma_rel: 0.05 },
        long: { type: 'power_function', sigma_rel: 0.10 },
      },
    },
    callbacks+: [{ type: 'moving_average_snapshots' }],
  },
}
