"""Estimators of ours over packages that are extras, which are imported when they are fitted."""
