"""How a trial is scored: the protocol, folds and metrics. May import `estimators`."""
