"""Tests of `hpo.system`."""
