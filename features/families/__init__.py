"""Feature families: what is computed from a formula or a structure, by name.

May import chemistry and rows.
Chemistry's libraries, and SciPy, are imported within functions: a table that is there needs none.
"""
