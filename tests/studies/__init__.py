"""Tests of the studies that are shipped."""
