"""Where MLIR's bindings look for a Python module per dialect (see `warploom.ir.context`)."""
