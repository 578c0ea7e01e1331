"""What an objective has told of a study, as its storage keeps it: totals, preparation, baseline.

These are system attributes of the study. Preparation and baseline belong to what the study is made
of: where table, splits or objective change and that is accepted, both are made anew.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import sqlalchemy as sa

from hpo.objectives.factory import AnyObjective
from hpo.objectives.function import FunctionObjective
from hpo.objectives.scores import SCORE
from hpo.objectives.told import Total, has, set_prepared, totals_of
from hpo.records import WALL_KEY
from hpo.storage.schema import SYSTEM_ATTRIBUTES
from hpo.storage.storage import StudyStorage
from hpo.storage.trial_writer import replace_study_attribute
from hpo.wording import count_of, plain_number

TOTALS_KEY = "hpo:totals"
# What is kept below a key: who works on it and how far it is, and what has come of it.
PREPARATION, PREPARED = "preparation", "prepared"
BASELINE, BASELINE_PARAMS, BASELINE_RESULT = "baseline", "baseline params", "baseline result"
BASELINE_PART = "baseline part "
# In place of the number of a trial, whose limits it has, too.
BASELINE_NUMBER = -1
_MADE_OF = ("table", "splits", "objective")


class Key(NamedTuple):
    """Where what belongs to a study of a certain fingerprint is kept."""

    study_id: int
    made_of: str

    def name(self, what: str) -> str:
        """Return the key of the attribute for something."""
        return f"hpo:{self.made_of}:{what}"


def key_of(study_id: int, fingerprint: Mapping[str, str]) -> Key:
    """Return where preparation and baseline of a study are kept."""
    text = "\n".join(fingerprint.get(part, "") for part in _MADE_OF)
    return Key(study_id, hashlib.sha256(text.encode()).hexdigest()[:12])


@dataclass(frozen=True)
class Work:
    """Work for all of a study that one worker does.

    Attributes
    ----------
    worker
        Who does it, or did it last.
    done, total
        How far it is, in units of its own; both 0 before anything was told.
    began
        How far it was when that worker began.
    attempts
        Attempts in a row without progress, the present one among them.
    """

    worker: str | None = None
    done: float = 0.0
    total: float = 0.0
    began: float = 0.0
    attempts: int = 0


@dataclass(frozen=True)
class Baseline:
    """What trials are compared with.

    Attributes
    ----------
    params
        Its parameters.
    scores
        What its parts come to, `score` among them; empty before all of them are scored.
    n_parts
        How many parts are scored.
    parts
        Their scores; empty where they were not asked for.
    failure
        Why it has no score; "" otherwise.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float | None] = field(default_factory=dict)
    n_parts: int = 0
    parts: tuple[Mapping[str, Any], ...] = ()
    failure: str = ""

    @property
    def score(self) -> float | None:
        """Its score; None before all parts are scored."""
        return self.scores.get(SCORE)

    def as_dict(self) -> dict[str, Any]:
        """Return it for a program, without its parts."""
        return {
            "params": dict(self.params),
            "scores": dict(self.scores),
            "n_parts": self.n_parts,
            "failure": self.failure,
        }

    @property
    def totals(self) -> dict[str, float]:
        """All that it comes to: an undefined value as nan, and no time."""
        return {
            name: math.nan if value is None else value
            for name, value in self.scores.items()
            if name != WALL_KEY
        }


@dataclass(frozen=True)
class Told:
    """All that an objective has told of a study.

    Attributes
    ----------
    totals
        What totals are called.
    preparation
        How far the preparation is; None if none has begun, or it is at its end.
    prepared
        What it returned, as JSON; None before its end, "" where the text was not asked for.
    baseline
        None if none has begun.
    baseline_worker
        Who scores it; None if nobody has begun, or it is scored.
    """

    totals: Mapping[str, Total] = field(default_factory=dict)
    preparation: Work | None = None
    prepared: str | None = None
    baseline: Baseline | None = None
    baseline_worker: str | None = None

    def describe(self) -> str:
        """Return what a line about the study says of it; "" if there is nothing to say."""
        text = ""
        work, baseline = self.preparation, self.baseline
        if work is not None:
            text += f", preparing {work.done:g} of {work.total:g}" if work.total else ", preparing"
        if baseline is not None and baseline.score is not None:
            text += f", baseline {plain_number(baseline.score, '.6g')}"
        elif baseline is not None and not baseline.failure:
            text += f", baseline: {count_of(baseline.n_parts, 'part')} scored"
        return text

    def lines(self, best: Mapping[str, float | None]) -> Iterator[str]:
        """Return a line for each total of the best trial, beside that of the baseline."""
        baseline = self.baseline.totals if self.baseline is not None else {}
        for name, total in self.totals.items():
            if name in best:
                line = f"{total.heading} {total.write(best[name])}"
                yield line + (
                    f", baseline {total.write(baseline[name])}" if name in baseline else ""
                )
        if self.baseline is not None and self.baseline.failure:
            yield f"the baseline has no score: {self.baseline.failure}"


def read_told(c: sa.Connection, key: Key, *, parts: bool = False) -> Told:
    """Return what is stored, within a transaction; all of it with `parts` of the baseline."""
    found = _read(c, key, parts=parts)
    prepared = found.get(key.name(PREPARED))
    work = found.get(key.name(PREPARATION))
    totals = json.loads(found.get(TOTALS_KEY, "{}"))
    return Told(
        totals={name: Total(**total) for name, total in totals.items()},
        preparation=Work(**json.loads(work)) if work is not None and prepared is None else None,
        prepared=prepared,
        baseline=_baseline(c, found, key),
        baseline_worker=_baseline_worker(found, key),
    )


def take_told(storage: StudyStorage, study_id: int, fingerprint: Mapping[str, str]) -> Told:
    """Read what is stored, with the scores of parts of the baseline."""

    def read() -> Told:
        with storage.read() as c:
            return read_told(c, key_of(study_id, fingerprint), parts=True)

    return storage.patiently(read)


def read_text(c: sa.Connection, key: Key, what: str) -> str | None:
    """Return the text of one attribute, within a transaction; None if there is none."""
    table = SYSTEM_ATTRIBUTES
    its = (table.c.study_id == key.study_id, table.c.key == key.name(what))
    found: str | None = c.execute(sa.select(table.c.value_json).where(*its)).scalar_one_or_none()
    return found


def read_prepared(storage: StudyStorage, key: Key) -> str | None:
    """Return what the preparation of a study returned, as JSON; None before its end."""

    def read() -> str | None:
        with storage.read() as c:
            return read_text(c, key, PREPARED)

    return storage.patiently(read)


def hand_prepared(objective: AnyObjective, storage: StudyStorage, key: Key) -> bool:
    """Hand an objective what its preparation returned; False if that has not come to its end.

    Raises
    ------
    ObjectiveError
        If the objective raises anything.
    """
    if not has(objective, "prepare"):
        return True
    prepared = read_prepared(storage, key)
    if prepared is not None:
        set_prepared(objective, prepared)
    return prepared is not None


def _baseline(c: sa.Connection, found: Mapping[str, str], key: Key) -> Baseline | None:
    params, result = found.get(key.name(BASELINE_PARAMS)), found.get(key.name(BASELINE_RESULT))
    if params is None and result is None:
        return None
    table = SYSTEM_ATTRIBUTES
    n_parts = c.execute(
        sa.select(sa.func.count()).where(table.c.study_id == key.study_id, _are_parts(key))
    ).scalar_one()
    parts = (found.get(key.name(part_name(part))) for part in range(n_parts))
    return Baseline(
        params=json.loads(params or "{}"),
        n_parts=n_parts,
        parts=tuple(json.loads(text) for text in parts if text is not None),
        **json.loads(result or "{}"),
    )


def _baseline_worker(found: Mapping[str, str], key: Key) -> str | None:
    work = found.get(key.name(BASELINE))
    if work is None or key.name(BASELINE_RESULT) in found:
        return None
    return Work(**json.loads(work)).worker


def part_name(part: int) -> str:
    """Return what the scores of a part of the baseline are kept as."""
    return f"{BASELINE_PART}{part}"


def store_once(c: sa.Connection, storage: StudyStorage, key: Key, what: str, text: str) -> bool:
    """Store a text, and return True; False if there is one."""
    return replace_study_attribute(c, storage, key.study_id, key.name(what), None, text)


def _read(c: sa.Connection, key: Key, *, parts: bool) -> dict[str, str]:
    table = SYSTEM_ATTRIBUTES
    ours = sa.or_(table.c.key == TOTALS_KEY, table.c.key.startswith(key.name(""), autoescape=True))
    query = sa.select(table.c.key, table.c.value_json).where(table.c.study_id == key.study_id, ours)
    if not parts:
        # Who watches a study asks every second, and what was prepared may be large.
        short = sa.case((table.c.key == key.name(PREPARED), ""), else_=table.c.value_json)
        query = query.with_only_columns(table.c.key, short).where(sa.not_(_are_parts(key)))
    return {row[0]: row[1] for row in c.execute(query)}


def _are_parts(key: Key) -> sa.ColumnElement[bool]:
    return SYSTEM_ATTRIBUTES.c.key.startswith(key.name(BASELINE_PART), autoescape=True)


def store_totals(
    c: sa.Connection, storage: StudyStorage, study_id: int, objective: AnyObjective
) -> None:
    """Store what the totals of an objective are called."""
    if isinstance(objective, FunctionObjective):
        return
    table = SYSTEM_ATTRIBUTES
    its = (table.c.study_id == study_id, table.c.key == TOTALS_KEY)
    before = c.execute(sa.select(table.c.value_json).where(*its)).scalar_one_or_none()
    totals = {name: asdict(total) for name, total in totals_of(objective).items()}
    if totals or before is not None:
        text = json.dumps(totals)
        if text != before:
            replace_study_attribute(c, storage, study_id, TOTALS_KEY, before, text)
