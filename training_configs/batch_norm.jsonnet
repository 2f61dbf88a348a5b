// The data of the main example, which `make train` writes, and a model with batch norms, whose statistics are
// recalibrated for the averaged weights:
//
//     allennlp train training_configs/batch_norm.jsonnet --serialization-dir runs/batch_norm \
//         --include-package fixtures.batch_norm_encoder
local python_tokens = import "python_tokens.jsonnet";

python_tokens {
  model+: {
    encoder: {
      type: "fixtures.batch_norm_encoder.BatchNormCnnEncoder",
      input_dim: 150,
      hidden_dim: 150,
    },
  },
  trainer+: {
    // Weight decay keeps the weights before a batch norm, whose scale does not matter, on the move.
    optimizer: {
      type: "sgd",
      lr: 1.0,
      parameter_groups: [[["convolutions"], { lr: 3.0, weight_decay: 0.02 }]],
    },
    callbacks: [{ type: "moving_average_buffers" }, { type: "moving_average_monitor" }],
  },
}
