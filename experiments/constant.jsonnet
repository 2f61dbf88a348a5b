// Constant learning rate: raw weights and every average.
(import 'tagger.libsonnet') + {
  trainer+: { moving_average: import 'every_average.libsonnet' },
}
