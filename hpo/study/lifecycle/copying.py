"""Copies studies from one storage to another: all of a study or nothing, compared before it counts.

What belongs to a study is every row that names its `study_id` or the `trial_id` of one of its
trials, in Optuna's tables and in ours. Ids that a database gives out itself are given out anew.
"""

from __future__ import annotations

import datetime as dt
import enum
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from hpo.errors import HpoError, StorageError, StudyNotFoundError, suggest
from hpo.storage.budget import read_units, select_units
from hpo.storage.deletion import remove_leftovers, unused_study_id
from hpo.storage.schema import CLAIMS, OPTUNA_STUDIES, TRIALS, study_tables
from hpo.storage.storage import StudyStorage
from hpo.storage.urls import show_url

# What a column of a study's tables can hold.
Cell = int | float | str | dt.datetime | enum.Enum | None
Rows = list[dict[str, Cell]]


@dataclass(frozen=True)
class Snapshot:
    """All rows of one study at one moment, by table, oldest first."""

    name: str
    rows: Mapping[str, Rows]

    def digests(self) -> dict[str, str]:
        """Return a hash per table that the same study has in every storage.

        The rows count in any order and without ids: instead of the id of a trial stands its place
        among the trials. Floats count to the last bit, but for the sign of zero, which SQLite
        does not keep.
        """
        places = {row["trial_id"]: place for place, row in enumerate(self.rows[TRIALS.name])}
        return {
            table.name: _digest(table, self.rows[table.name], places) for table in study_tables()
        }


@dataclass(frozen=True)
class Copied:
    """What became of one study.

    Attributes
    ----------
    copied
        False if it was there before, identical.
    rows
        How many rows it has in all tables.
    sha256
        Hash of its contents, the same in every storage.
    """

    study: str
    copied: bool
    trials: int
    rows: int
    sha256: str

    def as_dict(self) -> dict[str, Any]:
        """Return what `hpo copy --json` prints."""
        return asdict(self)


def copy_studies(
    source: StudyStorage, target: StudyStorage, names: Sequence[str] = ()
) -> list[Copied]:
    """Copy studies by name, or all of them, in one transaction; the source stays as it is.

    Raises
    ------
    HpoError
        If a study is being worked on, or another one of its name is in the target, or what was
        written is not what was read. The target is then as it was.
    """
    if _identity(source) == _identity(target):
        raise HpoError(f"{_shown(source)}: is where the studies are already; give another target")
    try:
        snapshots = _read_source(source, names)
    except SQLAlchemyError as exc:
        raise StorageError(f"{_shown(source)}: cannot be read: {_reason(exc)}") from exc
    try:
        with target.write() as c:
            remove_leftovers(c)
            return [_copy(c, snapshot, _shown(target)) for snapshot in snapshots]
    except SQLAlchemyError as exc:
        raise StorageError(
            f"{_shown(target)}: nothing was copied, the target refused it: {_reason(exc)}"
        ) from exc


def take_snapshot(c: sa.Connection, name: str) -> Snapshot | None:
    """Read all rows of a study; None if there is none of that name."""
    query = sa.select(OPTUNA_STUDIES.c.study_id).where(OPTUNA_STUDIES.c.study_name == name)
    study_id = c.execute(query).scalar_one_or_none()
    if study_id is None:
        return None
    trial_ids = sa.select(TRIALS.c.trial_id).where(TRIALS.c.study_id == study_id)
    rows = {}
    for table in study_tables():
        belongs = (
            table.c.study_id == study_id
            if "study_id" in table.c
            else table.c.trial_id.in_(trial_ids)
        )
        found = c.execute(sa.select(table).where(belongs).order_by(*table.primary_key))
        rows[table.name] = [dict(row) for row in found.mappings()]
    return Snapshot(name, rows)


def _read_source(source: StudyStorage, names: Sequence[str]) -> list[Snapshot]:
    with source.read() as c:
        query = sa.select(OPTUNA_STUDIES.c.study_name).order_by(OPTUNA_STUDIES.c.study_id)
        there = list(c.execute(query).scalars())
        if not there:
            raise StudyNotFoundError(f"{_shown(source)} holds no study")
        for name in names:
            if name not in there:
                raise StudyNotFoundError(
                    f"{_shown(source)} holds no study '{name}'; {suggest(name, there)}"
                )
        snapshots = []
        for name in dict.fromkeys(names or there):
            snapshot = take_snapshot(c, name)
            assert snapshot is not None
            _refuse_live(c, snapshot, source.now(c))
            snapshots.append(snapshot)
        return snapshots


def _refuse_live(c: sa.Connection, snapshot: Snapshot, now: float) -> None:
    (study,) = snapshot.rows[OPTUNA_STUDIES.name]
    query = select_units(
        CLAIMS.c.study_id == study["study_id"],
        CLAIMS.c.state == "open",
        CLAIMS.c.worker_id.is_not(None),
        CLAIMS.c.lease_until >= now,
    )
    if held := read_units(c, query):
        wait_s = max(unit.lease_until for unit in held) - now
        raise HpoError(
            f"study '{snapshot.name}': {len(held)} of its trials are being worked on; end its "
            f"workers first (hpo stop {snapshot.name}), or wait {wait_s:.0f} s if they are dead"
        )


def _copy(c: sa.Connection, snapshot: Snapshot, shown: str) -> Copied:
    expected = snapshot.digests()
    there = take_snapshot(c, snapshot.name)
    if there is not None and there.digests() != expected:
        raise HpoError(
            f"{shown}: holds another study '{snapshot.name}', or another state of it; "
            "nothing was copied"
        )
    if there is None:
        _insert(c, snapshot)
        _verify(c, snapshot, expected)
    return Copied(
        study=snapshot.name,
        copied=there is None,
        trials=len(snapshot.rows[TRIALS.name]),
        rows=sum(map(len, snapshot.rows.values())),
        sha256=hashlib.sha256(json.dumps(expected, sort_keys=True).encode()).hexdigest(),
    )


def _insert(c: sa.Connection, snapshot: Snapshot) -> None:
    new_ids: dict[str, dict[Cell, Cell]] = {}
    for table in study_tables():
        rows = snapshot.rows[table.name]
        given_anew = _given_anew(table)
        values = [
            {
                key: new_ids[key][value] if key in new_ids and value is not None else value
                for key, value in row.items()
                if key != given_anew
            }
            for row in rows
        ]
        if table not in (OPTUNA_STUDIES, TRIALS):
            if values:
                c.execute(table.insert(), values)
            continue
        assert given_anew is not None
        if table is OPTUNA_STUDIES and (study_id := unused_study_id(c)) is not None:
            values = [{**row, given_anew: study_id} for row in values]
        insert = table.insert().returning(table.c[given_anew], sort_by_parameter_order=True)
        made = list(c.execute(insert, values).scalars()) if values else []
        old = [row[given_anew] for row in rows]
        new_ids[given_anew] = dict(zip(old, made, strict=True))


def _verify(c: sa.Connection, snapshot: Snapshot, expected: Mapping[str, str]) -> None:
    """Compare what was written with what was read, before it is committed."""
    written = take_snapshot(c, snapshot.name)
    assert written is not None
    found = written.digests()
    for name, rows in snapshot.rows.items():
        if len(written.rows[name]) != len(rows) or found[name] != expected[name]:
            raise StorageError(
                f"study '{snapshot.name}': table {name} came out different in the target "
                f"({len(rows)} rows read, {len(written.rows[name])} written); nothing was copied"
            )


def _given_anew(table: sa.Table) -> str | None:
    """Return the column that the database numbers by itself; None if there is none."""
    keys = list(table.primary_key)
    if len(keys) != 1 or not isinstance(keys[0].type, sa.Integer):
        return None
    # A row of ours has the id of the study or the trial that it is about.
    refers = keys[0].name in ("study_id", "trial_id") and table not in (OPTUNA_STUDIES, TRIALS)
    return None if refers else keys[0].name


def _digest(table: sa.Table, rows: Rows, places: Mapping[Cell, int]) -> str:
    omitted = {"study_id", _given_anew(table)} - {"trial_id"}
    lines = sorted(
        json.dumps(
            {
                key: places.get(value) if key == "trial_id" else _canonical(table.c[key], value)
                for key, value in row.items()
                if key not in omitted
            },
            sort_keys=True,
        )
        for row in rows
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _canonical(column: sa.Column[Any], value: Cell) -> str | int | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, dt.datetime):
        return value.isoformat()
    if isinstance(column.type, sa.Float):
        return (float(value) + 0.0).hex()
    if isinstance(value, int):
        return int(value)
    raise TypeError(f"{column}: no canonical form for {type(value).__name__}")


def _identity(storage: StudyStorage) -> tuple[Any, ...]:
    """Return what two storages have in common only if they are the same."""
    url = storage.engine.url
    if storage.engine.dialect.name == "sqlite":
        found = Path(str(url.database)).stat()
        return found.st_dev, found.st_ino
    if storage.engine.dialect.name == "postgresql":
        query = (
            "SELECT oid, pg_postmaster_start_time() FROM pg_database "
            "WHERE datname = current_database()"
        )
        with storage.read() as c:
            return tuple(c.exec_driver_sql(query).one())
    return url.host, url.port, url.database


def _shown(storage: StudyStorage) -> str:
    return show_url(storage.engine.url)


def _reason(exc: SQLAlchemyError) -> str:
    return str(getattr(exc, "orig", None) or exc).strip().splitlines()[0]
