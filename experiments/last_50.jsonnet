// The learning rate falls linearly to zero over the last 50% of the training.
(import 'constant.jsonnet') + { trainer+: { learning_rate_scheduler+: { fraction: 0.5 } } }
