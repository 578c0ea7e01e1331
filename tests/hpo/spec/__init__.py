"""Tests of `hpo.spec`."""
