// The same tagger on a part-of-speech treebank, which the environment variable UD_EWT locates: a directory of
// train.tsv and dev.tsv, a sentence a line, `word###tag` separated by tabs.
//
//     UD_EWT=/path/to/treebank allennlp train training_configs/ud_ewt.jsonnet --serialization-dir runs/ud_ewt
local treebank = std.extVar("UD_EWT");
local python_tokens = import "python_tokens.jsonnet";

python_tokens {
  train_data_path: treebank + "/train.tsv",
  validation_data_path: treebank + "/dev.tsv",
  data_loader+: { batch_size: 64 },
  trainer+: {
    num_epochs: 8,
    optimizer+: { lr: 0.003 },
    moving_average: { type: "exponential" },
  },
}
