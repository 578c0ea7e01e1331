"""Differences between studies of objectives of their own, paired over the parts of best trials.

Two studies have the same parts where their data were divided alike, and a preparation, if there was
one, came to the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hpo.analysis.comparison.studies import Row
from hpo.analysis.told_trial import PartDifference, part_differences, parts_of
from hpo.study.record import StudyRecord
from hpo.study.snapshot import best_trial
from hpo.study.told import take_told


@dataclass(frozen=True)
class PartPair:
    """A study's best trial less that of another one, over parts that both have scored.

    Attributes
    ----------
    scores
        Differences by score; empty if there are none.
    remark
        Why there are none; "" if there are.
    """

    name: str
    against: str
    scores: tuple[PartDifference, ...] = ()
    remark: str = ""


@dataclass(frozen=True)
class _Scored:
    """The parts of a study's best trial, and what they are."""

    parts: Sequence[Mapping[str, Any]]
    division: tuple[str, str | None]


def pair_parts(records: Sequence[StudyRecord], rows: Sequence[Row], against: str) -> list[PartPair]:
    """Return the differences of studies that tell no predictions to one of them.

    Empty if that one has none of its own scores.
    """
    own = {row.name for row in rows if row.scores} & {record.name for record in records}
    if against not in own:
        return []
    scored = {record.name: _read(record) for record in records if record.name in own}
    theirs = scored[against]
    pairs = []
    for name, ours in scored.items():
        if name == against or not ours.parts or not theirs.parts:
            continue
        found = part_differences(ours.parts, theirs.parts)
        if ours.division != theirs.division or not found:
            pairs.append(PartPair(name, against, remark=f"other parts than {against}"))
        else:
            pairs.append(PartPair(name, against, tuple(found)))
    return pairs


def _read(record: StudyRecord) -> _Scored:
    told = take_told(record.storage, record.study_id, record.fingerprint)
    division = record.fingerprint.get("splits", ""), told.prepared
    return _Scored(parts_of(best_trial(record)), division)


def join_parts(rows: list[dict[str, Any]], pairs: Sequence[PartPair]) -> list[dict[str, Any]]:
    """Return the studies of a comparison for a program, with these differences as "parts"."""
    found = {pair.name: asdict(pair) for pair in pairs}
    return [{**row, "parts": found.get(row["name"])} for row in rows]


def part_cells(pairs: Sequence[PartPair]) -> list[list[str]]:
    """Return the differences as a table of texts, heads first; empty if there are none."""
    table = [["study", "parts", "scored by part", "difference", "95 %"]]
    for pair in pairs:
        for k, one in enumerate(pair.scores):
            low, high = one.interval
            first = [pair.name, str(one.n_parts)] if not k else ["", ""]
            difference = f"{one.difference:+.4g}"
            table.append([*first, one.name, difference, f"{low:.4g} to {high:.4g}"])
    return table if len(table) > 1 else []


def part_remarks(pairs: Sequence[PartPair]) -> list[str]:
    """Return why studies have no differences over parts."""
    return [f"{pair.name}: {pair.remark}" for pair in pairs if pair.remark]
