"""Begins a study in its storage, or finds that it is the same and goes on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from optuna.distributions import check_distribution_compatibility
from optuna.study import StudyDirection

import features.table
from features.table import FeaturesError, FeatureTable, TableRows
from hpo.errors import ConflictError, ObjectiveError, PlainStudyError, SpecError
from hpo.estimators.checks import check_estimator, expected_columns
from hpo.objectives.callbacks import callbacks_of
from hpo.objectives.censored.checks import describe_bounds
from hpo.objectives.cross_validation import CrossValidation
from hpo.objectives.factory import AnyObjective, directions_of, names_of, objective_of
from hpo.objectives.folds import hold_out
from hpo.objectives.told import find_faults
from hpo.plugins import resolve, try_imports
from hpo.spec.estimators import GatedSpec
from hpo.spec.leakage import refuse_leaks
from hpo.spec.loading import canonical, validate, with_trials
from hpo.spec.objectives import CustomObjectiveSpec, ProgramSpec
from hpo.spec.sections import StudySpec
from hpo.spec.space import distributions
from hpo.storage.best import read_directions
from hpo.storage.budget import Budget, BudgetChange
from hpo.storage.deletion import remove_leftovers, unused_study_id
from hpo.storage.events import EventKind
from hpo.storage.schema import DIRECTIONS, METRIC_NAMES, OPTUNA_STUDIES, STUDIES, SYSTEM_ATTRIBUTES
from hpo.storage.storage import StudyStorage
from hpo.study.identity import provenance
from hpo.study.identity.fingerprint import (
    Fingerprint,
    compare,
    compare_origin,
    fingerprint,
    fingerprint_of_spec,
    is_comparable,
)
from hpo.study.identity.trust import identify
from hpo.study.points.checking import check_enqueued, lacking_room
from hpo.study.points.first import FirstPoints, first_points
from hpo.study.record import Source, StudyRecord, StudyRow, find, find_id, find_row, read_table_of
from hpo.study.search import check_search
from hpo.study.told import store_totals
from hpo.wording import count_of

# Rows times features above which a study is not checked before its features are computed, but when
# they are: a stand-in would take as much memory as the table.
MAX_STAND_IN = 20_000_000


def check(spec: StudySpec, source: Source, storage: str) -> list[str]:
    """Refuse a study that `hpo run` would refuse before any trial, in the same words.

    The modules that it names are imported, the rows of its dataset are read, and its objective is
    made, over them and features that stand in for those that the table will have. No feature is
    computed and nothing is written, but for a dataset that has still to be downloaded, and what a
    function or an objective of the study's own writes when it is called.

    What is known only after the features are computed is not refused here: a feature family that
    fails or finds nothing in these rows, a gate that no training row passes, an objective of the
    study's own that does not like the values of its features, or fails in what it computes only
    when it is asked (a property). Nor is what a storage says: whether it holds another study of
    that name.

    Parameters
    ----------
    storage
        The URL of the storage that the study is to be in; opened only to read studies of
        `warm_start` there.

    Returns
    -------
    list
        What is to be said of the estimator, and of the points that are tried first.

    Raises
    ------
    SpecError
        If the study file asks for what there is not, or a module that it names fails.
    ObjectiveError
        If the rows do not allow its folds, or its own objective is not one.
    FeaturesError
        If a source is missing, lacks a column or has no usable row.
    """
    check_declared(spec, source)
    with _naming(source):
        rows = None
        if spec.table is not None:
            rows = features.table.read_rows(
                spec.table, data_dir=_data_dir(source), base_dir=Path(source.file).parent
            )
        objective = _make_sound(spec, None if rows is None else _stand_in(spec, rows))
        fingerprint_of_spec(spec, objective)
        return [*_told_of(objective), *first_points(spec, None, storage).notes]


def _told_of(objective: AnyObjective) -> list[str]:
    """Return what is to be said of the estimator and of how it is fitted."""
    if not isinstance(objective, CrossValidation):
        return []
    bound = objective.bound
    before = [
        f"{line}; impute and scale in [estimator] say it otherwise" for line in bound.put_before
    ]
    notes = [*bound.notes(len(objective.y)), *describe_bounds(objective.bounds, bound)]
    return [*before, *notes, *objective.slowed_by()]


def check_declared(spec: StudySpec, source: Source) -> None:
    """Refuse what is wrong with a study whatever its data are; the first part of `check`.

    Raises
    ------
    SpecError
        If a module that it names ends the process, its estimator is not sound, its sampler or
        pruner cannot work with its space, or a declared column is made from the target.
    """
    with _naming(source):
        _import_named(spec)
        check_search(spec, spec.trials)
        check_enqueued(spec)
        columns = expected_columns(spec)
        if columns:
            assert spec.table is not None  # which declares them
            classifies, n_targets = spec.table.classifies, spec.table.n_targets
            check_estimator(spec, columns, classifies=classifies, n_targets=n_targets)
            refuse_leaks(spec, columns)


def check_first_points(spec: StudySpec, source: Source, storage: StudyStorage) -> FirstPoints:
    """Return what is to be tried first of a study that begins, or goes on, in a storage.

    Raises
    ------
    SpecError
        If that cannot be.
    """
    with _naming(source):
        return first_points(spec, _read_spec(storage, spec.name), storage)


def _import_named(spec: StudySpec) -> None:
    """Import the modules that a study names, in one way for all of them."""
    try_imports(spec.named_modules)
    for what, name in spec.named_modules.items():
        resolve(name, what)
    callbacks_of(spec)


def _make_sound(spec: StudySpec, table: FeatureTable | None) -> AnyObjective:
    """Refuse what is wrong with a study over its table, or one that stands in for it."""
    columns = table.columns if table else ()
    if not expected_columns(spec):
        classifies = table is not None and bool(table.target.classes)
        n_targets = len(table.targets) if table is not None else 1
        check_estimator(spec, columns, classifies=classifies, n_targets=n_targets)
    refuse_leaks(spec, columns)
    objective = objective_of(spec, table)
    if faults := find_faults(objective):
        raise ObjectiveError(f"[objective] {spec.objective.name}: {'; '.join(faults)}")
    return objective


def _stand_in(spec: StudySpec, rows: TableRows) -> FeatureTable:
    """Return a table of these rows; features that are not known are drawn at random."""
    if rows.X is not None:
        return hold_out(spec, rows.with_features(rows.X))
    X = np.random.default_rng(0).normal(size=(len(rows.ids), len(rows.columns)))
    if isinstance(spec.estimator, GatedSpec):
        # Whether a row passes the gate is not known yet: here all do.
        X[:, [column.name in spec.estimator.gate for column in rows.columns]] = 1.0
    return hold_out(spec, rows.with_features(X))


def _data_dir(source: Source) -> Path | None:
    return Path(source.data_dir) if source.data_dir else None


@contextlib.contextmanager
def _naming(source: Source) -> Iterator[None]:
    """Say which study file an error is about."""
    try:
        yield
    except (SpecError, ObjectiveError, FeaturesError) as exc:
        raise type(exc)(f"{source.file}: {exc}") from exc


def build_table(
    spec: StudySpec,
    source: Source,
    tables_dir: Path,
    log: Callable[[str], None],
    stored: Path | None = None,
) -> Path | None:
    """Build the table of a study, or find it built; None if the study has none.

    `stored` is the table of a study that goes on: good enough where the data are not here. What
    `check` refuses of the rows is refused before their features are computed.
    """
    if spec.table is None:
        return None
    with _naming(source):
        _import_named(spec)

    def inspect(rows: TableRows) -> None:
        if len(rows.ids) * len(rows.columns) <= MAX_STAND_IN:
            _make_sound(spec, _stand_in(spec, rows))
            first_points(spec)

    try:
        with _naming(source):
            built = features.table.build(
                spec.table,
                data_dir=_data_dir(source),
                tables_dir=tables_dir,
                base_dir=Path(source.file).parent,
                log=log,
                inspect=inspect,
            )
    except features.table.DatasetError as exc:
        if stored is None or not stored.exists():
            raise
        log(f"the data are not here, the stored table is used ({exc})")
        return stored
    how = "reused" if built.reused else f"built in {built.wall_s:.1f} s"
    log(
        f"table {built.name}: {count_of(built.n_rows, 'row')}, "
        f"{count_of(built.n_features, 'feature')}, {how}"
    )
    if built.skipped or built.partial:
        log(
            f"  {count_of(len(built.skipped), 'row')} skipped, "
            f"{count_of(len(built.partial), 'remark')}; "
            f"see: hpo features show {built.path}"
        )
    return built.path.resolve()


class PreparedStudy(NamedTuple):
    """A study that is sound, and what of it is stored."""

    budget: int
    objective: AnyObjective
    directions: list[StudyDirection]
    value_names: list[str]
    fingerprint: Fingerprint
    row: dict[str, str | None]
    origin: dict[str, Any]


def prepare(
    spec: StudySpec, source: Source, table_path: Path | None, trials: int | None
) -> PreparedStudy:
    """Check a study over its table, and return what of it is stored.

    Raises
    ------
    SpecError, ObjectiveError
        If it is not sound.
    """
    with _naming(source):
        budget = spec.trials if trials is None else with_trials(spec, trials).trials
        check_search(spec, budget)
        table = read_table_of(spec, table_path)
        objective = _make_sound(spec, table)
        current = fingerprint(spec, table, objective)
    row = {
        "spec": canonical(spec),
        "fingerprint": json.dumps(dict(current)),
        "table_path": str(table_path) if table_path else None,
    }
    origin = {
        **provenance.collect(Path(source.file)),
        "code": identify(current),
        "source": vars(source),
    }
    directions = [StudyDirection[one.upper()] for one in directions_of(spec, objective)]
    names = names_of(spec, objective)
    return PreparedStudy(budget, objective, directions, names, current, row, origin)


def insert_row(
    c: sa.Connection, storage: StudyStorage, study_id: int, prepared: PreparedStudy
) -> None:
    """Store what makes a study of Optuna's one of ours."""
    c.execute(
        STUDIES.insert().values(
            study_id=study_id,
            budget=prepared.budget,
            provenance=json.dumps(prepared.origin),
            created_at=storage.now(c),
            **prepared.row,
        )
    )


def begin(
    storage: StudyStorage,
    spec: StudySpec,
    source: Source,
    table_path: Path | None,
    accept: Sequence[str] = (),
    *,
    strict: bool = False,
    trials: int | None = None,
    by_hand: bool = False,
    log: Callable[[str], None] = lambda _: None,
) -> StudyRecord:
    """Begin a study, or go on with the one of that name if it is the same.

    The budget of a study that goes on is changed by `trials`, or by a study file whose own number
    is another one than before, and never to less than what was set by hand.

    Parameters
    ----------
    trials
        The budget that is asked for beside the study file.
    by_hand
        Whether that is set by hand, as by `hpo budget`.
    log
        Receives what becomes of the budget.

    Raises
    ------
    SpecError, ObjectiveError
        If the study is not sound over its table: what `check` refuses, and what only the values of
        features say.
    ConflictError
        If the stored study was begun with something else that is not in `accept`; if `strict`,
        also if the commit, the lock file or Python changed.
    """
    prepared = prepare(spec, source, table_path, trials)
    current, budget, row, origin = (
        prepared.fingerprint,
        prepared.budget,
        prepared.row,
        prepared.origin,
    )
    first = check_first_points(spec, source, storage)
    with storage.write() as c:
        study_id = find_id(c, spec.name)
        if study_id is None:
            study_id = _insert_study(c, spec.name, prepared)
            insert_row(c, storage, study_id, prepared)
        else:
            stored = find_row(c, study_id)
            if stored is None:
                raise PlainStudyError(
                    f"study '{spec.name}' in this storage was made by Optuna alone and has no "
                    "study file; choose another name (--name NEW), or let it go on: hpo adopt"
                )
            before = json.loads(stored.fingerprint)
            changed = compare(spec.name, before, current, accept)
            stored_spec = validate(json.loads(stored.spec), spec.name)
            _check_searchable(spec, stored_spec, prepared, c, study_id)
            if trials is not None or spec.trials != stored_spec.trials:
                typed = by_hand and trials is not None
                change = Budget(storage, study_id, spec.lease_s).ask_budget(
                    c, budget, by_hand=typed
                )
                if line := _describe(change, budget, spec.name):
                    log(line)
            for part in changed:
                told = {} if is_comparable(part, before, current) else {"comparable": False}
                values = {"before": before.get(part, ""), "now": current[part], **told}
                storage.record_event(c, study_id, EventKind.ACCEPTED, part=part, **values)
            _record_resumption(storage, c, stored, spec.name, origin, strict=strict)
            c.execute(STUDIES.update().where(STUDIES.c.study_id == study_id).values(**row))
        enqueued = Budget(storage, study_id, spec.lease_s).enqueue_new(c, first.points)
        store_totals(c, storage, study_id, prepared.objective)
    record = find(storage, spec.name)
    record.ledger.stop(None)
    for line in _told_of(prepared.objective):
        log(line)
    if enqueued:
        log(f"{count_of(len(enqueued), 'point')} enqueued, to be tried first")
        for note in first.notes:
            log(f"  {note}")
        if hint := lacking_room(spec.name, record.ledger.counts()):
            log(f"  {hint}")
    return record


def _read_spec(storage: StudyStorage, name: str) -> StudySpec | None:
    """Return what a study is so far; None if it is not there, or Optuna alone made it."""
    with storage.read() as c:
        study_id = find_id(c, name)
        row = None if study_id is None else find_row(c, study_id)
    return None if row is None else validate(json.loads(row.spec), name)


def _describe(change: BudgetChange, asked: int, name: str) -> str:
    """Return what became of a budget that was asked for; "" if nothing did."""
    if change.after != asked:
        return (
            f"the budget stays {change.after}: a larger one than {asked} was set by hand; lower it "
            f"with: hpo budget {name} {asked}"
        )
    return str(change) if change.before != change.after else ""


def is_same(record: StudyRecord, spec: StudySpec, table_path: Path | None) -> bool:
    """Return whether going on with a stored study would change nothing in it.

    Folds are made from the spec, the table's rows, code and packages: where these are the same,
    folds need not be made to know that they are. Only an objective of the study's own is asked.
    """
    if canonical(spec) != canonical(record.spec) or table_path != record.table_path:
        return False
    table = features.table.read_manifest(table_path)["hash"] if table_path else ""
    own, splits = None, record.fingerprint.get("splits")
    if isinstance(spec.objective, CustomObjectiveSpec | ProgramSpec):
        own = objective_of(spec, read_table_of(spec, table_path))
        splits = own.splits_hash
    now = {"table": table, "splits": splits, **fingerprint_of_spec(spec, own)}
    return now == record.fingerprint


def _record_resumption(
    storage: StudyStorage,
    c: sa.Connection,
    stored: StudyRow,
    name: str,
    origin: Mapping[str, Any],
    *,
    strict: bool,
) -> None:
    before = provenance.facts(json.loads(stored.provenance))
    now = provenance.facts(origin)
    changed = compare_origin(name, before, now, strict=strict)
    diff = origin["git"].get("diff") if "diff" in changed else None  # see HPO_KEEP_DIFF
    storage.record_event(
        c,
        stored.study_id,
        EventKind.RESUMED,
        **now,
        **{key: origin[key] for key in ("command", "user", "code") if key in origin},
        changed=changed,
        **({"difference": diff} if diff else {}),
    )


def _insert_study(c: sa.Connection, name: str, prepared: PreparedStudy) -> int:
    remove_leftovers(c)
    unused = unused_study_id(c)
    given = {} if unused is None else {"study_id": unused}
    inserted = c.execute(OPTUNA_STUDIES.insert().values(study_name=name, **given))
    assert inserted.inserted_primary_key is not None
    study_id = int(inserted.inserted_primary_key[0])
    rows = [{"objective": n, "direction": one} for n, one in enumerate(prepared.directions)]
    c.execute(DIRECTIONS.insert(), [{"study_id": study_id, **row} for row in rows])
    # What Study.set_metric_names stores: figures and the dashboard label the score with it.
    c.execute(
        SYSTEM_ATTRIBUTES.insert().values(
            study_id=study_id,
            key=METRIC_NAMES,
            value_json=json.dumps(prepared.value_names),
        )
    )
    return study_id


def _check_searchable(
    spec: StudySpec, stored: StudySpec, prepared: PreparedStudy, c: sa.Connection, study_id: int
) -> None:
    """Refuse what no acceptance can mend: Optuna cannot hold both in one study."""
    before, now = distributions(stored.space), distributions(spec.space)
    for dimension in before.keys() & now.keys():
        try:
            check_distribution_compatibility(before[dimension], now[dimension])
        except ValueError as exc:
            raise ConflictError(
                f"study '{spec.name}': [space.{dimension}] cannot change its type or its choices "
                f"within a study ({exc}); begin another one (--name NEW)",
                ["space"],
            ) from exc
    directions = read_directions(c, study_id)
    if directions != prepared.directions:
        was, now_is = map(describe_directions, (directions, prepared.directions))
        raise ConflictError(
            f"study '{spec.name}': the objective cannot turn from {was} to {now_is} within a "
            "study; begin another one (--name NEW)",
            ["objective"],
        )


def describe_directions(directions: Sequence[StudyDirection]) -> str:
    """Return directions as a study file has them."""
    return ", ".join(direction.name.lower() for direction in directions)
