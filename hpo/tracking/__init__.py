"""Weights & Biases: what a study is told there, each trial exactly once."""
