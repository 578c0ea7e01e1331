"""Tests of `features.datasets`."""
