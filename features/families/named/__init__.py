"""Featurizers that a study names by their classes: matminer's, and one's own."""
