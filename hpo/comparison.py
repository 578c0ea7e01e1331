"""Studies side by side, and beside what was reported of the same experiments elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial
from pydantic import BaseModel, ConfigDict

from hpo.errors import SpecError
from hpo.evaluation import TEST_LOOK, Evaluation, Predictions, evaluate
from hpo.external import MIN_POINTS, Line, Point, as_dict, fit_line
from hpo.family import REPORTED_NAME
from hpo.ledger import WALL_KEY
from hpo.metrics import Interval
from hpo.report import open_study
from hpo.spec import CustomObjectiveSpec, read_toml, validate_as
from hpo.study import StudyRecord

METRIC_NAMES = ("r2", "rmse", "mae", "spearman")
HEADS = ("R2", "RMSE", "MAE", "rho")
_INTERVALS = ("r2", "spearman")
AS_IT_IS = "as it is"
# What is shown of variants: the rows, the metric and its name.
_VARIED = (
    ("cv", "r2", "CV R2"),
    ("cv", "spearman", "CV rho"),
    ("test", "r2", "test R2"),
    ("test", "spearman", "test rho"),
)
INTERVALS_NOTE = "95 %: bootstrap intervals on the held-out rows, resampling whole groups"


class _Figures(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    r2: float | None = None
    rmse: float | None = None
    mae: float | None = None
    spearman: float | None = None


class Reported(BaseModel):
    """What a report says of one experiment, and which studies repeat it.

    `scores` has figures by the names that the studies' own objective gives them, "score" being
    what they search by; `external` is a score from outside, such as a leaderboard's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    studies: tuple[str, ...] = ()
    source: str
    n_features: int | None = None
    cv: _Figures = _Figures()
    test: _Figures = _Figures()
    scores: dict[str, float] = {}
    external: float | None = None


class External(BaseModel):
    """Scores from outside: what they are, what is aimed at, and those of studies here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "external score"
    target: float | None = None
    measured: dict[str, float] = {}


class ReportedFile(BaseModel):
    """All that a family's file of reported figures says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    experiment: tuple[Reported, ...]
    external: External = External()

    @property
    def points(self) -> list[Point]:
        """The experiments with both scores."""
        return [
            Point(one.name, one.scores["score"], one.external)
            for one in self.experiment
            if one.external is not None and "score" in one.scores
        ]

    @property
    def by_study(self) -> dict[str, Reported]:
        """The experiments by the names of the studies that repeat them."""
        return {study: one for one in self.experiment for study in one.studies}


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
    remark
        Why something is missing; "" if nothing is.
    """

    name: str
    state: str
    n_features: int | None = None
    trial: int | None = None
    score: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    cv: Mapping[str, float] = field(default_factory=dict)
    n_cv: int | None = None
    test: Mapping[str, float] = field(default_factory=dict)
    n_test: int | None = None
    test_intervals: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    remark: str = ""


def read_reported(path: Path) -> dict[str, Reported]:
    """Read reported figures, by the names of the studies that repeat the experiments.

    Raises
    ------
    SpecError
        If the file cannot be read, or a study stands for two experiments.
    """
    return read_reported_file(path).by_study


def read_reported_file(path: Path) -> ReportedFile:
    """Read a whole file of reported figures.

    Raises
    ------
    SpecError
        If the file cannot be read, or a study stands for two experiments.
    """
    read: ReportedFile = validate_as(ReportedFile, read_toml(path), str(path))
    by_study: dict[str, Reported] = {}
    for experiment in read.experiment:
        for study in experiment.studies:
            if study in by_study:
                raise SpecError(
                    f"{path}: study '{study}' stands for '{by_study[study].name}' and for "
                    f"'{experiment.name}'; name it once"
                )
            by_study[study] = experiment
    return read


def reported_beside(records: Iterable[StudyRecord]) -> list[ReportedFile]:
    """Read the reported figures that lie beside the study files of these studies."""
    folders = dict.fromkeys(Path(record.source.file).parent for record in records)
    files = [folder / REPORTED_NAME for folder in folders]
    return [read_reported_file(file) for file in files if file.is_file()]


def join_reported(files: Sequence[ReportedFile]) -> dict[str, Reported]:
    """Return the experiments of several files by study; the first file that names one counts."""
    return {study: one for file in reversed(files) for study, one in file.by_study.items()}


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
    counts = record.ledger.counts()
    state = f"{counts.finished} of {counts.budget} trials"
    if counts.finished == 0:
        return Row(record.name, state, remark="no trial has finished")
    trial = record.optuna_study().best_trial
    best, score = trial.number, trial.value
    looks = [e for e in record.ledger.events() if e["kind"] == TEST_LOOK and e["trial"] == best]
    if looks and counts.done and "cv" in looks[-1]:
        return replace(_from_look(record.name, state, looks[-1]), score=score)
    if _predicts_nothing(record, trial):
        return Row(record.name, state, trial=best, score=score, scores=_own_scores(trial))
    opened = open_study(record)
    if not opened.whole or opened.objective is None:
        changed = ", ".join(part for part, _, _ in opened.differences)
        remark = opened.problem or f"not as it was begun: {changed}"
        return Row(record.name, state, trial=best, score=score, remark=remark)
    evaluation = evaluate(record, opened.table, opened.objective, look=bool(looks))
    if evaluation is None or opened.table is None:
        remark = "an objective without predictions"
        return Row(record.name, state, trial=best, score=score, remark=remark)
    remark = ""
    if not counts.done:
        remark = "unfinished: the held-out rows wait"
    elif evaluation.test is None:
        remark = "held-out rows not looked at yet, if there are any"
    row = _from_evaluation(record.name, state, evaluation, opened.table.n_features, remark)
    return replace(row, score=score)


def _predicts_nothing(record: StudyRecord, trial: FrozenTrial) -> bool:
    """Return whether the objective is of the user's own, and no cross-validation of a target."""
    validates = any(name.endswith("_val") for name in trial.user_attrs)
    return isinstance(record.spec.objective, CustomObjectiveSpec) and not validates


def _own_scores(trial: FrozenTrial) -> dict[str, float]:
    """Return the figures of a trial that its objective combined, the score first."""
    told = {
        name: float(value)
        for name, value in trial.user_attrs.items()
        if isinstance(value, int | float) and name != WALL_KEY
    }
    return {"score": float(trial.values[0]), **told}


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
        n_cv=len(evaluation.cv.y),
        test=dict(test.scores) if test else {},
        n_test=len(test.y) if test else None,
        test_intervals=_chosen(intervals),
        remark=remark,
    )


def _chosen(intervals: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Interval]]:
    return {
        kind: {
            name: (float(ends[name][0]), float(ends[name][1]))
            for name in _INTERVALS
            if name in ends
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


def table_cells(rows: Sequence[Row], reported: Mapping[str, Reported]) -> list[list[str]]:
    """Return the comparison as a table of texts, heads first: ours, and below it the reported."""
    heads = ["study", "features", *(f"CV {head}" for head in HEADS), "n test"]
    for name, head in zip(METRIC_NAMES, HEADS, strict=True):
        heads += [f"test {head}", "95 %"] if name in _INTERVALS else [f"test {head}"]
    table = [heads]
    for row in rows:
        table.append(_own_cells(row))
        if row.name in reported:
            table.extend(_reported_cells(row, reported[row.name]))
    return table


def score_cells(rows: Sequence[Row], reported: Mapping[str, Reported]) -> list[list[str]]:
    """Return the figures of objectives without predictions as a table of texts, heads first.

    Ours, and below them the reported; empty if there are none.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.scores))
    if not names:
        return []
    table = [["study", *(name.replace("_", " ") for name in names)]]
    for row in rows:
        if not row.scores:
            continue
        table.append([row.name, *(_figure(row.scores.get(name)) for name in names)])
        theirs = reported[row.name].scores if row.name in reported else {}
        if theirs:
            table.append(["  reported", *(_figure(theirs.get(name)) for name in names)])
            gaps = [_minus(row.scores.get(name), theirs.get(name)) for name in names]
            table.append(["  difference", *(_figure(gap, signed=True) for gap in gaps)])
    return table


def lines(rows: Sequence[Row], reported: Mapping[str, Reported]) -> list[str]:
    """Return the comparison as aligned text, and what there is to say about it."""
    others = [row for row in rows if not row.scores]
    text = align(table_cells(others, reported)) if others or not rows else []
    if own := score_cells(rows, reported):
        text += [*([""] if text else []), *align(own)]
    if any(row.test_intervals for row in rows):
        text.append(INTERVALS_NOTE)
    text += [f"{row.name}: {row.state}; {row.remark}" for row in rows if row.remark]
    return text


def variant_cells(rows: Sequence[Row]) -> list[list[str]]:
    """Return variants of studies beside one another, heads first; empty if there are none.

    A line per study and figure, a column per variant; the study itself is "as it is".
    """
    known = {row.name: row for row in rows}
    varied: dict[str, dict[str, Row]] = {}
    for row in rows:
        base, _, variant = row.name.rpartition(".")
        if base in known:
            varied.setdefault(base, {AS_IT_IS: known[base]})[variant] = row
    if not varied:
        return []
    variants = list(dict.fromkeys(variant for of_base in varied.values() for variant in of_base))
    table = [["study", "figure", *variants]]
    for base, of_base in varied.items():
        for side, name, head in _VARIED:
            first = base if (side, name) == _VARIED[0][:2] else ""
            scores = [
                getattr(of_base[variant], side).get(name) if variant in of_base else None
                for variant in variants
            ]
            table.append([first, head, *map(_number, scores)])
    return table


def align(table: Sequence[Sequence[str]]) -> list[str]:
    """Return a table of texts as lines; all columns but the first are aligned to the right."""
    widths = [max(len(cells[i]) for cells in table) for i in range(len(table[0]))]
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in table
    ]


def _own_cells(row: Row) -> list[str]:
    cells = [row.name, _count(row.n_features)]
    cells += [_number(row.cv.get(name)) for name in METRIC_NAMES]
    cells.append(_count(row.n_test))
    for name in METRIC_NAMES:
        cells.append(_number(row.test.get(name)))
        if name in _INTERVALS:
            ends = row.test_intervals.get("group", {}).get(name)
            cells.append(f"{ends[0]:.2f} to {ends[1]:.2f}" if ends else "")
    return cells


def _reported_cells(row: Row, reported: Reported) -> list[list[str]]:
    difference = _differences(row, reported)
    theirs = ["  reported", _count(reported.n_features)]
    ours_less_theirs = ["  difference", ""]
    for side, figures in (("cv", reported.cv), ("test", reported.test)):
        if side == "test":
            theirs.append("")
            ours_less_theirs.append("")
        for name in METRIC_NAMES:
            gap = [""] if side == "test" and name in _INTERVALS else []
            theirs += [_number(getattr(figures, name)), *gap]
            ours_less_theirs += [_number(difference[side][name], signed=True), *gap]
    return [theirs, ours_less_theirs]


def _number(value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return "-"
    return f"{value:+.3f}" if signed else f"{value:.3f}"


def _figure(value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return "-"
    return f"{value:+.4g}" if signed else f"{value:.4g}"


def _count(value: int | None) -> str:
    return "-" if value is None else str(value)
