"""The "loops" kernels: native code for any fusion group of core ops with one root.

Reading order: `codegen.loop_program` (a group as plain Python), `coords` (index arithmetic that knows what vector lanes
do), `arithmetic` (elementwise ops on kit values), `element` (any element of any inlined value), `folds` (reductions and
contractions), `schedule` (tiles), `maps` and `rows` (the loops around the root), `emit` (which of them, and where
vectors lie). The template that the driver sees is `kernels/loops.py`.

A new elementwise op is a row in `arithmetic`, a new shape op a method of `element._Body` with its name.
"""
