// The same tagger with a run that, killed and continued by `--recover`, is the same run.
local python_tokens = import "python_tokens.jsonnet";

python_tokens {
  data_loader: { batch_sampler: { type: "bucket", batch_size: 32 } },
  validation_data_loader: { batch_size: 64 },
  trainer+: {
    checkpointer: { save_every_num_batches: 100 },
    callbacks: ["random_state"],
  },
}
