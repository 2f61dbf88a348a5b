// After each epoch the raw weights are set to the average (Switch EMA).
(import 'task.libsonnet') + {
  trainer+: {
    moving_average: { type: 'exponential' },
    callbacks+: [{ type: 'experiments.feedback.Feedback' }],
  },
}
