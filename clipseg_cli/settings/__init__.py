"""Options: one frozen dataclass per group, one field per flag of the command line.

A field's annotation says how the flag is written, parsed and explained. Flags, keys of configuration files, variables,
`run.json` and the check before a resume all use these fields, so a new option is one new field. Uses only the standard
library. May import `prompts`.
"""
