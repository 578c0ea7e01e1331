"""Feature families: what is computed from a formula or a structure, by name.

May import chemistry and rows.
"""
