"""A study in its storage: begun once, found again by name, continued only if it is the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.storages._rdb import models
from optuna.study import StudyDirection

import features.table
from features.table import FeatureTable, Target
from hpo import provenance
from hpo.errors import ConflictError, HpoError, StudyNotFoundError, suggest
from hpo.fingerprint import (
    Fingerprint,
    compare,
    compare_origin,
    fingerprint,
    fingerprint_of_spec,
    is_comparable,
)
from hpo.folds import hold_out
from hpo.leaks import refuse_leaks
from hpo.ledger import OPTUNA_STUDIES, Ledger
from hpo.objective import Objective, make_objective
from hpo.plugins import make_importable
from hpo.spec import CustomObjectiveSpec, StudySpec, canonical, load, validate
from hpo.storage import STUDIES, StudyStorage

SYSTEM_ATTRIBUTES: sa.Table = models.StudySystemAttributeModel.__table__
DIRECTIONS: sa.Table = models.StudyDirectionModel.__table__


@dataclass(frozen=True)
class Source:
    """Where a study's spec came from, so that `hpo resume` can look whether it changed."""

    file: str
    overrides: tuple[str, ...]
    data_dir: str | None

    def load(self) -> StudySpec | None:
        """Read the study file again; None if it is not there any more."""
        path = Path(self.file)
        return load(path, self.overrides) if path.is_file() else None


@dataclass(frozen=True)
class StudyRecord:
    """A study as its storage knows it."""

    storage: StudyStorage
    study_id: int
    name: str
    spec: StudySpec
    fingerprint: Fingerprint
    table_path: Path | None
    source: Source
    provenance: Mapping[str, Any]
    created_at: float

    @property
    def uid(self) -> str:
        """An id that no other study has, in whatever storage."""
        text = f"{self.name} {self.created_at!r}"
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def ledger(self) -> Ledger:
        """The study's budget."""
        return Ledger(
            self.storage,
            self.study_id,
            lease_s=self.spec.lease_s,
            max_deaths=self.spec.max_deaths,
            max_failures=self.spec.max_failures,
        )

    def optuna_study(self) -> optuna.Study:
        """Return the study for Optuna's own functions."""
        return optuna.load_study(study_name=self.name, storage=self.storage)

    def read_table(self) -> FeatureTable | None:
        """Read the feature table of the study; None if it has none."""
        return _read_table(self.spec, self.table_path)

    def read_target(self) -> Target | None:
        """Read what the feature table of the study says of its target; None if it has none."""
        if self.table_path is None:
            return None
        return Target(**features.table.read_manifest(self.table_path)["target"])

    def open_objective(self) -> tuple[FeatureTable | None, Objective]:
        """Load what a worker needs, and make sure that it is what the study was begun with.

        Raises
        ------
        ConflictError
            If table, splits, space, objective, code or packages differ.
        """
        make_importable(Path(self.source.file))
        table = self.read_table()
        objective = make_objective(self.spec, table)
        compare(self.name, self.fingerprint, fingerprint(self.spec, table, objective))
        return table, objective


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
    log(f"table {built.name}: {built.n_rows} rows, {built.n_features} features, {how}")
    if built.skipped or built.partial:
        log(
            f"  {len(built.skipped)} rows skipped, {len(built.partial)} remarks; "
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
    table = _read_table(spec, table_path)
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
        study_id = _find_id(c, spec.name)
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
            stored = _find_row(c, study_id, spec.name)
            before = json.loads(stored.fingerprint)
            changed = compare(spec.name, before, current, accept)
            _check_searchable(spec, validate(json.loads(stored.spec), spec.name), objective, c)
            for part in changed:
                told = {} if is_comparable(part, before, current) else {"comparable": False}
                values = {"before": before.get(part, ""), "now": current[part], **told}
                storage.record_event(c, study_id, "accepted", part=part, **values)
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
        own = make_objective(spec, _read_table(spec, table_path))
        splits = own.splits_hash
    now = {"table": table, "splits": splits, **fingerprint_of_spec(spec, own)}
    return now == record.fingerprint


def _read_table(spec: StudySpec, path: Path | None) -> FeatureTable | None:
    return hold_out(spec.cv, features.table.read(path)) if path else None


def _record_resumption(
    storage: StudyStorage,
    c: sa.Connection,
    stored: Any,
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
        "resumed",
        **now,
        command=origin["command"],
        changed=changed,
        **({"difference": diff} if diff else {}),
    )


def find(storage: StudyStorage, name: str) -> StudyRecord:
    """Find a study by name.

    Raises
    ------
    StudyNotFoundError
        Naming the nearest of the studies that are there.
    """
    with storage.read() as c:
        study_id = _find_id(c, name)
        if study_id is None:
            shown = storage.engine.url.render_as_string(hide_password=True)
            hint = suggest(name, names(storage))
            raise StudyNotFoundError(f"{shown} holds no study '{name}'; {hint}")
        row = _find_row(c, study_id, name)
    origin = json.loads(row.provenance)
    source = origin.pop("source")
    return StudyRecord(
        storage=storage,
        study_id=study_id,
        name=name,
        spec=validate(json.loads(row.spec), f"study '{name}'"),
        fingerprint=json.loads(row.fingerprint),
        table_path=Path(row.table_path) if row.table_path else None,
        source=Source(source["file"], tuple(source["overrides"]), source["data_dir"]),
        provenance=origin,
        created_at=row.created_at,
    )


def names(storage: StudyStorage) -> list[str]:
    """Return the names of the studies in a storage, oldest first."""
    with storage.read() as c:
        rows = c.execute(
            sa.select(OPTUNA_STUDIES.c.study_name)
            .join(STUDIES, STUDIES.c.study_id == OPTUNA_STUDIES.c.study_id)
            .order_by(OPTUNA_STUDIES.c.study_id)
        ).all()
    return [row.study_name for row in rows]


def _find_id(c: sa.Connection, name: str) -> int | None:
    query = sa.select(OPTUNA_STUDIES.c.study_id).where(OPTUNA_STUDIES.c.study_name == name)
    found = c.execute(query).scalar_one_or_none()
    return None if found is None else int(found)


def _find_row(c: sa.Connection, study_id: int, name: str) -> Any:
    row = c.execute(sa.select(STUDIES).where(STUDIES.c.study_id == study_id)).one_or_none()
    if row is None:
        raise HpoError(
            f"study '{name}' in this storage was made by Optuna alone and has no study file; "
            "choose another name (--name NEW)"
        )
    return row


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

    from hpo.space import distributions

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
