// The biaffine parser of allennlp-models (Dozat and Manning 2016), which predicts heads greedily here: its search for the
// best tree takes longer than all else in an evaluation.
{
  sorting_key:: 'words',
  warmup_steps:: 0,
  dataset_reader: {
    type: 'universal_dependencies',
    token_indexers: {
      tokens: { type: 'single_id' },
      token_characters: { type: 'characters', min_padding_length: 3 },
    },
  },
  vocabulary: { min_count: { tokens: 2 } },
  model: {
    type: 'biaffine_parser',
    text_field_embedder: {
      token_embedders: {
        tokens: {
          type: 'experiments.dropped_embedding.DroppedEmbedding',
          embedding_dim: 100,
          word_dropout: 0.1,
        },
        token_characters: {
          type: 'character_encoding',
          embedding: { embedding_dim: 25 },
          encoder: { type: 'cnn', embedding_dim: 25, num_filters: 50, ngram_filter_sizes: [3] },
        },
      },
    },
    pos_tag_embedding: { embedding_dim: 25, vocab_namespace: 'pos' },
    encoder: {
      type: 'lstm',
      input_size: 175,
      hidden_size: 150,
      num_layers: 2,
      dropout: 0.3,
      bidirectional: true,
    },
    arc_representation_dim: 150,
    tag_representation_dim: 50,
    dropout: 0.3,
    input_dropout: 0.3,
    use_mst_decoding_for_validation: false,
  },
  trainer: {
    validation_metric: '+LAS',
    grad_norm: 5.0,
    optimizer: { type: 'adam', lr: 0.002, betas: [0.9, 0.9] },
  },
}
