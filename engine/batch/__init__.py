"""Explanations of many given pairs, as tables in a folder (docs/batch.md)."""
