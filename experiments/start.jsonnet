// A model for a soup: the default average of ud_ewt.jsonnet.
(import 'task.libsonnet') + { trainer+: { callbacks: [] } }
