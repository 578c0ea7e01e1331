"""Elements, formulas, oxidation states, crystals.

May import nothing above it: errors and records alone.
Chemistry's libraries, and SciPy, are imported within functions: a table that is there needs none.
"""
