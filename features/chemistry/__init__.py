"""Elements, formulas, oxidation states, crystals.

May import nothing above it: errors and records alone.
"""
