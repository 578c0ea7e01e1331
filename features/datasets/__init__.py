"""Rows of datasets: each source of data, and the reading of its files.

May import chemistry, families, rows and specs.
"""
