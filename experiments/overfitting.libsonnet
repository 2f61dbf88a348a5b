// The part-of-speech tagger of training_configs/ud_ewt.jsonnet as it is: from its third epoch on it overfits.
(import '../training_configs/ud_ewt.jsonnet') + { sorting_key:: 'tokens', warmup_steps:: 0 }
