"""Whole runs, killed and gone on with."""
