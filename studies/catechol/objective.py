"""Leave one solvent or one ramp out: the official splits as the parts of a trial."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.table import FeatureTable
from hpo.errors import ObjectiveError, suggest
from hpo.objectives.folds import Fold, hash_folds
from hpo.objectives.protocol import Params, Scores
from hpo.objectives.told import PredictedRows, Total
from hpo.spec.objectives import Direction
from studies.catechol.descriptors import read_measurements
from studies.catechol.measurements import RAMP, SINGLE, TARGETS
from studies.catechol.members import MEMBERS, Member, make_member

TARGET_KEYS = ("sm", "p2", "p3")
WEIGHT = "weight"
OUTER_FOLDS = 4
AVERAGES = {"folds": "fold_mean", "points": "all_points"}
Floats = NDArray[np.float64]


class LeaveOneOut:
    """The error of one model, or of the weighted mean of several, on what it was not fitted to.

    A part is a solvent or a ramp. Its model is fitted to the other solvents, or the other ramps:
    the two data sets are tasks of their own, as the official splits have it.

    Parameters
    ----------
    table
        As `studies.catechol.measurements` makes it.
    seed
        Of whatever a model draws.
    average
        What a trial scores: the mean over "folds", in which every solvent and every ramp counts
        alike, or over all "points". Both are kept.
    outer
        Which of the `outer_folds` shares of the solvents and ramps is left to be judged by, for a
        step of a nested cross-validation: the search neither scores them nor fits to them.
    members
        The models by name, with what is fixed of each; a study searches MODEL.FIELD, and of
        several models weight.MODEL, their shares in the mean once they are divided by their sum.
    """

    direction: Direction = "minimize"
    # The models as their fields are by themselves, with equal weights.
    baseline: Mapping[str, Any] = MappingProxyType({})
    totals: Mapping[str, Total] = MappingProxyType(
        {
            "fold_mean": Total("fold mean", format=".5f"),
            "all_points": Total("all points", format=".5f"),
            **{f"fold_mean_{t}": Total(f"fold mean, {t}s", format=".5f") for t in (SINGLE, RAMP)},
            **{
                f"fold_mean_{key}": Total(f"fold mean, {name}", format=".5f")
                for key, name in zip(TARGET_KEYS, TARGETS, strict=True)
            },
        }
    )

    def __init__(
        self,
        table: FeatureTable | None,
        *,
        seed: int,
        average: str = "folds",
        outer: int | None = None,
        outer_folds: int = OUTER_FOLDS,
        **members: Mapping[str, Any],
    ) -> None:
        if table is None:
            raise ObjectiveError("the yields need a [table]; see studies/catechol/README.md")
        if average not in AVERAGES:
            raise ObjectiveError(f"average '{average}': {suggest(average, AVERAGES)}")
        if not members:
            raise ObjectiveError(
                "[objective.params] names no model: give a section such as "
                f"[objective.params.mlp]; {suggest('', MEMBERS)}"
            )
        self.score_name = f"mean squared error, mean over {average}"
        self.average, self.seed = average, seed
        self.fixed = {name: dict(settings) for name, settings in members.items()}
        for name, settings in self.fixed.items():
            make_member(name, settings)
        self.rows = read_measurements(table)
        self.ids = table.train.ids
        groups = table.train.groups
        every = tuple(dict.fromkeys(groups.tolist()))
        if outer is not None and not 0 <= outer < outer_folds <= len(every):
            raise ObjectiveError(
                f"outer {outer}: must be below outer_folds, {outer_folds}, and that at most "
                f"{len(every)}, the number of solvents and ramps"
            )
        left = () if outer is None else every[outer::outer_folds]
        self.parts: Sequence[str] = tuple(part for part in every if part not in left)
        self.folds = _leave_one_out(groups, self.parts)
        self.splits_hash = hash_folds(self.folds)

    def score_part(self, params: Params, part: int) -> Scores:
        """Fit without a solvent or a ramp, and score what is predicted for it."""
        fold = self.folds[part]
        predicted = self.predict(params, fold.train, fold.validation)
        return score(predicted, self.rows.y[fold.validation])

    def predict(self, params: Params, train: NDArray[np.int64], new: NDArray[np.int64]) -> Floats:
        """Fit to some rows, and return the yields of others, of shape (n_new, 3)."""
        members, weights = self.split(params)
        known, asked = self.rows.take(train), self.rows.take(new)
        predicted = np.zeros((len(asked), self.rows.y.shape[1]))
        for name, member in members.items():
            if weights[name]:
                predicted += weights[name] * member.predict(known, asked, self.seed)
        return predicted

    def predictions(self, params: Params, parts: Sequence[Scores]) -> PredictedRows:
        """Fit each fold again, and return the yields that it predicts for what it leaves out."""
        folds = self.folds[: len(parts)]
        rows = np.concatenate([fold.validation for fold in folds])
        return PredictedRows(
            ids=self.ids[rows].tolist(),
            parts=np.repeat(range(len(folds)), [len(fold.validation) for fold in folds]).tolist(),
            targets=[f"yield of {name}" for name in TARGETS],
            observed=self.rows.y[rows],
            predicted=np.vstack(
                [self.predict(params, fold.train, fold.validation) for fold in folds]
            ),
        )

    def split(self, params: Params) -> tuple[dict[str, Member], dict[str, float]]:
        """Return the models that parameters describe, and their shares.

        Raises
        ------
        ObjectiveError
            If a parameter belongs to none of them, or no model has a weight.
        """
        settings = {name: dict(fixed) for name, fixed in self.fixed.items()}
        weights = dict.fromkeys(settings, 1.0)
        for key, value in params.items():
            part, _, field = key.partition(".")
            where = weights if part == WEIGHT else settings.get(part)
            if where is None or (part == WEIGHT and field not in weights):
                raise ObjectiveError(
                    f"parameter '{key}': belongs to none of {', '.join(settings)}; name it "
                    f"MODEL.FIELD or {WEIGHT}.MODEL"
                )
            where[field] = value
        total = math.fsum(weights.values())
        if not total > 0.0:
            raise ObjectiveError("the weights of all models are 0")
        return (
            {name: make_member(name, given) for name, given in settings.items()},
            {name: weight / total for name, weight in weights.items()},
        )

    def combine(self, parts: Sequence[Scores]) -> Scores:
        """Return both means of the squared error, and those of each task and each yield."""
        means = {
            "fold_mean": _mean([part["score"] for part in parts]),
            "all_points": math.fsum(part["score"] * part["n"] for part in parts)
            / math.fsum(part["n"] for part in parts),
        }
        of_task: dict[str, list[float]] = {SINGLE: [], RAMP: []}
        for name, part in zip(self.parts, parts, strict=True):
            of_task[name.partition(" ")[0]].append(part["score"])
        return {
            "score": means[AVERAGES[self.average]],
            **means,
            **{f"fold_mean_{task}": _mean(errors) for task, errors in of_task.items() if errors},
            **{f"fold_mean_{key}": _mean([part[key] for part in parts]) for key in TARGET_KEYS},
        }


def score(predicted: Floats, y: Floats) -> dict[str, float]:
    """Return the mean squared error over rows and yields, that of each yield, and their number."""
    errors = (predicted - y) ** 2
    by_target = dict(zip(TARGET_KEYS, errors.mean(axis=0).tolist(), strict=True))
    return {"score": float(errors.mean()), **by_target, "n": float(len(errors))}


def _leave_one_out(groups: NDArray[np.str_], parts: Sequence[str]) -> tuple[Fold, ...]:
    """Return a fold per part, trained on the other parts of its task."""
    task = np.array([group.partition(" ")[0] for group in groups.tolist()])
    known = np.isin(groups, parts)
    folds = []
    for part in parts:
        held_out = groups == part
        same = known & (task == part.partition(" ")[0])
        folds.append(Fold(np.flatnonzero(same & ~held_out), np.flatnonzero(held_out)))
    return tuple(folds)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
