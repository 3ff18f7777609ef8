"""Tests, grouped by what they need: unit, property, filecheck, golden, model, gpu."""
