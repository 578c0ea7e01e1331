"""What an objective tells of a trial: totals beside the baseline, paired parts, predicted rows."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from hpo.analysis.best_model import Predictions
from hpo.analysis.bootstrap import bootstrap_intervals, mean_intervals
from hpo.analysis.predictions_csv import COLUMNS
from hpo.objectives.metrics import METRICS, Interval, score_all
from hpo.objectives.scores import SCORE
from hpo.objectives.told import PredictedRows, Total
from hpo.records import WALL_KEY, part_key
from hpo.study.told import Told
from hpo.wording import plain_cell

Parts = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class TotalRow:
    """One total of the best trial and of the baseline; None where it has none."""

    name: str
    total: Total
    best: float | None
    baseline: float | None

    @property
    def difference(self) -> float | None:
        """The best trial's less the baseline's."""
        if self.best is None or self.baseline is None:
            return None
        return self.best - self.baseline


@dataclass(frozen=True)
class PartDifference:
    """The mean over parts of what two trials score on the same parts.

    Attributes
    ----------
    name
        What is scored.
    ours, theirs, difference
        Means, and the mean of our scores less theirs.
    interval
        95 % percentile interval of the difference, resampling parts.
    """

    name: str
    ours: float
    theirs: float
    difference: float
    interval: Interval
    n_parts: int


def parts_of(trial: FrozenTrial) -> list[Mapping[str, Any]]:
    """Return the stored scores of a trial's parts; empty for one without parts."""
    parts: list[Mapping[str, Any]] = []
    while (key := part_key(len(parts))) in trial.user_attrs:
        parts.append(trial.user_attrs[key])
    return parts


def totals_of_trial(trial: FrozenTrial) -> dict[str, float]:
    """Return the figures that a trial keeps beside its parts, and its score if it has one."""
    told = {
        name: math.nan if value is None else float(value)
        for name, value in trial.user_attrs.items()
        if name != WALL_KEY and (value is None or isinstance(value, int | float))
    }
    scores = trial.values or []
    return {SCORE: float(scores[0]), **told} if len(scores) == 1 else told


def total_rows(best: FrozenTrial, told: Told, score_name: str) -> list[TotalRow]:
    """Return the score, totals that have a name, and then the others that both may have."""
    ours = totals_of_trial(best)
    theirs = told.baseline.totals if told.baseline is not None else {}
    known: dict[str, Total] = {SCORE: Total(score_name), **told.totals}
    names = dict.fromkeys([*known, *ours, *theirs])
    return [
        TotalRow(
            name, known.get(name) or Total(name.replace("_", " ")), ours.get(name), theirs.get(name)
        )
        for name in names
        if name in ours or name in theirs
    ]


def part_differences(ours: Parts, theirs: Parts, repeats: float = 1.0) -> list[PartDifference]:
    """Return the paired differences of two trials over their parts, by score, `score` first.

    Others are left out where both have the same in every part. Empty if the trials have not the
    same number of parts, or fewer than two. Where `repeats` parts in the mean are of the same rows,
    intervals are those of so many times fewer parts.
    """
    if len(ours) != len(theirs) or len(ours) < 2:
        return []
    names = [
        name
        for name in dict.fromkeys([SCORE, *ours[0]])
        if name != WALL_KEY
        and all(isinstance(part.get(name), int | float) for part in (*ours, *theirs))
    ]
    if not names:
        return []
    a, b = (
        np.array([[part[name] for name in names] for part in parts], dtype=np.float64)
        for parts in (ours, theirs)
    )
    widened = math.sqrt(repeats)
    intervals = [
        (mean + widened * (low - mean), mean + widened * (high - mean))
        for mean, (low, high) in zip((a - b).mean(axis=0), mean_intervals(a - b), strict=True)
    ]
    return [
        PartDifference(
            name,
            float(a[:, k].mean()),
            float(b[:, k].mean()),
            float((a - b)[:, k].mean()),
            intervals[k],
            len(ours),
        )
        for k, name in enumerate(names)
        if name == SCORE or not np.array_equal(a[:, k], b[:, k])
    ]


def by_target(rows: PredictedRows, part_names: Sequence[str]) -> dict[str, Predictions]:
    """Return predicted rows as those of cross-validation, by target; parts are their groups."""
    parts = np.array(rows.parts, dtype=np.int64)
    groups = np.array([part_names[part] for part in parts], dtype=np.str_)
    found = {}
    for k, target in enumerate(rows.targets):
        y, predicted = rows.observed[:, k], rows.predicted[:, k]
        found[target] = Predictions(
            ids=np.array(rows.ids, dtype=np.str_),
            y=y,
            predicted=predicted,
            groups=groups,
            fold=parts,
            scores=score_all(y, predicted, METRICS),
            row_intervals=bootstrap_intervals(y, predicted),
            group_intervals=bootstrap_intervals(y, predicted, groups),
        )
    return found


def told_csv(predicted: Mapping[str, Predictions]) -> str:
    """Return predicted rows as predictions.csv has them, with a column `target` if it has several.

    Numbers are in full precision.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    several = len(predicted) > 1
    writer.writerow((*COLUMNS[:4], "target", *COLUMNS[4:]) if several else COLUMNS)
    for target, rows in predicted.items():
        columns = (rows.ids.tolist(), rows.groups.tolist(), rows.fold, rows.y, rows.predicted)
        for row_id, group, fold, actual, guess in zip(*columns, strict=True):
            named = (plain_cell(target),) if several else ()
            texts = (plain_cell(row_id), plain_cell(group))
            writer.writerow(("cv", *texts, int(fold), *named, float(actual), float(guess)))
    return text.getvalue()
