// A tagger of Python code, trained with averaged weights: `make train` writes its data and runs it.
{
  dataset_reader: {
    type: "sequence_tagging",
    word_tag_delimiter: "###",
    token_delimiter: "\t",
    token_indexers: {
      tokens: { type: "single_id" },
      token_characters: { type: "characters", min_padding_length: 3 },
    },
  },
  train_data_path: "data/python_tokens/train.tsv",
  validation_data_path: "data/python_tokens/dev.tsv",
  // Words seen once are unknown, so that the model learns to go by their characters.
  vocabulary: { min_count: { tokens: 2 } },
  model: {
    type: "simple_tagger",
    text_field_embedder: {
      token_embedders: {
        tokens: { type: "embedding", embedding_dim: 100 },
        token_characters: {
          type: "character_encoding",
          embedding: { embedding_dim: 25 },
          encoder: { type: "cnn", embedding_dim: 25, num_filters: 50, ngram_filter_sizes: [3] },
          dropout: 0.3,
        },
      },
    },
    encoder: { type: "lstm", input_size: 150, hidden_size: 150, bidirectional: true },
  },
  data_loader: { batch_size: 32, shuffle: true },
  trainer: {
    num_epochs: 5,
    validation_metric: "+accuracy",
    optimizer: { type: "adam", lr: 0.005 },
    moving_average: { type: "exponential", decay: 0.999 },
    callbacks: [
      // moving_average.png, beside the model: what averaging does.
      { type: "moving_average_monitor" },
      // So that averages of other lengths can be made afterwards, by `allennlp average sweep`.
      { type: "moving_average_snapshots", every_num_updates: { fraction: 0.05 } },
    ],
  },
}
