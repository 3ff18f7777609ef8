"""Formats of checkpoints whose weights are quantized already. A format is a module of this package with a `FORMAT`."""
