"""Tests of `hpo.doctor`."""
