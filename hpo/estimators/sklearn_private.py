"""What is used of scikit-learn that it does not promise to keep, and with which versions it was.

All of it belongs to histogram gradient boosting. It is imported here and nowhere else, so that a
new version of scikit-learn is looked at in one place: compare its `fit` with the order in
`hpo.estimators.boosting`, run that module's tests, and add it to `CHECKED_VERSIONS`.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble._hist_gradient_boosting._gradient_boosting import _update_raw_predictions
from sklearn.ensemble._hist_gradient_boosting.binning import _BinMapper, _find_binning_thresholds
from sklearn.ensemble._hist_gradient_boosting.common import ALMOST_INF
from sklearn.ensemble._hist_gradient_boosting.gradient_boosting import _update_leaves_values
from sklearn.ensemble._hist_gradient_boosting.grower import TreeGrower

# Minor versions: with these, predictions are the same bit for bit as those of scikit-learn's `fit`.
CHECKED_VERSIONS = ("1.9",)

BinMapper = _BinMapper
find_binning_thresholds = _find_binning_thresholds
update_leaves_values = _update_leaves_values
update_raw_predictions = _update_raw_predictions

__all__ = [
    "ALMOST_INF",
    "CHECKED_VERSIONS",
    "BinMapper",
    "Link",
    "Loss",
    "TreeGrower",
    "find_binning_thresholds",
    "update_leaves_values",
    "update_raw_predictions",
]

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]


class Link(Protocol):
    """From raw predictions to those of the target, as `sklearn._loss.link`."""

    def inverse(self, raw_prediction: Floats) -> Floats:
        """Return predictions of the target."""


class Loss(Protocol):
    """A loss of `sklearn._loss`, as far as boosting needs it; arrays of shape (n_rows,)."""

    constant_hessian: bool
    differentiable: bool
    link: Link

    def fit_intercept_only(self, y_true: Floats, sample_weight: Floats | None = None) -> float:
        """Return the one raw prediction that fits all rows best."""

    def init_gradient_and_hessian(
        self, n_samples: int, dtype: type[np.float32], order: str
    ) -> tuple[Singles, Singles]:
        """Return arrays for both; one number for the hessian if it is the same for all rows."""

    def gradient(
        self,
        y_true: Floats,
        raw_prediction: Floats,
        sample_weight: Floats | None,
        gradient_out: Singles,
        n_threads: int,
    ) -> object:
        """Write the gradient of each row."""

    def gradient_hessian(
        self,
        y_true: Floats,
        raw_prediction: Floats,
        sample_weight: Floats | None,
        gradient_out: Singles,
        hessian_out: Singles,
        n_threads: int,
    ) -> object:
        """Write the gradient and the hessian of each row."""
