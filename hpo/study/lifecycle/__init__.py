"""A study as a whole: adopted from Optuna, copied to another storage, deleted."""
