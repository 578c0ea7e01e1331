"""Benchmarks: not tests; each is a module that is run by its name and prints a table."""
