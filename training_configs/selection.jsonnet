// For whoever does not want to choose: averages of three lengths, of which, or of the raw weights, the best of each
// validation is assigned.
(import "python_tokens.jsonnet") + {
  trainer+: {
    moving_average: {
      type: "bank",
      averages: {
        short: { type: "power_function", sigma_rel: 0.05 },
        medium: { type: "power_function", sigma_rel: 0.1 },
        long: { type: "power_function", sigma_rel: 0.2 },
      },
      active: "medium",
    },
    callbacks: [{ type: "moving_average_selection" }],
  },
}
