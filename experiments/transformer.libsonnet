// A transformer from scratch on the tagger's data.
(import 'tagger.libsonnet') + {
  warmup_steps:: 400,
  model+: {
    encoder: {
      type: 'pytorch_transformer',
      input_dim: 200,
      num_layers: 3,
      feedforward_hidden_dim: 400,
      num_attention_heads: 8,
      positional_encoding: 'sinusoidal',
      dropout_prob: 0.2,
    },
  },
  trainer+: {
    optimizer+: { lr: 0.001 },
  },
}
