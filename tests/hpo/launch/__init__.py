"""Tests of `hpo.launch`."""
