"""Tests of `hpo.report`."""
