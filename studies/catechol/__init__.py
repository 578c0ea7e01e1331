"""Yields of a rearrangement in 24 solvents and 13 mixtures: leave one of them out."""
