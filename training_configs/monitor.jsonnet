// The main example, with the averaged weights beside the raw ones: `make train` writes its data, and then
//
//     allennlp train training_configs/monitor.jsonnet --serialization-dir runs/monitor
//
// leaves `moving_average.csv` and `moving_average.png` in runs/monitor.
local python_tokens = import "python_tokens.jsonnet";

python_tokens {
  trainer+: {
    callbacks: [{ type: "moving_average_monitor" }],
  },
}
