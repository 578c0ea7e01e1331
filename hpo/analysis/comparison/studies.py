"""Studies side by side, and beside what was reported of the same experiments elsewhere."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeAlias

from optuna.trial import FrozenTrial

from features.table import FeaturesError, Target
from hpo.analysis.best_model import Evaluation, Predictions, evaluate, foreign_params
from hpo.analysis.comparison.leaderboard import MIN_POINTS, Line, Point, as_dict, fit_line
from hpo.analysis.comparison.reported import External, Reported, ReportedFile
from hpo.analysis.told_trial import totals_of_trial
from hpo.errors import HpoError
from hpo.objectives.metrics import Interval
from hpo.objectives.told import Total
from hpo.storage.best import Front
from hpo.storage.events import EventKind
from hpo.study.integrity import open_study
from hpo.study.plain import PlainStudy
from hpo.study.record import StudyRecord
from hpo.study.snapshot import StudySnapshot, none_is_best, take_snapshot
from hpo.wording import count_of

METRIC_NAMES = ("r2", "rmse", "mae", "spearman")
HEADS = ("R2", "RMSE", "MAE", "rho")


@dataclass(frozen=True)
class Shown:
    """Which scores of studies are shown, for one kind of target.

    Attributes
    ----------
    names, heads
        Of the metrics, and what stands above each.
    intervals
        Those of which an interval on the held-out rows is shown.
    """

    names: tuple[str, ...]
    heads: tuple[str, ...]
    intervals: tuple[str, ...]

    def suits(self, scores: Collection[str]) -> bool:
        """Return whether scores by these names are of this kind of target."""
        return bool({*self.names} & {*scores})


NUMBERS = Shown(METRIC_NAMES, HEADS, ("r2", "spearman"))
# Of numbers some of which are known as intervals.
INTERVALS = Shown(
    (*METRIC_NAMES, "concordance"), (*HEADS, "C index"), ("r2", "spearman", "concordance")
)
CLASSES = Shown(
    ("roc_auc", "average_precision", "log_loss", "balanced_accuracy", "matthews_corrcoef"),
    ("ROC AUC", "AP", "log loss", "bal. acc.", "MCC"),
    ("roc_auc", "balanced_accuracy"),
)
# Studies whose errors are of one kind may stand in one table.
Kind: TypeAlias = tuple[tuple[Target, ...], bool]
AS_IT_IS = "as it is"
# What is shown of variants: the rows, the metric and its name.
_VARIED = (
    ("cv", "r2", "CV R2"),
    ("cv", "spearman", "CV rho"),
    ("test", "r2", "test R2"),
    ("test", "spearman", "test rho"),
)
INTERVALS_NOTE = "95 %: bootstrap intervals on the held-out rows, resampling whole groups"


@dataclass(frozen=True)
class Row:
    """One study of a comparison.

    Attributes
    ----------
    cv, test
        Every metric over the validated rows together, and over the held-out rows; empty where
        there is none.
    test_intervals
        95 % bootstrap intervals of R2 and Spearman on the held-out rows, by resampling "row" and
        "group".
    score
        What the best trial was chosen by.
    scores
        All figures of the best trial by the names that its objective gives them, "score" first;
        empty where there are predictions, and so the usual metrics.
    totals
        What `scores` are called, as far as their objective tells that.
    baseline
        The same figures of the study's baseline; empty if it has none.
    remark
        Why something is missing; "" if nothing is.
    front, directions
        The Pareto front of a study with several objectives, and which of each value are better.
    targets
        What it predicts; empty if it predicts nothing, or its table is not here.
    """

    name: str
    state: str
    n_features: int | None = None
    trial: int | None = None
    score: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    totals: Mapping[str, Total] = field(default_factory=dict)
    baseline: Mapping[str, float] = field(default_factory=dict)
    cv: Mapping[str, float] = field(default_factory=dict)
    n_cv: int | None = None
    test: Mapping[str, float] = field(default_factory=dict)
    n_test: int | None = None
    test_intervals: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    remark: str = ""
    front: Front | None = None
    directions: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()

    @property
    def kind(self) -> Kind:
        """What its errors are of: targets, and whether some are intervals, and errors distances."""
        return self.targets, "concordance" in self.cv

    def of_each_target(self) -> list[Row]:
        """Return the scores of each of several targets, as if there were no other; else none."""
        if len(self.targets) < 2:
            return []
        return [
            replace(
                self,
                targets=(target,),
                cv=of_target(self.cv, target.name),
                test=of_target(self.test, target.name),
                test_intervals={
                    kind: of_target(ends, target.name) for kind, ends in self.test_intervals.items()
                },
            )
            for target in self.targets
        ]


def of_target(by_metric: Mapping[str, Any], target: str) -> dict[str, Any]:
    """Return what is by metrics of one of several targets, by the plain names of these."""
    names = {f"{name}_{target}": name for name in METRIC_NAMES}
    return {names[name]: value for name, value in by_metric.items() if name in names}


# Scores from outside --------------------------------------------------------------------------


@dataclass(frozen=True)
class Outside:
    """Scores from outside against what was searched by.

    Attributes
    ----------
    of
        Whose scores the line was fitted to.
    external, points, line
        What they are, the experiments, and the line through them.
    scores
        Scores of the studies here that the line is applied to.
    """

    of: str
    external: External
    points: tuple[Point, ...]
    line: Line
    scores: Mapping[str, float] = field(default_factory=dict)


def find_outside(files: Sequence[ReportedFile], rows: Sequence[Row]) -> list[Outside]:
    """Return a line through the reported experiments of each file, and one through studies here.

    The latter needs three studies that were measured outside; a file with fewer than three
    experiments of two scores has none of the former.
    """
    found = []
    for file in files:
        scores = {row.name: row.score for row in rows if row.score is not None}
        own = [
            Point(name, score, file.external.measured[name])
            for name, score in scores.items()
            if name in file.external.measured
        ]
        if len(file.points) >= MIN_POINTS:
            line = fit_line(file.points)
            of = "reported experiments"
            found.append(Outside(of, file.external, tuple(file.points), line, scores))
        if len(own) >= MIN_POINTS:
            of = "studies compared here"
            found.append(Outside(of, file.external, tuple(own), fit_line(own), scores))
    return found


def external_of(outside: Sequence[Outside], study: str) -> list[dict[str, Any]]:
    """Return what is known of a study's score outside, for a program, a record per line."""
    told = []
    for found in outside:
        if study in found.scores:
            score = found.scores[study]
            value, interval = found.line.predict(score)
            record = {
                "name": found.external.name,
                "of": found.of,
                "measured": found.external.measured.get(study),
                "predicted": value,
                "interval": interval,
                "ranges_beyond": found.line.beyond(score),
            }
            told.append({**record, "line": as_dict(found.line, found.external.target)})
    return told


# Figures --------------------------------------------------------------------------------------


def compare_study(record: StudyRecord) -> Row:
    """Return what is known of the best trial of a study, without a look at held-out rows.

    Figures on held-out rows are those of the one look that a finished study has had.
    """
    snapshot = take_snapshot(record)
    best = _compare_best(record, snapshot)
    row = replace(
        best,
        front=snapshot.status.front,
        directions=tuple(direction.name.lower() for direction in snapshot.directions),
        targets=_targets(record, best.cv),
    )
    if snapshot.counts.outside and not row.remark:
        return replace(row, remark="the best trial was chosen among all of them")
    return row


def compare_plain(study: PlainStudy) -> Row:
    """Return what is known of a study that Optuna alone made."""
    best = study.best
    return Row(
        study.name,
        count_of(len(study.trials), "trial"),
        trial=None if best is None else best.number,
        score=None if best is None else best.values[0],
        scores={} if best is None else {"score": best.values[0], **totals_of_trial(best)},
        remark="a plain Optuna study: what it scores is not known",
        front=study.front,
        directions=tuple(direction.name.lower() for direction in study.directions),
    )


def _compare_best(record: StudyRecord, snapshot: StudySnapshot) -> Row:
    counts, trial = snapshot.counts, snapshot.best
    state = str(counts)
    if trial is None:
        return Row(record.name, state, remark=none_is_best(counts))
    best, told = trial.number, snapshot.status.told
    baseline = _defined(told.baseline.totals) if told.baseline is not None else {}
    known: dict[str, Any] = {"score": trial.values[0], "baseline": baseline}
    evaluations = [e for e in snapshot.events_of(EventKind.TEST_EVALUATION) if e["trial"] == best]
    if evaluations and counts.done and "cv" in evaluations[-1]:
        return replace(_from_look(record.name, state, evaluations[-1]), **known)
    if _predicts_nothing(record, trial):
        own: dict[str, Any] = {"scores": _defined(totals_of_trial(trial)), "totals": told.totals}
        return Row(record.name, state, trial=best, **own, **known)
    opened = open_study(record)
    if not opened.whole or opened.objective is None:
        changed = ", ".join(part for part, _, _ in opened.differences)
        remark = opened.problem or f"not as it was begun: {changed}"
        return Row(record.name, state, trial=best, remark=remark, **known)
    evaluation = evaluate(snapshot, opened.table, opened.objective, look=bool(evaluations))
    if evaluation is None or opened.table is None:
        foreign = record.spec.validates and foreign_params(snapshot)
        remark = (
            f"the best trial is from outside, with {', '.join(foreign)}"
            if foreign
            else "an objective without predictions"
        )
        return Row(record.name, state, trial=best, remark=remark, **known)
    remark = ""
    if not counts.done:
        remark = "unfinished: the held-out rows wait"
    elif evaluation.withheld:
        remark = f"the held-out rows were left alone: {evaluation.withheld}"
    elif evaluation.test is None:
        remark = "held-out rows not evaluated yet, if there are any"
    row = _from_evaluation(record.name, state, evaluation, opened.table.n_features, remark)
    return replace(row, **known)


def _targets(record: StudyRecord, scores: Mapping[str, float]) -> tuple[Target, ...]:
    """Return what a study predicts, as far as its table, or else the names of scores, tell it."""
    try:
        return record.read_targets()
    except (HpoError, FeaturesError):
        head = "spearman_"
        return tuple(Target(name[len(head) :]) for name in scores if name.startswith(head))


def _predicts_nothing(record: StudyRecord, trial: FrozenTrial) -> bool:
    """Return whether the objective is of the user's own, and no cross-validation of a target."""
    validates = any(name.endswith("_val") for name in trial.user_attrs)
    return not record.spec.validates and not validates


def _defined(totals: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in totals.items() if not math.isnan(value)}


def _from_look(name: str, state: str, look: Mapping[str, Any]) -> Row:
    intervals = {kind: look["intervals"][kind] for kind in ("row", "group")}
    return Row(
        name,
        state,
        n_features=look["n_features"],
        trial=look["trial"],
        cv=look["cv"],
        n_cv=look["n_cv"],
        test=look["scores"],
        n_test=look["n_test"],
        test_intervals=_chosen(intervals),
    )


def _from_evaluation(
    name: str, state: str, evaluation: Evaluation, n_features: int, remark: str
) -> Row:
    test: Predictions | None = evaluation.test
    intervals = {"row": test.row_intervals, "group": test.group_intervals} if test else {}
    return Row(
        name,
        state,
        n_features=n_features,
        trial=evaluation.trial,
        cv=dict(evaluation.cv.scores),
        n_cv=evaluation.cv.n_rows,
        test=dict(test.scores) if test else {},
        n_test=test.n_rows if test else None,
        test_intervals=_chosen(intervals),
        remark=remark,
    )


def _chosen(intervals: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Interval]]:
    kept = (*INTERVALS.intervals, *CLASSES.intervals)
    of_each = tuple(f"{name}_" for name in NUMBERS.intervals)
    return {
        kind: {
            name: (float(low), float(high))
            for name, (low, high) in ends.items()
            if name in kept or name.startswith(of_each)
        }
        for kind, ends in intervals.items()
    }


# Output ---------------------------------------------------------------------------------------


def as_dicts(rows: Sequence[Row], reported: Mapping[str, Reported]) -> list[dict[str, Any]]:
    """Return the comparison for a program: figures, reported ones, and ours minus theirs."""
    return [
        {
            **asdict(row),
            "reported": reported[row.name].model_dump() if row.name in reported else None,
            "difference": _differences(row, reported[row.name]) if row.name in reported else None,
        }
        for row in rows
    ]


def _differences(row: Row, reported: Reported) -> dict[str, dict[str, float | None]]:
    return {
        side: {name: _minus(ours.get(name), getattr(theirs, name)) for name in METRIC_NAMES}
        for side, ours, theirs in (("cv", row.cv, reported.cv), ("test", row.test, reported.test))
    }


def _minus(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or theirs is None else ours - theirs
