// Raw weights alone, which a soup is made of.
(import 'task.libsonnet') + { trainer+: { callbacks: [] } }
