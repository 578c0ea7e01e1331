"""Faults that happen to a study while it runs, and what must be true of it afterwards."""
