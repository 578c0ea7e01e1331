"""XGBoost's accelerated failure time loss, as an estimator of targets that are intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted, validate_data

from hpo.plugins import resolve

Floats = NDArray[np.float64]

LOSSES = ("normal", "logistic", "extreme")
# XGBoost keeps labels as 32-bit numbers, whose exponential has an end at 88.
MAX_EXPONENT = 40.0


class XGBAFTRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Boosted trees that are fitted to values, limits and ranges alike.

    XGBoost's objective `survival:aft` takes a positive label t to be ln t = f(x) + s e, with trees
    f, noise e of a distribution and its scale s, and loses -ln of the probability of what is known:
    the density of a value, the mass within bounds. Here t = exp(z), where z = (y - m) / d is the
    target less its mean m, over its standard deviation d, so that y = m + d f(x) + d s e: what is
    said of failure times holds for any number. Predictions are m + d f(x).

    Barnwal, Cho & Hocking, J. Comput. Graph. Stat. 31, 1292 (2022), section 2.

    Parameters
    ----------
    n_estimators, learning_rate, max_depth, min_child_weight, gamma, subsample, colsample_bytree, \
reg_alpha, reg_lambda, max_bin
        As in `xgboost.XGBRegressor`.
    aft_loss_distribution
        Of e: normal, logistic or extreme.
    aft_loss_distribution_scale
        The scale s: what is not explained, in standard deviations of the target.
    random_state
        Seed of the drawn rows and columns.
    n_jobs
        Number of threads.

    Attributes
    ----------
    takes_bounds
        True: `fit` takes what is known of the target.
    booster_
        XGBoost's own, of z.
    """

    takes_bounds = True

    def __init__(
        self,
        *,
        n_estimators: int = 100,
        learning_rate: float = 0.1,
        max_depth: int = 6,
        min_child_weight: float = 1.0,
        gamma: float = 0.0,
        subsample: float = 1.0,
        colsample_bytree: float = 1.0,
        reg_alpha: float = 0.0,
        reg_lambda: float = 1.0,
        max_bin: int = 256,
        aft_loss_distribution: str = "normal",
        aft_loss_distribution_scale: float = 1.0,
        random_state: int | None = None,
        n_jobs: int | None = None,
    ) -> None:
        self.n_estimators, self.learning_rate, self.max_depth = (
            n_estimators,
            learning_rate,
            max_depth,
        )
        self.min_child_weight, self.gamma = min_child_weight, gamma
        self.subsample, self.colsample_bytree = subsample, colsample_bytree
        self.reg_alpha, self.reg_lambda, self.max_bin = reg_alpha, reg_lambda, max_bin
        self.aft_loss_distribution = aft_loss_distribution
        self.aft_loss_distribution_scale = aft_loss_distribution_scale
        self.random_state, self.n_jobs = random_state, n_jobs

    def fit(
        self,
        X: Floats,
        y: Floats,
        sample_weight: Floats | None = None,
        bounds: ArrayLike | None = None,
    ) -> XGBAFTRegressor:
        """Fit to rows of shape (n_rows, n_features), NaN where a value is not known.

        Parameters
        ----------
        X, y
            Rows and their target, of shape (n_rows,).
        sample_weight
            Array of shape (n_rows,).
        bounds
            Array of shape (n_rows, 2): lower and upper bound of the target, equal where it was
            measured, infinite where a side is open; `y` alone if None.

        Raises
        ------
        ValueError
            If a parameter or the bounds are not as they must be.
        SpecError
            If XGBoost cannot be imported.
        """
        X, y = validate_data(self, X, y, y_numeric=True, ensure_all_finite="allow-nan")
        y = np.asarray(y, dtype=np.float64)
        ends = np.column_stack([y, y]) if bounds is None else _checked(bounds, len(y))
        self._check_parameters()
        if sample_weight is not None:
            sample_weight = check_array(sample_weight, ensure_2d=False, dtype=np.float64)
            if sample_weight.shape != y.shape:
                raise ValueError(
                    f"sample_weight must be of shape {y.shape}, got {sample_weight.shape}"
                )
            if not sample_weight.any():
                raise ValueError("Sample weights must contain at least one non-zero number.")
        self.mean_ = float(np.average(y, weights=sample_weight))
        spread = float(np.sqrt(np.average((y - self.mean_) ** 2, weights=sample_weight)))
        reach = np.abs(ends[np.isfinite(ends)] - self.mean_).max(initial=0.0)
        self.scale_ = max(spread, float(reach) / MAX_EXPONENT) or 1.0
        labels = np.exp((ends - self.mean_) / self.scale_)
        matrix = resolve("xgboost:DMatrix", "[estimator] name")(X, weight=sample_weight)
        matrix.set_float_info("label_lower_bound", labels[:, 0])
        matrix.set_float_info("label_upper_bound", labels[:, 1])
        train = resolve("xgboost:train", "[estimator] name")
        self.booster_ = train(self._settings(), matrix, num_boost_round=self.n_estimators)
        return self

    def predict(self, X: Floats) -> Floats:
        """Return predictions of shape (n_rows,), in units of the target."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, ensure_all_finite="allow-nan")
        matrix = resolve("xgboost:DMatrix", "[estimator] name")(X)
        # The margin is ln t, of which XGBoost would predict the exponential.
        margin = self.booster_.predict(matrix, output_margin=True)
        return self.mean_ + self.scale_ * np.asarray(margin, dtype=np.float64)

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _settings(self) -> dict[str, Any]:
        others = {"n_estimators", "n_jobs", "random_state"}
        settings = {name: value for name, value in self.get_params().items() if name not in others}
        return settings | {
            "objective": "survival:aft",
            "base_score": 1.0,  # the exponential of the mean
            "seed": 0 if self.random_state is None else self.random_state,
            "nthread": self.n_jobs or 1,
            "verbosity": 0,
        }

    def _check_parameters(self) -> None:
        if self.aft_loss_distribution not in LOSSES:
            raise ValueError(
                f"aft_loss_distribution must be one of {', '.join(LOSSES)}, got "
                f"{self.aft_loss_distribution!r}"
            )
        if not self.aft_loss_distribution_scale > 0:
            raise ValueError(
                "aft_loss_distribution_scale must be above 0, got "
                f"{self.aft_loss_distribution_scale!r}"
            )


def _checked(bounds: ArrayLike, n_rows: int) -> Floats:
    ends = np.asarray(bounds, dtype=np.float64)
    if ends.shape != (n_rows, 2):
        raise ValueError(f"bounds must be of shape ({n_rows}, 2), got {ends.shape}")
    if not (ends[:, 0] <= ends[:, 1]).all():
        raise ValueError("bounds must be numbers or infinite, the lower ones first")
    return ends
