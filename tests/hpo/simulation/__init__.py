"""Tests of `hpo.simulation`."""
