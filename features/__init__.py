"""Datasets in, immutable feature tables out; `features.table` is the door."""
