"""Tests of `hpo.commands`."""
