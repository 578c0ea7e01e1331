"""Objectives: the protocol, folds and metrics. May import `estimators`."""
