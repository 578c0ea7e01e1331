"""Feature families that are computed from formulas."""
