"""Tests of what is said of predicted classes alone."""
