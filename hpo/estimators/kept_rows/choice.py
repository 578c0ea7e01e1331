"""Which models are fitted in a shorter way than by their own `fit`, and by what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from hpo.estimators.protocol import Floats, Regressor
from hpo.estimators.suitability import OTHER_KIND, Verdict


class KeptRows(Protocol):
    """The two sides of a fold. Predictions are bit for bit those of the model's own methods."""

    def __init__(self, X: Floats, y: Floats, X_other: Floats, weights: Floats | None) -> None: ...

    def predict(self, model: Any) -> tuple[Floats, Floats]:
        """Fit a model, and return what it predicts of the other rows and of its own."""

    def predict_staged(self, model: Any, numbers: Sequence[int]) -> Iterator[tuple[Floats, Floats]]:
        """Fit a model, and yield both at each of some numbers of trees, ascending."""


def choose(model: Regressor, n_rows: int) -> tuple[type[KeptRows] | None, Verdict]:
    """Return what keeps rows for a model that is to be fitted on so many, and whether it may."""
    # Each loads a package that studies of other estimators do without.
    module = type(model).__module__
    if module.startswith("sklearn.ensemble._hist_gradient"):
        from hpo.estimators import boosting

        return boosting.BoostedRows, boosting.judge(model, n_rows)
    if module.startswith("lightgbm."):
        from hpo.estimators.kept_rows import lightgbm_rows

        return lightgbm_rows.LightGbmRows, lightgbm_rows.judge(model)
    return None, OTHER_KIND
