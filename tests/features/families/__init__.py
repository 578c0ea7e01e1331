"""Tests of `features.families`."""
