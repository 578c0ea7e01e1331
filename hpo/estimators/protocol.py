"""What is asked of a regressor, whoever made it: scikit-learn's kind."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Regressor(Protocol):
    """A model of a target. Arrays X of shape (n_rows, n_features), y of shape (n_rows,)."""

    def fit(self, X: Floats, y: Floats, /, **settings: Any) -> Any:
        """Fit to rows; `settings` are weights or groups of rows, where it takes them."""

    def predict(self, X: Floats, /) -> Floats:
        """Return predictions of shape (n_rows,)."""
