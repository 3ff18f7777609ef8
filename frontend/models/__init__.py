"""Model families, one file each; a file that defines a `Family` is found by its presence (see `registry.py`)."""
