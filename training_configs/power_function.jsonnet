// An average that grows longer with training: nothing to set anew for a run of another length.
(import "python_tokens.jsonnet") + {
  trainer+: { moving_average: { type: "power_function", sigma_rel: 0.1 } },
}
