"""The rows of a fold, kept as a model takes them for all models that are fitted to them."""
