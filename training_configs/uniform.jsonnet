// Stochastic weight averaging: a plain mean, for a run that goes on at a high learning rate once it has settled.
(import "python_tokens.jsonnet") + {
  // From the fourth epoch on: an epoch has 375 updates.
  trainer+: { moving_average: { type: "uniform", start_step: 1125, update_every: 10 } },
}
