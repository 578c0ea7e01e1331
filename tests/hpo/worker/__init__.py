"""Tests of `hpo.worker`."""
