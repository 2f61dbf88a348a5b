// python_tokens.jsonnet with two averages and snapshots of them, from which `allennlp average sweep`
// finds the best averaging length after the training, and `allennlp average synthesize` makes any other.
(import "python_tokens.jsonnet") + {
  trainer+: {
    moving_average: {
      type: "bank",
      averages: {
        short: { type: "power_function", sigma_rel: 0.05 },
        long: { type: "power_function", sigma_rel: 0.10 },
      },
      active: "long",
    },
    // 16 of each average: 5 epochs have 1,875 updates.
    callbacks: [{ type: "moving_average_snapshots", every_num_updates: 118 }],
  },
}
