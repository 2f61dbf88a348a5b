// Several averages of one training, where the best length is not known beforehand; `active` is validated and saved.
(import "python_tokens.jsonnet") + {
  trainer+: {
    moving_average: {
      type: "bank",
      averages: {
        short: { type: "exponential", decay: 0.99 },
        long: { type: "exponential", decay: 0.999 },
        mean: { type: "uniform", start_step: 1125 },
      },
      active: "long",
    },
  },
}
