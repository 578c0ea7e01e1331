"""A study opened for reading: whether its table and its code are still the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from features.table import FeaturesError, FeatureTable
from hpo.errors import ConflictError, HpoError, TrustError
from hpo.objectives.factory import AnyObjective, objective_of
from hpo.objectives.told import has
from hpo.study.identity.fingerprint import (
    NOT_COMPARABLE,
    PARTS,
    Fingerprint,
    compare,
    fingerprint,
    is_comparable,
    shorten,
    with_own_code,
)
from hpo.study.record import StudyRecord
from hpo.study.told import hand_prepared, key_of


@dataclass(frozen=True)
class StudyContents:
    """What the study is made of, as far as it is still here.

    Attributes
    ----------
    table, objective
        None where they are not what the study was begun with, or cannot be opened; no objective
        before its preparation is at its end.
    differences
        For every part that changed: what it is, before, now.
    problem
        Why something cannot be opened; "" if everything can.
    """

    table: FeatureTable | None = None
    objective: AnyObjective | None = None
    differences: tuple[tuple[str, str, str], ...] = ()
    problem: str = ""

    @property
    def whole(self) -> bool:
        """Whether everything is what the study was begun with."""
        return not self.differences and not self.problem


def open_study(record: StudyRecord) -> StudyContents:
    """Open the table and the objective of a study, or say what is not as it was.

    Raises
    ------
    TrustError
        If another user began the study, and it names code of its own.
    """
    table = None
    try:
        table = record.read_table()
        record.admit_code()
        objective = objective_of(record.spec, table)
        now = fingerprint(record.spec, table, objective)
    except TrustError:
        raise
    except ConflictError as exc:
        # What changed of the study's own code was not imported to find that out.
        folders = (Path(record.source.file).parent, Path.cwd())
        before, now = with_own_code(record.fingerprint, record.spec, folders)
        differences = tuple(_difference(record, part, before, now) for part in exc.changed)
        return StudyContents(_if_same(record, table), differences=differences)
    except (HpoError, FeaturesError) as exc:
        return StudyContents(_if_same(record, table), problem=str(exc))
    except Exception as exc:  # a user's own objective may raise anything
        problem = f"the objective cannot be built: {type(exc).__name__}: {exc}"
        return StudyContents(_if_same(record, table), problem=problem)
    try:
        compare(record.name, record.fingerprint, now)
    except ConflictError as exc:
        before = record.fingerprint
        differences = tuple(_difference(record, part, before, now) for part in exc.changed)
        # What the folds were can still be told where rows and splits are the same.
        folds_changed = not {"table", "splits"}.isdisjoint(exc.changed)
        if folds_changed or has(objective, "prepare"):
            return StudyContents(_if_same(record, table), differences=differences)
        return StudyContents(_if_same(record, table), objective, differences)
    try:
        ready = hand_prepared(objective, record.storage, key_of(record.study_id, now))
    except HpoError as exc:
        return StudyContents(table, problem=str(exc))
    return StudyContents(table, objective if ready else None)


def _difference(
    record: StudyRecord, part: str, before: Fingerprint, now: Fingerprint
) -> tuple[str, str, str]:
    what = f"{part}: {PARTS[part]}"
    if not is_comparable(part, before, now):
        how = f"hpo resume {record.name} --accept {part}"
        what += f" ({NOT_COMPARABLE}; if you only upgraded, accept it: {how})"
    return what, shorten(before.get(part, "")), shorten(now.get(part, ""))


def _if_same(record: StudyRecord, table: FeatureTable | None) -> FeatureTable | None:
    same = table is not None and table.hash == record.fingerprint.get("table")
    return table if same else None
