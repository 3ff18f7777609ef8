"""The "loops" kernels: native code for any fusion group of core ops with one root.

Reading order: `program` (a group as plain Python), `coords` (index arithmetic that knows what vector lanes do),
`arithmetic` (elementwise ops on kit values), `element` (any element of any inlined value), `folds` (reductions and
contractions), `schedule` (tiles), `maps`, `rows` and `scatter` (the loops around the root). The template that the
driver sees is `kernels/loops.py`.
"""
