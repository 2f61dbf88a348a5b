// The average in the optimizer: it averages after each step that is really taken, in any PyTorch loop too.
(import "python_tokens.jsonnet") + {
  trainer+: {
    moving_average: null,
    optimizer: {
      type: "moving_average",
      optimizer: { type: "adam", lr: 0.003 },
      moving_average: { type: "exponential", decay: 0.999 },
    },
  },
}
