// Killed at any time and recovered, this ends with the very weights, averages and metrics of a run that was not.
(import "python_tokens.jsonnet") + {
  trainer+: {
    callbacks: [{ type: "random_state" }],
  },
}
