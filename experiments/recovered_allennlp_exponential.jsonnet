// Killed in the middle and recovered, with AllenNLP's own exponential average.
(import 'recovered.jsonnet') + {
  trainer+: {
    moving_average: { type: 'allennlp.training.moving_average.ExponentialMovingAverage' },
  },
}
