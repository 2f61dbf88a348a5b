// The mean of the latest 10 samples: forgets all that is older, for the memory of 10 more models.
(import "python_tokens.jsonnet") + {
  trainer+: { moving_average: { type: "window", window_size: 10, update_every: 50 } },
}
