"""Tests of `hpo.objectives`."""
