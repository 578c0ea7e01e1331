"""Searches for first-order saddle points by gentlest ascent, and the tuning of such searches."""
