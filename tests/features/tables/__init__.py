"""Tests of `features.tables`."""
