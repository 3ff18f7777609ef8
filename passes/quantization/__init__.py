"""Schemes of storing weight matrices. A scheme registers itself by being a module of this package with a `SCHEME`."""
