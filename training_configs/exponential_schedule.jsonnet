// A decay that rises over training, as in timm and ema-pytorch: short runs average less than long ones.
(import "python_tokens.jsonnet") + {
  trainer+: {
    moving_average: {
      type: "exponential",
      decay: { type: "inverse_power", max_decay: 0.999, power: 0.75 },
    },
  },
}
