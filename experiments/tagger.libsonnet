// The same tagger, tuned by its raw weights: README.md says how.
(import 'overfitting.libsonnet') + {
  model+: {
    text_field_embedder+: {
      token_embedders+: {
        tokens: {
          type: 'experiments.dropped_embedding.DroppedEmbedding',
          embedding_dim: 100,
          word_dropout: 0.1,
          dropout: 0.5,
        },
        token_characters+: { encoder+: { num_filters: 100 } },
      },
    },
    encoder+: { input_size: 200, hidden_size: 200 },
  },
}
