// A tagger of a few thousand values, which makes tens of thousands of updates in minutes.
{
  sorting_key:: 'tokens',
  warmup_steps:: 0,
  dataset_reader: {
    type: 'sequence_tagging',
    word_tag_delimiter: '###',
    token_delimiter: '\t',
  },
  model: {
    type: 'simple_tagger',
    text_field_embedder: { token_embedders: { tokens: { type: 'embedding', embedding_dim: 16 } } },
    encoder: { type: 'lstm', input_size: 16, hidden_size: 16, bidirectional: true },
  },
  trainer: {
    validation_metric: '+accuracy',
    optimizer: { type: 'adam', lr: 0.01 },
  },
}
