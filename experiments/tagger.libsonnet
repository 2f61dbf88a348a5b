// The part-of-speech tagger of training_configs/ud_ewt.jsonnet as the experiments train it: with batches of sentences of like
// length, which hold far less padding, and everything random seeded.
local bucketed(shuffle) = {
  batch_sampler: { type: 'bucket', batch_size: 64, sorting_keys: ['tokens'], shuffle: shuffle },
};
local seed = std.parseInt(std.extVar('SEED'));

(import '../training_configs/ud_ewt.jsonnet') + {
  train_data_path: std.extVar('TRAIN_DATA'),
  data_loader: bucketed(true),
  validation_data_loader: bucketed(false),
  trainer+: {
    num_epochs: std.parseInt(std.extVar('NUM_EPOCHS')),
    checkpointer: null,
    run_confidence_checks: false,
    callbacks: [{
      type: 'experiments.evaluate_every_average.EvaluateEveryAverage',
      every_num_epochs: std.parseInt(std.extVar('EVALUATE_EVERY')),
    }],
  },
  random_seed: seed,
  numpy_seed: seed,
  pytorch_seed: seed,
}
