// The same tagger with an optimizer that averages, as it would in any other training loop.
local python_tokens = import "python_tokens.jsonnet";

python_tokens {
  trainer+: {
    optimizer: {
      type: "moving_average",
      optimizer: python_tokens.trainer.optimizer,
      moving_average: python_tokens.trainer.moving_average,
    },
    // Hidden: there is one average, and it is the optimizer's.
    moving_average:: null,
  },
}
