"""The loops that `trial_rate` compares: the usual one, and the same with the engine's objective.

python -m tests.benchmarks.trial_loops usual|binned|compiled STUDY TABLE URL TRIALS SEED
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna

import features.table
from features.table import FeatureTable
from hpo.spec.loading import load
from hpo.spec.sections import StudySpec
from hpo.spec.space import distributions

Score = Callable[[dict[str, Any]], float]


def usual(spec: StudySpec, table: FeatureTable) -> Score:
    """Return what is usually written: a data frame, cross_validate, and the folds' mean."""
    import pandas as pd
    from sklearn.model_selection import PredefinedSplit, cross_validate

    from hpo.objectives.folds import make_folds

    assert spec.cv is not None
    train = table.train
    frame = pd.DataFrame(train.X, columns=[column.name for column in table.columns])
    fold = pd.Series(-1, index=frame.index)
    for number, rows in enumerate(make_folds(spec.cv, train.groups)):
        fold[rows.validation] = number
    scoring = ("neg_root_mean_squared_error", "neg_mean_absolute_error", "r2")
    penalty = getattr(spec.objective, "penalty", 0.0)
    model = _usual_model(spec)

    def score(params: dict[str, Any]) -> float:
        found = cross_validate(
            model(**params),
            frame,
            train.y,
            cv=PredefinedSplit(fold),
            scoring=scoring,
            return_train_score=True,
        )
        validation, training = (
            -found[f"{side}_neg_root_mean_squared_error"] for side in ("test", "train")
        )
        gap = (validation - training).clip(min=0.0)
        return float((validation + penalty * gap).mean())

    return score


def _usual_model(spec: StudySpec) -> Callable[..., Any]:
    """Return the estimator of a study as it is usually made."""
    assert spec.estimator is not None
    if spec.estimator.name == "lightgbm":
        from lightgbm import LGBMRegressor

        quiet = {"n_jobs": 1, "verbose": -1}
        fixed = {**spec.estimator.fixed, **quiet, "random_state": spec.seed}
        return functools.partial(LGBMRegressor, **fixed)
    from sklearn.ensemble import HistGradientBoostingRegressor

    return functools.partial(HistGradientBoostingRegressor, random_state=spec.seed)


def compiled(spec: StudySpec, table: FeatureTable) -> Score:
    """Return the same score by the engine's objective."""
    from hpo.objectives.factory import make_objective

    objective = make_objective(spec, table)

    def score(params: dict[str, Any]) -> float:
        parts = [objective.score_part(params, part) for part in range(len(objective.parts))]
        return float(objective.combine(parts)["score"])

    return score


@contextlib.contextmanager
def without_compiled_trees() -> Iterator[None]:
    """Let the engine's objective do without them."""
    from hpo.estimators import trees
    from hpo.estimators.suitability import declined

    installed, trees.installed = trees.installed, lambda: declined("left out")
    try:
        yield
    finally:
        trees.installed = installed


def binned(spec: StudySpec, table: FeatureTable) -> Score:
    """Return the same score by the engine's objective without compiled trees."""
    by_objective = compiled(spec, table)

    def score(params: dict[str, Any]) -> float:
        with without_compiled_trees():
            return by_objective(params)

    return score


def main() -> None:
    """Run some trials of a study that is there, as one of several processes."""
    loop, study_file, table, url, trials, seed = sys.argv[1:]
    spec = load(Path(study_file))
    score = {"usual": usual, "binned": binned, "compiled": compiled}[loop](
        spec, features.table.read(Path(table))
    )
    space = distributions(spec.space)
    study = optuna.load_study(
        study_name="rate", storage=url, sampler=optuna.samplers.TPESampler(seed=int(seed))
    )
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial: optuna.Trial) -> float:
        return score({name: trial._suggest(name, space[name]) for name in space})

    study.optimize(objective, n_trials=int(trials))


if __name__ == "__main__":
    main()
