"""A study that Optuna alone began comes under the ledger, with the trials that it has."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Sequence

import sqlalchemy as sa
from optuna.study import StudyDirection
from optuna.trial import TrialState

from hpo.errors import SpecError, StudyNotFoundError, suggest
from hpo.spec.sections import StudySpec
from hpo.storage.best import read_directions
from hpo.storage.enqueued import adopt_waiting, insert_new_points
from hpo.storage.schema import CLAIMS, METRIC_NAMES, SYSTEM_ATTRIBUTES, TRIALS, unit_row
from hpo.storage.storage import StudyStorage
from hpo.storage.urls import show_url
from hpo.study.creation import describe_directions, insert_row, prepare
from hpo.study.points.first import first_points
from hpo.study.record import Source, StudyRecord, find, find_id, find_row, read_plain_names

_SPENT = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned"}


def adopt(
    storage: StudyStorage, spec: StudySpec, source: Source
) -> tuple[StudyRecord, Counter[TrialState]]:
    """Begin a study of ours over one of Optuna's, whose name it has.

    Trials that are complete or pruned count towards the budget, those that wait are claimed first.
    Failed ones stay what they are. One that is RUNNING is left to whoever runs it.

    Returns
    -------
    tuple
        The study, and how many trials it had in each state.

    Raises
    ------
    StudyNotFoundError
        If Optuna has no such study there.
    SpecError
        If it is one of ours already, or its directions are others.
    """
    prepared = prepare(spec, source, None, None)
    first = first_points(spec, None, storage)
    with storage.write() as c:
        study_id = find_id(c, spec.name)
        if study_id is None:
            hint = suggest(spec.name, read_plain_names(c))
            shown = show_url(storage.engine.url)
            raise StudyNotFoundError(f"{shown} holds no study '{spec.name}'; {hint}")
        if find_row(c, study_id) is not None:
            raise SpecError(f"study '{spec.name}' is one of hpo's already: hpo resume {spec.name}")
        _check_directions(c, study_id, spec.name, prepared.directions)
        rows = _read_trials(c, study_id)
        _label(c, storage, study_id, prepared.value_names)
        insert_row(c, storage, study_id, prepared)
        units = [
            unit_row(study_id, trial_id, number, state=_SPENT[state], attempt=1)
            for trial_id, number, state in rows
            if state in _SPENT
        ]
        if units:
            c.execute(CLAIMS.insert(), units)
        adopt_waiting(c, study_id)
        insert_new_points(c, study_id, first.points)
    return find(storage, spec.name), Counter(state for _, _, state in rows)


def _check_directions(
    c: sa.Connection, study_id: int, name: str, asked: Sequence[StudyDirection]
) -> None:
    stored = read_directions(c, study_id)
    if stored != asked:
        said, is_asked = map(describe_directions, (stored, asked))
        key = f"direction={said}"
        if len(stored) > 1:
            key = f"directions=[{', '.join(repr(one.name.lower()) for one in stored)}]"
        raise SpecError(
            f"study '{name}': its direction is {said}, and {is_asked} is asked for: "
            f"--set {shlex.quote(f'objective.{key}')}"
        )


def _read_trials(c: sa.Connection, study_id: int) -> Sequence[tuple[int, int, TrialState]]:
    query = (
        sa.select(TRIALS.c.trial_id, TRIALS.c.number, TRIALS.c.state)
        .where(TRIALS.c.study_id == study_id)
        .order_by(TRIALS.c.number)
    )
    return [(int(trial_id), int(number), state) for trial_id, number, state in c.execute(query)]


def _label(
    c: sa.Connection, storage: StudyStorage, study_id: int, value_names: Sequence[str]
) -> None:
    """Name the values, where that was not done: it tells our studies from Optuna's."""
    row = {"study_id": study_id, "key": METRIC_NAMES, "value_json": json.dumps(value_names)}
    c.execute(storage.insert_new(SYSTEM_ATTRIBUTES).values(**row))
