"""Options as values: one frozen dataclass per group, and each field is one flag of the command line.

A field's annotation says how the flag is written, parsed and explained. Flags, keys of configuration files, variables,
`run.json` and the check whether a run may be resumed all come from these fields, so a new option is one new field.
Standard library only. May import `prompts`.
"""
