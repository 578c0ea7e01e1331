"""Tests of `hpo.estimators`."""
