"""Rows of datasets: each source of data, and the reading of its files.

May import chemistry, families, rows and specs.
Chemistry's libraries, and SciPy, are imported within functions: a table that is there needs none.
"""
