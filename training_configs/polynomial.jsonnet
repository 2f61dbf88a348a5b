// Polynomial-decay averaging: a mean that leans towards the latest updates, the more the larger eta is.
(import "python_tokens.jsonnet") + {
  trainer+: { moving_average: { type: "polynomial", eta: 8 } },
}
