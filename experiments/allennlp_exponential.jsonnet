// AllenNLP's own exponential average at its default.
(import 'tagger.libsonnet') + {
  trainer+: {
    moving_average: { type: 'allennlp.training.moving_average.ExponentialMovingAverage' },
  },
}
