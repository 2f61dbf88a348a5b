// The task that the environment variable TASK names, with everything random seeded.
local tasks = {
  tagger: import 'tagger.libsonnet',
  overfitting: import 'overfitting.libsonnet',
  transformer: import 'transformer.libsonnet',
  parser: import 'parser.libsonnet',
  long: import 'long.libsonnet',
};
local task = tasks[std.extVar('TASK')];
local seed = std.parseInt(std.extVar('SEED'));
// Batches of sentences of like length hold far less padding.
local bucketed(shuffle) = {
  batch_sampler: {
    type: 'bucket',
    batch_size: std.parseInt(std.extVar('BATCH_SIZE')),
    sorting_keys: [task.sorting_key],
    shuffle: shuffle,
  },
};

task + {
  train_data_path: std.extVar('TRAIN_DATA'),
  validation_data_path: std.extVar('DEV_DATA'),
  data_loader: bucketed(true),
  validation_data_loader: bucketed(false),
  trainer+: {
    num_epochs: std.parseInt(std.extVar('NUM_EPOCHS')),
    learning_rate_scheduler: {
      type: 'experiments.late_decay.LateDecay',
      warmup_steps: task.warmup_steps,
    },
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
