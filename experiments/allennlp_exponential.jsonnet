// AllenNLP's own exponential average at its default.
(import 'task.libsonnet') + {
  trainer+: {
    moving_average: { type: 'allennlp.training.moving_average.ExponentialMovingAverage' },
  },
}
