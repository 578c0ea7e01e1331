"""A study in its storage: begun once, found again by name, continued only if it is the same."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError, ProgrammingError

import features.table
from features.table import FeatureTable, Target
from hpo.errors import PlainStudyError, StorageError, StudyNotFoundError, suggest
from hpo.objectives.factory import AnyObjective, objective_of
from hpo.objectives.folds import hold_out
from hpo.plugins import make_importable
from hpo.records import Access
from hpo.redaction import redact_value
from hpo.spec.cv import AnyCv
from hpo.spec.loading import load, names_function, validate
from hpo.spec.sections import StudySpec
from hpo.storage.access.outages import first_line
from hpo.storage.backends import open_storage
from hpo.storage.deletion import begun_here
from hpo.storage.events import EventKind
from hpo.storage.ledger import Ledger
from hpo.storage.schema import OPTUNA_STUDIES, STUDIES
from hpo.storage.storage import StudyStorage
from hpo.storage.urls import show_url
from hpo.study.identity.fingerprint import (
    Fingerprint,
    compare,
    fingerprint,
    own_modules,
)
from hpo.study.identity.trust import require_trusted
from hpo.study.told import hand_prepared, key_of

# Tables in the memory of this process, by their paths and what holds some of their rows out.
_kept: list[tuple[tuple[Path, AnyCv | None, int], FeatureTable]] = []


@dataclass(frozen=True)
class Source:
    """Where a study's spec came from, so that `hpo resume` can look whether it changed."""

    file: str
    overrides: tuple[str, ...]
    data_dir: str | None

    def load(self) -> StudySpec | None:
        """Read the study file again; None if it is not there any more."""
        path = Path(self.file)
        return load(path, self.overrides) if path.is_file() or names_function(path) else None


class StudyRow(NamedTuple):
    """What `hpo_studies` keeps of a study: JSON texts, and seconds by the database's clock."""

    study_id: int
    budget: int
    spec: str
    fingerprint: str
    table_path: str | None
    provenance: str
    created_at: float


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
            max_attempts=self.spec.limits.max_attempts,
            max_retry=self.spec.max_retry,
            study_s=self.spec.limits.study_s,
            patience=self.spec.limits.patience,
        )

    def optuna_study(self) -> optuna.Study:
        """Return the study for Optuna's own functions."""
        return optuna.load_study(study_name=self.name, storage=self.storage)

    @contextlib.contextmanager
    def writable(self) -> Iterator[StudyRecord]:
        """Give the same study to write something down in, where it was opened to be read.

        Raises
        ------
        StorageError
            If its storage cannot be written.
        """
        if not self.storage.read_only:
            yield self
            return
        url = self.storage.engine.url.render_as_string(hide_password=False)
        opened = open_storage(url, Access.WORK)
        try:
            # SQLite opens what it may not write without a word.
            with opened.write():
                pass
            yield replace(self, storage=opened)
        except (OperationalError, ProgrammingError) as exc:
            shown = show_url(opened.engine.url)
            reason = first_line(exc.orig or exc)
            raise StorageError(f"{shown}: cannot be written: {reason}") from exc
        finally:
            opened.engine.dispose()

    def read_table(self) -> FeatureTable | None:
        """Read the feature table of the study; None if it has none."""
        return read_table_of(self.spec, self.table_path)

    def read_targets(self) -> tuple[Target, ...]:
        """Read what the feature table of the study says of its targets; empty if it has none."""
        if self.table_path is None:
            return ()
        manifest = features.table.read_manifest(self.table_path)
        return tuple(
            Target(**record) for record in (manifest["target"], *manifest.get("more_targets", ()))
        )

    def admit_code(self, accepted: Sequence[str] = ()) -> None:
        """Let modules that the study names be imported, if they may be; see `hpo.study.identity`.

        Raises
        ------
        TrustError, ConflictError, SpecError
            If they may not, or are not there.
        """
        file = Path(self.source.file)
        if own_modules(self.spec):
            began = [self.provenance, *self.ledger.events(EventKind.RESUMED)]
            require_trusted(self.name, self.spec, file, self.fingerprint, began, accepted)
        make_importable(file)

    def open_objective(self) -> tuple[FeatureTable | None, AnyObjective]:
        """Load what a worker needs, and make sure that it is what the study was begun with.

        An objective that prepares is given what its preparation returned, if that is at its end.

        Raises
        ------
        ConflictError
            If table, splits, space, objective, code or packages differ.
        TrustError
            If another user began the study, and it names code of its own.
        """
        self.admit_code()
        table = self.read_table()
        objective = objective_of(self.spec, table)
        compare(self.name, self.fingerprint, fingerprint(self.spec, table, objective))
        hand_prepared(objective, self.storage, key_of(self.study_id, self.fingerprint))
        return table, objective


def read_table_of(spec: StudySpec, path: Path | None) -> FeatureTable | None:
    """Read the table of a study, with the rows that its folds hold out."""
    if path is None:
        return None
    asked = (path, spec.cv, spec.seed)
    for of, table in _kept:
        if of == asked and features.table.read_manifest(path) == table.manifest:
            return table
    return hold_out(spec, features.table.read(path))


def keep_table(spec: StudySpec, path: Path) -> None:
    """Read the table of a study for good: this process and its forks share it in memory."""
    if spec.cv is not None and spec.cv.outer is not None and spec.named_modules:
        # Its rows may be held out by a splitter of the study's own, which is left to each worker.
        return
    table = read_table_of(spec, path)
    if table is not None:
        # Rows of it that lie apart are picked once, too.
        _ = table.train
        _kept.append(((path, spec.cv, spec.seed), table))


def find(storage: StudyStorage, name: str) -> StudyRecord:
    """Find a study by name.

    Raises
    ------
    StudyNotFoundError
        Naming the nearest of the studies that are there.
    PlainStudyError
        If Optuna alone made it.
    """
    with storage.read() as c:
        study_id = find_id(c, name)
        if study_id is None:
            shown = show_url(storage.engine.url)
            hint = suggest(name, [*read_names(c), *read_plain_names(c)])
            raise StudyNotFoundError(f"{shown} holds no study '{name}'; {hint}")
        row = find_row(c, study_id)
    if row is None:
        raise PlainStudyError(
            f"study '{name}' was made by Optuna alone and has no study file; see it with hpo "
            "status, report, compare or export, or let it go on with hpo adopt"
        )
    origin = json.loads(row.provenance)
    source = origin.pop("source")
    # Earlier versions kept the command as it was typed.
    origin = redact_value(origin)
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
    """Return the names of the studies in a storage, oldest first; without those of Optuna alone."""
    with storage.read() as c:
        return read_names(c)


def read_names(c: sa.Connection) -> list[str]:
    """Return what `names` does, within a transaction."""
    return [*begun_here(c).values()] if _has_our_tables(c) else []


def read_plain_names(c: sa.Connection) -> list[str]:
    """Return the names of the studies that Optuna alone made, oldest first."""
    query = sa.select(OPTUNA_STUDIES.c.study_name).order_by(OPTUNA_STUDIES.c.study_id)
    ours = {*read_names(c)}
    return [name for name in c.execute(query).scalars() if name not in ours]


def find_id(c: sa.Connection, name: str) -> int | None:
    """Return the id of the study of this name, if there is one."""
    query = sa.select(OPTUNA_STUDIES.c.study_id).where(OPTUNA_STUDIES.c.study_name == name)
    found = c.execute(query).scalar_one_or_none()
    return None if found is None else int(found)


def find_row(c: sa.Connection, study_id: int) -> StudyRow | None:
    """Return our row of a study; None if Optuna alone made the study."""
    if not _has_our_tables(c) or study_id not in begun_here(c):
        return None
    columns = [STUDIES.c[field] for field in StudyRow._fields]
    row = c.execute(sa.select(*columns).where(STUDIES.c.study_id == study_id)).one_or_none()
    return None if row is None else StudyRow(*row)


def _has_our_tables(c: sa.Connection) -> bool:
    return sa.inspect(c).has_table(STUDIES.name)
