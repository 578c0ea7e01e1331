"""The best trials of another study, also of one that Optuna alone made, as points to begin with."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from optuna.distributions import BaseDistribution

from hpo.errors import SpecError, StorageError, suggest
from hpo.records import Access
from hpo.spec.objectives import FunctionSpec
from hpo.spec.search import WarmStartSpec
from hpo.spec.sections import StudySpec
from hpo.spec.space import distributions
from hpo.storage.backends import open_storage
from hpo.storage.best import read_best_trials
from hpo.storage.storage import StudyStorage
from hpo.storage.trial_reader import read_params, trials_among
from hpo.storage.urls import parse_url, show_url
from hpo.study.points.checking import check_value
from hpo.study.record import find_id, read_names, read_plain_names
from hpo.wording import count_of

# Of each point that is wanted so many trials are read: many of the best may be the same point.
_READ_PER_POINT = 20


class WarmPoints(NamedTuple):
    """Points of another study, best first, and what is to be said of them."""

    points: list[dict[str, Any]]
    notes: list[str]


def read_warm_points(
    spec: StudySpec, entry: WarmStartSpec, storage: StudyStorage | str
) -> WarmPoints:
    """Return the best points of another study, as far as they are within the space of this one.

    Nothing of the other study is changed. Of a study whose function draws by itself, nobody knows
    the space yet: its points have every parameter that the others had.

    Parameters
    ----------
    storage
        That of the study itself, or its URL, for another study without a storage of its own.

    Raises
    ------
    SpecError
        If there is no such storage or study, if none of its trials has finished or it has several
        objectives, or if it has no parameter, or no value, that is in [space].
    """
    where = f"warm_start '{entry.study}'"
    with _reading(entry, storage, where) as opened, opened.read() as c:
        study_id = find_id(c, entry.name)
        if study_id is None:
            hint = suggest(entry.name, [*read_names(c), *read_plain_names(c)])
            shown = show_url(opened.engine.url)
            raise SpecError(f"{where}: {shown} holds no study '{entry.name}'; {hint}")
        best = read_best_trials(c, study_id, _READ_PER_POINT * entry.trials)
        drawn = read_params(c, study_id, trials_among(best))
    if not best:
        raise SpecError(f"{where}: none of its trials has finished")
    return _choose(spec, entry, [drawn[trial_id].params for trial_id in best], where)


@contextlib.contextmanager
def _reading(
    entry: WarmStartSpec, storage: StudyStorage | str, where: str
) -> Iterator[StudyStorage]:
    """Open the other study's storage to be read, unless it is open: a file is not opened twice."""
    if isinstance(storage, StudyStorage) and _is_same(entry.storage, storage):
        yield storage
        return
    own = storage if isinstance(storage, str) else ""
    try:
        opened = open_storage(entry.storage or own, Access.READ)
    except StorageError as exc:
        raise SpecError(f"{where}: {exc}") from exc
    try:
        yield opened
    finally:
        opened.engine.dispose()


def _is_same(url: str, storage: StudyStorage) -> bool:
    if not url:
        return True
    given, own = parse_url(url), storage.engine.url
    files = [one.database for one in (given, own) if one.get_backend_name() == "sqlite"]
    return len(files) == 2 and len({Path(file or "").resolve() for file in files}) == 1


def _choose(
    spec: StudySpec, entry: WarmStartSpec, found: list[dict[str, Any]], where: str
) -> WarmPoints:
    """Return so many different points as are wanted, of what is within the space."""
    free = isinstance(spec.objective, FunctionSpec)
    space = distributions(spec.space)
    points: dict[str, dict[str, Any]] = {}
    outside: Counter[str] = Counter()
    for params in found:
        if len(points) == entry.trials:
            break
        point, left_out = _within(params, None if free else space, where)
        key = json.dumps(point, sort_keys=True)
        if point and key not in points:
            points[key] = point
            outside.update(left_out)
    theirs = sorted({name for params in found for name in params})
    if not points:
        raise SpecError(
            f"{where}: none of its parameters ({', '.join(theirs) or 'it has none'}) has a value "
            f"that is in [space] ({', '.join(space) or 'which is empty'})"
        )
    notes = [f"{where}: {count_of(len(points), 'point')}"]
    unknown = [] if free else [name for name in theirs if name not in space]
    if unknown:
        notes.append(f"{where}: left out, as not in [space]: {', '.join(unknown)}")
    notes += [
        f"{where}: {name} is drawn in {count_of(number, 'point')}, as it was outside of [space]"
        for name, number in outside.items()
    ]
    return WarmPoints([*points.values()], notes)


def _within(
    params: Mapping[str, Any], space: Mapping[str, BaseDistribution] | None, where: str
) -> tuple[dict[str, Any], list[str]]:
    """Return what of a trial's parameters a point can have, and which values are outside."""
    point, outside = {}, []
    for name, value in params.items():
        if space is not None and name not in space:
            continue
        try:
            if not isinstance(value, bool | int | float | str):
                raise SpecError("no value that a point can have")
            point[name] = value if space is None else check_value(name, value, space, where)
        except SpecError:
            outside.append(name)
    return point, outside
