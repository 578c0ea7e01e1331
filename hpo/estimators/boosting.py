"""Gradient boosting fitted again and again on the same rows: the same trees, without the detours.

A search fits `HistGradientBoostingRegressor` hundreds of times on the rows of a few folds. What
does not depend on the parameters is done once here: the rows are checked and sorted once, and
binned once for every `max_bins`; columns that are constant or equal after binning are left out,
as no tree can prefer them; rows of the other side are predicted from their bins. The trees are
grown by `hpo.estimators.trees`, and where that declines, by scikit-learn's own code, in the order
of its own `fit`, so that predictions are the same bit for bit, which tests compare.

That order is known of the versions in `CHECKED_VERSIONS` alone, and for the settings that `judge`
lets pass. Everything else is fitted by `fit`.
"""

from __future__ import annotations

import functools
import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import sklearn
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor as Boosting
from sklearn.utils import check_array, check_random_state

from hpo.estimators import trees
from hpo.estimators.protocol import Floats, Regressor
from hpo.estimators.registry import AUTO_ROWS
from hpo.estimators.sklearn_private import (
    ALMOST_INF,
    CHECKED_VERSIONS,
    BinMapper,
    Loss,
    TreeGrower,
    find_binning_thresholds,
    update_leaves_values,
    update_raw_predictions,
)
from hpo.estimators.suitability import OTHER_KIND, SUITABLE, Verdict, declined

_log = logging.getLogger(__name__)
LOSSES = frozenset({"squared_error", "absolute_error", "quantile"})
# Above this, scikit-learn bins a sample of the rows.
MAX_ROWS = 200_000
MAX_KEPT_BYTES = 32_000_000


@functools.cache
def judge_version() -> Verdict:
    """Return whether the order of `fit` is known of this version of scikit-learn."""
    if any(sklearn.__version__.startswith(f"{version}.") for version in CHECKED_VERSIONS):
        return SUITABLE
    return declined(
        f"scikit-learn {sklearn.__version__} is fitted by its own fit: the shorter way is known "
        f"of {', '.join(CHECKED_VERSIONS)} alone"
    )


def judge(model: Regressor, n_rows: int) -> Verdict:
    """Return whether a model can be fitted here.

    Parameters
    ----------
    model
        A regressor that is not fitted.
    n_rows
        Number of rows that it is to be fitted on.
    """
    if type(model) is not Boosting:
        return OTHER_KIND
    boosting: Boosting = model
    plain = {
        "loss": boosting.loss in LOSSES,
        "early_stopping": boosting.early_stopping is False
        or (boosting.early_stopping == "auto" and n_rows <= AUTO_ROWS),
        "categorical_features": boosting.categorical_features in ("from_dtype", None),
        "monotonic_cst": boosting.monotonic_cst is None,
        "interaction_cst": boosting.interaction_cst is None,
        "warm_start": not boosting.warm_start,
        "verbose": not boosting.verbose,
    }
    unusual = [name for name, is_plain in plain.items() if not is_plain]
    if unusual:
        return declined(f"{unusual[0]} is set, which scikit-learn's own fit knows alone")
    if n_rows > MAX_ROWS:
        return declined(f"more than {MAX_ROWS} rows are fitted by scikit-learn's own fit")
    return judge_version()


def slowed_by(model: Regressor, X: Floats) -> str:
    """Return what keeps a model from being fitted by compiled trees where they would help; or "".

    `X` has the shape (n_rows, n_features): the rows that it is to be fitted on, or as many.
    """
    if not judge(model, len(X)).suits:
        return ""
    # Of a column's values the least is in its lowest bin, if no other is.
    lowest = np.fmin.reduce(X, axis=0, initial=np.inf)
    if not trees.judge_size(len(X), X.shape[1], int((lowest != X).sum())).suits:
        return ""
    installed = trees.installed()
    return "" if installed.suits else f"{installed.reason}; {trees.SLOWER}"


class _Key(NamedTuple):
    """What binning depends on beside the rows."""

    max_bins: int
    reduced: bool


@dataclass(frozen=True)
class _Bins:
    """Rows after binning, without the columns that no tree would choose.

    Attributes
    ----------
    trained, other
        Arrays of bins, of shapes (n_trained, n_kept) and (n_other, n_kept).
    thresholds, n_bins, has_missing
        Of each kept column, as trees are made from.
    """

    trained: NDArray[np.uint8]
    other: NDArray[np.uint8]
    thresholds: Sequence[Floats]
    n_bins: NDArray[np.uint32]
    has_missing: NDArray[np.uint8]

    @property
    def n_bytes(self) -> int:
        # What is listed, two bytes each, counts before it is asked for, and as if it were all.
        return 3 * self.trained.nbytes + self.other.nbytes

    @functools.cached_property
    def listed(self) -> trees.Listed:
        return trees.Listed.of(self.trained)


class BoostedRows:
    """The two sides of a fold: rows to fit to, and rows to predict.

    Parameters
    ----------
    X, y
        Arrays of shape (n_rows, n_features) and (n_rows,): what models are fitted to.
    X_other
        Array of shape (n_other, n_features): what else they predict.
    weights
        Array of shape (n_rows,): what each row counts; None if all count alike.
    """

    def __init__(self, X: Floats, y: Floats, X_other: Floats, weights: Floats | None) -> None:
        self.X, self.X_other = (check_array(rows, ensure_all_finite=False) for rows in (X, X_other))
        self.y = check_array(y, dtype=np.float64, ensure_2d=False)
        self.weights = weights
        self._bins: OrderedDict[_Key, _Bins] = OrderedDict()

    def predict(self, model: Boosting) -> tuple[Floats, Floats]:
        """Fit a model, and return what it predicts of the other rows and of its own.

        The model is left as it is: what is fitted is not kept.
        """
        return next(self.predict_staged(model, [model.max_iter]))

    def predict_staged(
        self, model: Boosting, numbers: Sequence[int]
    ) -> Iterator[tuple[Floats, Floats]]:
        """Fit a model, and yield both predictions at each of some numbers of trees, ascending."""
        model._validate_params()
        loss = model._get_loss(sample_weight=self.weights)
        bins = self._binned(model)
        baseline = loss.fit_intercept_only(y_true=self.y, sample_weight=self.weights)
        trained, others = (
            np.zeros((len(rows), 1), order="F") + baseline for rows in (self.X, self.X_other)
        )
        wanted = frozenset(numbers)
        for n_trees in self._grow(model, loss, bins, trained[:, 0], others[:, 0]):
            if n_trees in wanted:
                yield tuple(loss.link.inverse(raw.flatten()) for raw in (others, trained))
            if n_trees == max(wanted):
                return

    def _grow(
        self,
        model: Boosting,
        loss: Loss,
        bins: _Bins,
        trained: Floats,
        others: Floats,
    ) -> Iterator[int]:
        """Grow one tree after the other, add what it predicts, and yield how many there are."""
        gradients, hessians = loss.init_gradient_and_hessian(
            n_samples=len(self.y), dtype=np.float32, order="F"
        )
        targets = gradients.ravel(), hessians.ravel()
        told = {"y_true": self.y, "raw_prediction": trained, "sample_weight": self.weights}
        draws = None
        if model.max_features < 1.0:
            stream = _feature_stream(model.random_state)
            draws = trees.Draws(stream, bins.trained.shape[1], model.max_features)
        scikit_learn = _ScikitLearn(model, bins, draws, targets)
        grower = self._grower(model, bins, draws, targets)
        for n_trees in range(1, model.max_iter + 1):
            if loss.constant_hessian:
                loss.gradient(**told, gradient_out=targets[0], n_threads=1)
            else:
                loss.gradient_hessian(
                    **told, gradient_out=targets[0], hessian_out=targets[1], n_threads=1
                )
            if grower is None or not grower.grow():
                scikit_learn.add_tree(loss, self.y, self.weights, trained, others)
            else:
                if not loss.differentiable:
                    self._search_values(model, loss, grower, trained)
                grower.add(trained, others)
            yield n_trees

    def _grower(
        self,
        model: Boosting,
        bins: _Bins,
        draws: trees.Draws | None,
        targets: trees.Targets,
    ) -> trees.Grower | None:
        rows = bins.trained
        verdict = trees.judge(len(rows), rows.shape[1], int((rows > 0).sum()))
        if not verdict.suits:
            _say(verdict.reason)
            return None
        return trees.Grower(
            bins.trained, bins.listed, bins.other, bins.has_missing, targets, model, draws
        )

    def _search_values(
        self,
        model: Boosting,
        loss: Loss,
        grower: trees.Grower,
        trained: Floats,
    ) -> None:
        """Set each leaf to what fits its rows best, which their gradients do not tell."""
        for leaf, rows in enumerate(grower.leaves):
            weights = None if self.weights is None else self.weights[rows]
            found = loss.fit_intercept_only(self.y[rows] - trained[rows], sample_weight=weights)
            grower.values[leaf] = model.learning_rate * found

    # Bins -------------------------------------------------------------------------------------

    def _binned(self, model: Boosting) -> _Bins:
        # Where each split looks at some columns alone, drawn at random, all have to be there.
        key = _Key(model.max_bins, model.max_features >= 1.0)
        if key not in self._bins:
            self._bins[key] = self._bin(*key)
            while len(self._bins) > 1 and self._kept_bytes() > MAX_KEPT_BYTES:
                self._bins.popitem(last=False)
        self._bins.move_to_end(key)
        return self._bins[key]

    def _kept_bytes(self) -> int:
        return sum(bins.n_bytes for bins in self._bins.values())

    def _bin(self, max_bins: int, reduced: bool) -> _Bins:
        mapper = BinMapper(n_bins=max_bins + 1, n_threads=1)
        mapper.bin_thresholds_ = self._find_thresholds(max_bins)
        mapper.is_categorical_ = np.zeros(self.X.shape[1], dtype=np.uint8)
        mapper.missing_values_bin_idx_ = max_bins
        n_bins = np.array([len(t) + 1 for t in mapper.bin_thresholds_], dtype=np.uint32)
        mapper.n_bins_non_missing_ = n_bins
        trained = mapper.transform(self.X)
        kept = _distinct_columns(trained, n_bins) if reduced else np.arange(len(n_bins))
        trained = np.asfortranarray(trained[:, kept])
        return _Bins(
            trained=trained,
            other=np.ascontiguousarray(mapper.transform(self.X_other)[:, kept]),
            thresholds=[mapper.bin_thresholds_[column] for column in kept],
            n_bins=n_bins[kept],
            has_missing=(trained == max_bins).any(axis=0).astype(np.uint8),
        )

    def _find_thresholds(self, max_bins: int) -> list[Floats]:
        """Return the edges of each column's bins, as `_BinMapper.fit` finds them one by one."""
        values = self._sorted
        together = values.whole & (values.n_distinct > max_bins) & (self.weights is None)
        few = ~together & (values.n_distinct <= max_bins) & (values.n_distinct >= 2)
        edges = np.empty((max_bins - 1, 0))
        if together.any():
            percentiles = np.linspace(0, 100, num=max_bins + 1)[1:-1]
            edges = np.percentile(
                values.rows[:, together], percentiles, axis=0, method="averaged_inverted_cdf"
            )
        in_turn = iter(np.minimum(edges, ALMOST_INF).T)
        thresholds = []
        for column in range(self.X.shape[1]):
            if together[column]:
                found = np.unique(next(in_turn))
            elif few[column] and self.weights is None:
                found = values.midpoints(column)
            else:
                found = find_binning_thresholds(self.X[:, column], max_bins, self.weights)
            thresholds.append(found)
        return thresholds

    @functools.cached_property
    def _sorted(self) -> _Sorted:
        return _Sorted(self.X)


@functools.cache
def _say(reason: str) -> None:
    _log.info("%s", reason)


class _ScikitLearn:
    """Grows the trees that `hpo.estimators.trees` declines, with scikit-learn's own code."""

    def __init__(
        self,
        model: Boosting,
        bins: _Bins,
        draws: trees.Draws | None,
        targets: trees.Targets,
    ) -> None:
        self._bins, self._max_bins, self._targets = bins, model.max_bins, targets
        self._settings = {
            "n_bins": model.max_bins + 1,
            "n_bins_non_missing": bins.n_bins,
            "has_missing_values": bins.has_missing,
            "max_leaf_nodes": model.max_leaf_nodes,
            "max_depth": model.max_depth,
            "min_samples_leaf": model.min_samples_leaf,
            "l2_regularization": model.l2_regularization,
            "feature_fraction_per_split": model.max_features,
            "rng": draws,
            "shrinkage": model.learning_rate,
            "n_threads": 1,
        }

    def add_tree(
        self, loss: Loss, y: Floats, weights: Floats | None, trained: Floats, others: Floats
    ) -> None:
        """Grow a tree, and add what it predicts of the rows of both sides."""
        grower = TreeGrower(self._bins.trained, *self._targets, **self._settings)
        grower.grow()
        if not loss.differentiable:
            update_leaves_values(loss, grower, y, trained, weights)
        predictor = grower.make_predictor(binning_thresholds=self._bins.thresholds)
        update_raw_predictions(trained, grower, 1)
        others += predictor.predict_binned(self._bins.other, self._max_bins, 1)


class _Sorted:
    """What binning asks of every column whatever the number of bins.

    Attributes
    ----------
    rows
        Array of shape (n_rows, n_features): each column in ascending order.
    whole
        Array of shape (n_features,): whether a column has neither gaps nor infinities.
    n_distinct
        Array of shape (n_features,): how many values a column has, without gaps.
    """

    def __init__(self, X: Floats) -> None:
        self.rows = np.sort(X, axis=0)
        self.whole = np.isfinite(X).all(axis=0)
        self._distinct = [np.unique(column[~np.isnan(column)]) for column in self.rows.T]
        self.n_distinct = np.array([len(values) for values in self._distinct])
        self._midpoints: dict[int, Floats] = {}

    def midpoints(self, column: int) -> Floats:
        """Return what lies in the middle between neighbouring values."""
        if column not in self._midpoints:
            middle = sliding_window_view(self._distinct[column], 2).mean(axis=1)
            self._midpoints[column] = np.minimum(np.unique(middle), ALMOST_INF)
        return self._midpoints[column]


def _distinct_columns(binned: NDArray[np.uint8], n_bins: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Return the columns that a tree may split by, of equal ones the first, as a tree prefers it.

    The first column always stays: the sums of all gradients are taken over its bins, and over
    other bins they would be rounded otherwise.
    """
    varies = (binned != binned[0]).any(axis=0)
    first: dict[tuple[int, bytes], int] = {}
    for column in range(binned.shape[1]):
        if column == 0 or varies[column]:
            first.setdefault((int(n_bins[column]), binned[:, column].tobytes()), column)
    return np.array(sorted(first.values()), dtype=np.int64)


def _feature_stream(random_state: int | None) -> np.random.Generator:
    """Return the stream that columns are drawn from, which is the second one that `fit` seeds."""
    source = check_random_state(random_state)
    highest = np.iinfo(np.uint32).max
    source.randint(highest, dtype="u8")
    return np.random.default_rng(source.randint(highest, dtype="u8"))
