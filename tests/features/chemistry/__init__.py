"""Tests of `features.chemistry`."""
