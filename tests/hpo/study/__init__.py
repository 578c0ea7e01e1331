"""Tests of `hpo.study`."""
