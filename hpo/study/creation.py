"""Begins a study in its storage, or finds that it is the same and goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from optuna.study import StudyDirection

import features.table
from hpo.errors import ConflictError, PlainStudyError
from hpo.objectives.factory import make_objective
from hpo.objectives.protocol import Objective
from hpo.plugins import make_importable
from hpo.spec.leakage import refuse_leaks
from hpo.spec.loading import canonical, validate
from hpo.spec.sections import CustomObjectiveSpec, StudySpec
from hpo.storage.events import EventKind
from hpo.storage.schema import DIRECTIONS, OPTUNA_STUDIES, STUDIES, SYSTEM_ATTRIBUTES
from hpo.storage.storage import StudyStorage
from hpo.study import provenance
from hpo.study.fingerprint import compare, compare_origin, fingerprint, fingerprint_of_spec
from hpo.study.record import Source, StudyRecord, StudyRow, find, find_id, find_row, read_table_of
from hpo.wording import count_of


def build_table(
    spec: StudySpec,
    source: Source,
    tables_dir: Path,
    log: Callable[[str], None],
    stored: Path | None = None,
) -> Path | None:
    """Build the table of a study, or find it built; None if the study has none.

    `stored` is the table of a study that goes on: good enough where the data are not here.
    """
    if spec.table is None:
        return None
    make_importable(Path(source.file))
    try:
        built = features.table.build(
            spec.table,
            data_dir=Path(source.data_dir) if source.data_dir else None,
            tables_dir=tables_dir,
            base_dir=Path(source.file).parent,
            log=log,
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


def begin(
    storage: StudyStorage,
    spec: StudySpec,
    source: Source,
    table_path: Path | None,
    accept: Sequence[str] = (),
    *,
    strict: bool = False,
) -> StudyRecord:
    """Begin a study, or go on with the one of that name if it is the same.

    Raises
    ------
    SpecError
        If a column is made from the target and the study file does not say that it is meant.
    ConflictError
        If the stored study was begun with something else that is not in `accept`; if `strict`,
        also if the commit, the lock file or Python changed.
    """
    make_importable(Path(source.file))
    table = read_table_of(spec, table_path)
    refuse_leaks(spec, table.columns if table else (), source.file)
    objective = make_objective(spec, table)
    current = fingerprint(spec, table, objective)
    row = {
        "spec": canonical(spec),
        "fingerprint": json.dumps(dict(current)),
        "table_path": str(table_path) if table_path else None,
    }
    origin = {**provenance.collect(), "source": vars(source)}
    with storage.write() as c:
        study_id = find_id(c, spec.name)
        if study_id is None:
            study_id = _insert_study(c, spec.name, objective)
            c.execute(
                STUDIES.insert().values(
                    study_id=study_id,
                    budget=spec.trials,
                    provenance=json.dumps(origin),
                    created_at=storage.now(c),
                    **row,
                )
            )
        else:
            stored = find_row(c, study_id)
            if stored is None:
                raise PlainStudyError(
                    f"study '{spec.name}' in this storage was made by Optuna alone and has no "
                    "study file; choose another name (--name NEW)"
                )
            before = json.loads(stored.fingerprint)
            changed = compare(spec.name, before, current, accept)
            _check_searchable(spec, validate(json.loads(stored.spec), spec.name), objective, c)
            for part in changed:
                storage.record_event(
                    c,
                    study_id,
                    EventKind.ACCEPTED,
                    part=part,
                    before=before[part],
                    now=current[part],
                )
            _record_resumption(storage, c, stored, spec.name, origin, strict=strict)
            c.execute(STUDIES.update().where(STUDIES.c.study_id == study_id).values(**row))
    record = find(storage, spec.name)
    record.ledger.set_budget(spec.trials)
    record.ledger.stop(None)
    return record


def is_same(record: StudyRecord, spec: StudySpec, table_path: Path | None) -> bool:
    """Return whether going on with a stored study would change nothing in it.

    Folds are made from the spec, the table's rows, code and packages: where these are the same,
    folds need not be made to know that they are. Only an objective of the study's own is asked.
    """
    if canonical(spec) != canonical(record.spec) or table_path != record.table_path:
        return False
    table = features.table.read_manifest(table_path)["hash"] if table_path else ""
    own, splits = None, record.fingerprint.get("splits")
    if isinstance(spec.objective, CustomObjectiveSpec):
        own = make_objective(spec, read_table_of(spec, table_path))
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
    diff = origin["git"].get("diff") if "diff" in changed else None
    storage.record_event(
        c,
        stored.study_id,
        EventKind.RESUMED,
        **now,
        command=origin["command"],
        changed=changed,
        **({"difference": diff} if diff else {}),
    )


def _insert_study(c: sa.Connection, name: str, objective: Objective) -> int:
    inserted = c.execute(OPTUNA_STUDIES.insert().values(study_name=name))
    assert inserted.inserted_primary_key is not None
    study_id = int(inserted.inserted_primary_key[0])
    direction = StudyDirection[objective.direction.upper()]
    c.execute(DIRECTIONS.insert().values(study_id=study_id, direction=direction, objective=0))
    # What Study.set_metric_names stores: figures and the dashboard label the score with it.
    c.execute(
        SYSTEM_ATTRIBUTES.insert().values(
            study_id=study_id,
            key="study:metric_names",
            value_json=json.dumps([objective.score_name]),
        )
    )
    return study_id


def _check_searchable(
    spec: StudySpec, stored: StudySpec, objective: Objective, c: sa.Connection
) -> None:
    """Refuse what no acceptance can mend: Optuna cannot hold both in one study."""
    from optuna.distributions import check_distribution_compatibility

    from hpo.spec.space import distributions

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
    query = sa.select(DIRECTIONS.c.direction).join(
        OPTUNA_STUDIES, OPTUNA_STUDIES.c.study_id == DIRECTIONS.c.study_id
    )
    direction = c.execute(query.where(OPTUNA_STUDIES.c.study_name == spec.name)).scalar_one()
    if direction != StudyDirection[objective.direction.upper()]:
        raise ConflictError(
            f"study '{spec.name}': the objective cannot turn from {direction.name.lower()} to "
            f"{objective.direction} within a study; begin another one (--name NEW)",
            ["objective"],
        )
