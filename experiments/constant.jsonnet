// Constant learning rate: raw weights and every average.
(import 'task.libsonnet') + {
  trainer+: { moving_average: import 'every_average.libsonnet' },
}
