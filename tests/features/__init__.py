"""Tests of feature tables."""
