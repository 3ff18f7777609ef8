"""The command line: one file per command, and what the commands share.

- `cli.py`          the `warploom` command: finds the subcommand, prints errors, decides the exit code
- `compile.py`, `generate.py`, `chat.py`, `inspection.py`   one command each
- `sampling_flags.py`   `SamplingParams` as command-line flags
- `streaming.py`    an answer printed while it is made
- `reports.py`      what is inside an artifact, as plain rows; `fusion_log.py` reads the decisions out of its IR
- `table.py`        rows as aligned text
- `derived_files.py`    writes the files that are derived from the op classes

Beside them, `quickstart` and `test` are programs to run. A file here must not bear the name of a module of the
standard library (hence `inspection.py`): Python puts the folder of a script first in its search path.
"""
