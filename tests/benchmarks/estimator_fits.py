"""What does a fold cost by an estimator's own fit and predict, and in the shorter way?

Magpie's 132 columns of made-up formulas, a made-up target, random parameters as of the study
`leakfree_lightgbm`: a fold is fitted, and both of its sides are predicted. One thread, processor
time, both ways in turn over the same parameters. Before they are timed, predictions are compared
bit by bit. XGBoost is timed with one data set for all fits, which is not done: see what it saves.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import lightgbm
import numpy as np

from features.families.formula.element_statistics import magpie_statistics
from hpo.estimators.kept_rows.lightgbm_rows import LightGbmRows
from hpo.estimators.protocol import Floats
from hpo.estimators.staged_trees import predict_staged
from hpo.system.threads import use_threads
from tests.benchmarks.composition_features import rows_of
from tests.benchmarks.rank_candidates import formulas
from tests.benchmarks.side_by_side import compare, heading

Sides = tuple[Floats, Floats]
NUMBERS = range(10, 401, 10)
FIXED: dict[str, Any] = {"n_jobs": 1, "random_state": 42}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for every estimator and number of rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[400, 4000])
    parser.add_argument("--points", type=int, default=6, help="fits of each way in a repetition")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    use_threads(1)
    for n_rows in options.rows:
        source = np.random.default_rng(0)
        X = magpie_statistics(rows_of(formulas(n_rows, source)), print).values
        y = X[:, ::9] @ source.normal(size=X[:, ::9].shape[1]) / np.std(X[:, ::9])
        y += source.normal(size=n_rows)
        n = 4 * n_rows // 5
        points = [_draw(source) for _ in range(options.points)]
        print(heading(f"{n} rows to fit, {n_rows - n} more"))
        for what, usual, ours in ways(X[:n], y[:n], X[n:]):
            for point in points:
                for a, b in zip(usual(point), ours(point), strict=True):
                    if not np.array_equal(a, b):
                        raise SystemExit(f"{what}: the predictions differ")
            both = [functools.partial(_each, way, points) for way in (usual, ours)]
            print(f"{what:28} {compare(both[0], both[1], options.repeats)}", flush=True)
    return 0


Way = Callable[[dict[str, Any]], Sequence[Any]]


def ways(X: Floats, y: Floats, X_other: Floats) -> list[tuple[str, Way, Way]]:
    """Return the estimators, with their own way and the shorter one."""
    rows = LightGbmRows(X, y, X_other, None)
    found: list[tuple[str, Way, Way]] = []

    def model(point: dict[str, Any], n_trees: int) -> lightgbm.LGBMRegressor:
        return lightgbm.LGBMRegressor(**FIXED, verbosity=-1, **{**point, "n_estimators": n_trees})

    def fit(point: dict[str, Any]) -> Sequence[Any]:
        fitted = model(point, point["n_estimators"]).fit(X, y)
        return fitted.predict(X_other), fitted.predict(X)

    def fit_curve(point: dict[str, Any]) -> list[Floats]:
        fitted = model(point, NUMBERS[-1]).fit(X, y)
        return [*predict_staged(fitted, X_other, NUMBERS), *predict_staged(fitted, X, NUMBERS)]

    def fit_curve_shorter(point: dict[str, Any]) -> list[Floats]:
        sides = zip(*rows.predict_staged(model(point, NUMBERS[-1]), NUMBERS), strict=True)
        return [predicted for side in sides for predicted in side]

    found.append(("LightGBM", fit, lambda p: rows.predict(model(p, p["n_estimators"]))))
    found.append(("LightGBM, a curve of 40", fit_curve, fit_curve_shorter))
    try:
        import xgboost
    except ImportError:
        return found
    data = xgboost.QuantileDMatrix(X, label=y, nthread=1)

    def xgb(point: dict[str, Any]) -> Any:
        return xgboost.XGBRegressor(
            **FIXED,
            n_estimators=point["n_estimators"],
            learning_rate=point["learning_rate"],
            colsample_bytree=point["colsample_bytree"],
            verbosity=0,
        )

    def fit_xgb(point: dict[str, Any]) -> Sides:
        fitted = xgb(point).fit(X, y)
        return fitted.predict(X_other), fitted.predict(X)

    def fit_xgb_once_binned(point: dict[str, Any]) -> Sides:
        params = xgb(point).get_xgb_params()
        booster = xgboost.train(params, data, point["n_estimators"])
        return booster.inplace_predict(X_other), booster.inplace_predict(X)

    return [*found, ("XGBoost, binned once", fit_xgb, fit_xgb_once_binned)]


def _each(way: Way, points: Sequence[dict[str, Any]]) -> None:
    for point in points:
        way(point)


def _draw(source: np.random.Generator) -> dict[str, Any]:
    return {
        "learning_rate": float(source.uniform(0.01, 0.1)),
        "n_estimators": int(source.integers(200, 800)),
        "num_leaves": int(source.integers(5, 31)),
        "min_child_samples": int(source.integers(4, 20)),
        "colsample_bytree": float(source.uniform(0.1, 0.7)),
        "subsample": float(source.uniform(0.5, 1.0)),
        "subsample_freq": 1,
        "reg_lambda": float(source.uniform(0.1, 20.0)),
    }


if __name__ == "__main__":
    sys.exit(main())
