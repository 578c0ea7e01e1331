"""Feature families that are computed from crystal structures."""
