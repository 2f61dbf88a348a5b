// The learning rate falls linearly to zero: raw weights and every average.
(import 'constant.jsonnet') + { trainer+: { learning_rate_scheduler+: { fraction: 1.0 } } }
