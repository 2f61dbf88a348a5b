// Stochastic weight averaging: a plain mean, for a run that goes on at a high learning rate once it has settled.
(import "python_tokens.jsonnet") + {
  trainer+: { moving_average: { type: "uniform", start_step: { fraction: 0.5 }, update_every: 10 } },
}
