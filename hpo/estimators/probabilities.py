"""Class probabilities from any classifier of scikit-learn's kind."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpo.estimators.protocol import Floats


def class_probabilities(model: Any, X: Floats, n_classes: int, **settings: Any) -> Floats:
    """Return the predicted probability of every class, of those it was not fitted on, too.

    A classifier that predicts classes alone gives the one that it predicts 1.

    Parameters
    ----------
    model
        Fitted on positions of the classes.
    X
        Array of shape (n_rows, n_features).
    n_classes
        Number of classes.
    settings
        What its `predict_proba` takes beside the rows.

    Returns
    -------
    array of shape (n_rows, n_classes)
    """
    if not hasattr(model, "predict_proba"):
        return np.eye(n_classes)[np.asarray(model.predict(X), dtype=np.int64)]
    return spread(model, np.asarray(model.predict_proba(X, **settings)), n_classes)


def spread(model: Any, probabilities: Floats, n_classes: int) -> Floats:
    """Return probabilities of the classes that a model knows as those of all classes."""
    found = np.zeros((len(probabilities), n_classes))
    found[:, np.asarray(model.classes_, dtype=np.int64)] = probabilities
    return found
