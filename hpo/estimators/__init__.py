"""Regressors by name, how they are made, and trees that are fast. May import `spec`."""
