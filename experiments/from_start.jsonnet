// The same, from the model in the archive that START names.
(import 'start.jsonnet') + {
  model: { type: 'from_archive', archive_file: std.extVar('START') },
}
