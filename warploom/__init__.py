"""Warploom: compile a Hugging Face model ahead of time, serve the artifact without PyTorch."""

from warploom.version import __version__

__all__ = ["__version__"]
