// Each model_state_*.th holds the averages, for `allennlp evaluate --weights-file`; `--recover` is as ever.
(import "python_tokens.jsonnet") + {
  trainer+: {
    checkpointer: { type: "swapping" },
  },
}
