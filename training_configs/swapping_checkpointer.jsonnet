// The same tagger with checkpoints whose model files hold the averaged weights.
local python_tokens = import "python_tokens.jsonnet";

python_tokens {
  trainer+: {
    checkpointer: { type: "swapping", save_every_num_batches: 100 },
  },
}
