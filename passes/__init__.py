"""Program transformations: `pipeline.py` lists them in order, each file is one pass, no pass calls another.

A pass is a function that edits a module in place: `name(module)` or `name(module, target)`. To add one, write a file
and put it into the list in `pipeline.py`.
"""
