"""The `wl` dialect: one class per op; types, builder, verifier, reference interpreter and text form derive from it.

Where things are:

- `op.py`          what an op is: the base class that every op of `ops/` extends
- `ops/`           the ops themselves, one family per file
- `dims.py`        symbolic dimensions; `types.py` tensor types over them
- `context.py`     an MLIR context that knows the dialect; `irdl.py` derives the dialect's IRDL text
- `function.py`    reading and building functions; `rewrite.py` editing them
- `verify.py`      the semantic verifier; `interpreter.py` the numpy meaning of a program
"""
