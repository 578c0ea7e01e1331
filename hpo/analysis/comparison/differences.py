"""Differences between studies, from the predictions that lie beside their reports."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.analysis.best_model import Predictions
from hpo.analysis.bootstrap import Difference, paired_differences
from hpo.analysis.comparison.studies import NUMBERS, Row, Shown, of_target
from hpo.analysis.predictions_csv import PREDICTIONS_NAME, read_predictions
from hpo.errors import HpoError

TOLERANCE = 1e-9
SET_NAMES = {"cv": "CV", "test": "test"}

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ScoredStudy:
    """One study of a comparison, with its predictions.

    Attributes
    ----------
    row
        Its scores.
    rows
        Predictions of "cv" and "test", as far as they are known to be those of the scores.
    remark
        Why predictions are missing; "" if they are not.
    """

    row: Row
    rows: Mapping[str, Predictions] = field(default_factory=dict)
    remark: str = ""

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.row.name

    @property
    def predicts_value(self) -> bool:
        """Whether it predicts one value itself rather than several, a quantile or a rank."""
        if "cv" not in self.rows or self.rows["cv"].targets:
            return False
        return "rmse" in self.row.cv and "pinball" not in self.row.cv

    def each_target(self) -> list[ScoredStudy]:
        """Return it for each of its targets, as if there were no other."""
        return [
            replace(self, row=row, rows={of: rows.of_target(k) for of, rows in self.rows.items()})
            for k, row in enumerate(self.row.of_each_target())
        ] or [self]


@dataclass(frozen=True)
class Pair:
    """A study's scores less those of another, on rows that both predict.

    Attributes
    ----------
    name, against, of
        The study, the one that it is compared with, and which rows: "cv" or "test".
    n_rows
        Number of rows.
    metrics
        Differences by metric; empty if there are none.
    remark
        Why there are none; "" if there are.
    """

    name: str
    against: str
    of: str
    n_rows: int = 0
    metrics: Mapping[str, Difference] = field(default_factory=dict)
    remark: str = ""

    def of_target(self, target: str) -> Pair:
        """Return the differences of one of several targets."""
        return replace(self, metrics=of_target(self.metrics, target))


# Predictions ----------------------------------------------------------------------------------


def read_study(row: Row, folder: Path) -> ScoredStudy:
    """Return a study with the predictions in its report's folder, if they give its scores."""
    if not row.cv:
        return ScoredStudy(row)
    path = folder / PREDICTIONS_NAME
    again = f"write it again: hpo report {row.name}"
    if not path.is_file():
        return ScoredStudy(row, remark=f"no {PREDICTIONS_NAME} in {path.parent}; {again}")
    try:
        rows = read_predictions(path, recorded=row.cv)
    except HpoError as exc:
        return ScoredStudy(row, remark=f"{exc}; {again}")
    for name, recorded in (("cv", row.cv), ("test", row.test)):
        found = rows[name].scores if name in rows else {}
        if bool(recorded) != bool(found) or not _agree(found, recorded):
            text = f"{path} does not give the {SET_NAMES[name]} scores that the study recorded"
            return ScoredStudy(row, remark=f"{text}; {again}")
    return ScoredStudy(row, rows)


def _agree(found: Mapping[str, float], recorded: Mapping[str, Any]) -> bool:
    pairs = [(value, recorded.get(name)) for name, value in found.items()]
    return all(
        math.isnan(value)
        if then is None or math.isnan(then)
        else math.isclose(value, then, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
        for value, then in pairs
    )


# Pairs ----------------------------------------------------------------------------------------


def find_differences(studies: Sequence[ScoredStudy], against: str) -> list[Pair]:
    """Return the differences of all studies to one of them, first by study, then by rows.

    Raises
    ------
    HpoError
        If that one is not among them.
    """
    named = {study.name: study for study in studies}
    if against not in named:
        raise HpoError(
            f"--against {against}: is not among the studies that are compared: {', '.join(named)}"
        )
    reference = named[against]
    others = [study for study in studies if study.name != against]
    found = {
        (pair.name, pair.of): pair for of in SET_NAMES for pair in _pairs_of(reference, others, of)
    }
    return [found[study.name, of] for study in others for of in SET_NAMES]


def _pairs_of(reference: ScoredStudy, others: Iterable[ScoredStudy], of: str) -> Iterable[Pair]:
    """Yield the pairs on one set of rows; studies that share them are resampled together."""
    together: dict[bytes, list[tuple[ScoredStudy, Ints, Ints]]] = {}
    for study in others:
        try:
            mine, theirs = _align(reference, study, of)
        except _UnpairedError as exc:
            yield Pair(study.name, reference.name, of, remark=str(exc))
            continue
        together.setdefault(mine.tobytes(), []).append((study, mine, theirs))
    for members in together.values():
        rows, mine = reference.rows[of], members[0][1]
        predicted = [study.rows[of].predicted[theirs] for study, _, theirs in members]
        found = _compare(rows, mine, predicted)
        for (study, _, _), differences in zip(members, found, strict=True):
            both = reference.rows[of].scores.keys() & study.rows[of].scores.keys()
            kept = {name: found for name, found in differences.items() if name in both}
            n_rows = len(np.unique(rows.ids[mine]))
            yield Pair(study.name, reference.name, of, n_rows, kept)


def _compare(
    rows: Predictions, mine: Ints, others: Sequence[NDArray[np.float64]]
) -> list[dict[str, Difference]]:
    """Return the differences of other predictions of some rows to these, by metric.

    Of several targets they are of each target, by names such as `r2_a`.
    """
    ids = None if rows.shared_ids is None else rows.ids[mine]
    y, predicted, groups = rows.y[mine], rows.predicted[mine], rows.groups[mine]
    if not rows.targets:
        return paired_differences(rows.truth[mine], predicted, others, groups, ids)
    found: list[dict[str, Difference]] = [{} for _ in others]
    for k, target in enumerate(rows.targets):
        of_target = paired_differences(
            y[:, k], predicted[:, k], [other[:, k] for other in others], groups, ids
        )
        for whole, one in zip(found, of_target, strict=True):
            whole |= {f"{name}_{target}": difference for name, difference in one.items()}
    return found


class _UnpairedError(Exception):
    """Why two studies have no rows to be compared on."""


def _align(reference: ScoredStudy, study: ScoredStudy, of: str) -> tuple[Ints, Ints]:
    """Return the positions of the rows that both predict, in the reference's order.

    Of a row that is predicted several times, the first time of one study goes with that of the
    other, and so on, as far as both have one.
    """
    for one in (study, reference):
        if of not in one.rows:
            missing = one.remark or one.row.remark or "there are none"
            raise _UnpairedError(f"no {SET_NAMES[of]} predictions of {one.name}: {missing}")
    mine, theirs = reference.rows[of], study.rows[of]
    if mine.classes != theirs.classes:
        raise _UnpairedError(f"another kind of target than {reference.name}, or other classes")
    if mine.targets != theirs.targets:
        raise _UnpairedError(f"other targets than {reference.name}")
    place = {key: position for position, key in enumerate(_numbered(theirs.ids.tolist()))}
    shared = [(k, place[i]) for k, i in enumerate(_numbered(mine.ids.tolist())) if i in place]
    if of == "test" and not len(shared) == len(mine.ids) == len(theirs.ids):
        raise _UnpairedError(f"other held-out rows than {reference.name}")
    if len(shared) < 2:
        raise _UnpairedError(f"no rows that {reference.name} validates, too")
    first, second = np.array(shared, dtype=np.int64).T
    if not np.array_equal(mine.ends[first], theirs.ends[second]):
        raise _UnpairedError(f"other measured values than {reference.name} for the same rows")
    return first, second


def _numbered(ids: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield every id with how often it was there before."""
    seen: Counter[str] = Counter()
    for row_id in ids:
        yield row_id, seen[row_id]
        seen[row_id] += 1


# Output ---------------------------------------------------------------------------------------


def join_dicts(rows: list[dict[str, Any]], pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Return the studies of a comparison for a program, with their differences as "paired"."""
    found: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        found.setdefault(pair.name, {})[pair.of] = _as_dict(pair)
    return [{**row, "paired": found.get(row["name"])} for row in rows]


def _as_dict(pair: Pair) -> dict[str, Any]:
    """Return a pair for a program."""
    return {
        "against": pair.against,
        "n_rows": pair.n_rows,
        "remark": pair.remark,
        **{name: asdict(found) for name, found in pair.metrics.items()},
    }


def difference_cells(pairs: Sequence[Pair], shown: Shown = NUMBERS) -> list[list[str]]:
    """Return the differences as a table of texts, heads first: a line by row and one by group.

    Those of one kind of scores; heads alone if there are none.
    """
    heads = ["study", "set", "rows", "resampled"]
    for head in shown.heads:
        heads += [head, "95 %"]
    table = [heads]
    for pair in pairs:
        for kind in ("row", "group") if shown.suits(pair.metrics) else ():
            first = kind == "row"
            cells = [pair.name, SET_NAMES[pair.of], str(pair.n_rows)] if first else [""] * 3
            cells.append(f"by {kind}")
            for name in shown.names:
                found = pair.metrics.get(name)
                value = f"{found.value:+.3f}" if found and first else "" if found else "-"
                cells += [value, _ends(getattr(found, kind)) if found else ""]
            table.append(cells)
    return table


def _ends(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.3f} to {ends[1]:.3f}"


def remarks(studies: Sequence[ScoredStudy], pairs: Sequence[Pair]) -> list[str]:
    """Return what there is to say of predictions and differences that are missing, once each."""
    of_study = [f"{study.name}: {study.remark}" for study in studies if study.remark]
    silent = {study.name for study in studies if not study.rows}
    of_pair = [
        f"{pair.name}, {SET_NAMES[pair.of]}: {pair.remark}"
        for pair in pairs
        if pair.remark and not {pair.name, pair.against} & silent
    ]
    return [*of_study, *of_pair]
