"""Tests of `hpo.analysis`."""
