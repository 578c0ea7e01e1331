"""Tests of `hpo.storage`."""
