"""Tests of `hpo.tracking`."""
