"""Sessions of Weights & Biases: who logs a study, where to, and how far; kept in its storage.

A session is one process that logs, and one row of `hpo_events`: it is written before anything is
logged, names every trial before its row is logged, and is closed when what it says is known to be
true. A session that is not closed belongs to a process that is at work, or that died.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from hpo.errors import ConflictError
from hpo.storage.events import EventKind
from hpo.storage.schema import EVENTS, OPTUNA_STUDIES
from hpo.study.record import StudyRecord

# Longer than anything that a session does without renewing its lease; only another machine, which
# cannot see whether the process is alive, ever waits for it.
LEASE_S = 300.0


@dataclass
class Session:
    """One process that logs a study.

    Attributes
    ----------
    generation
        How often the study was logged anew; each generation is a run of its own.
    mode
        online or offline.
    file
        The run's file on disk; "" until there is one.
    first_step
        Rows that the run had on the server when the session began (online only).
    trials
        Numbers of the trials whose rows this session logs, in their order.
    reported
        Finished trials of which the session logged the report; 0 if it logged none.
    closed
        Whether `trials` and `reported` are known to be true.
    lease_until
        Seconds since the epoch, by the clock of the database.
    """

    generation: int
    mode: str
    project: str
    entity: str | None
    host: str
    boot: str
    pid: int
    process_start: str
    file: str = ""
    first_step: int = 0
    trials: list[int] = field(default_factory=list)
    reported: int = 0
    closed: bool = False
    lease_until: float = 0.0
    event_id: int = 0

    @property
    def is_local(self) -> bool:
        """Whether the session is, or was, on this machine."""
        return (self.host, self.boot) == (socket.gethostname(), boot_id())

    def is_alive(self, now: float) -> bool:
        """Whether its process may still log something."""
        if self.closed:
            return False
        if self.is_local and (start := process_start(self.pid)) is not None:
            return start == self.process_start
        return now < self.lease_until


def process_start(pid: int) -> str | None:
    """Return when a process was started, in the kernel's ticks; "" if there is none.

    None where the kernel does not tell.
    """
    if not Path("/proc/self/stat").exists():
        return None
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    state, *rest = stat.rpartition(")")[2].split()
    return "" if state in "ZX" else rest[18]


def boot_id() -> str:
    """Return what tells this machine, since it was started, from all others."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


class Logbook:
    """The sessions of one study."""

    def __init__(self, record: StudyRecord) -> None:
        self.record = record

    def open(
        self, mode: str, project: str | None, entity: str | None, *, anew: bool
    ) -> tuple[Session, list[Session]]:
        """Begin a session, and return it with the earlier ones of the same run.

        Raises
        ------
        ConflictError
            If another process logs the study, or if it was logged to another project before.
        """
        storage = self.record.storage
        with storage.write() as c:
            self._lock(c)
            now = storage.now(c)
            sessions = self._read(c)
            for session in sessions:
                if session.is_alive(now):
                    raise ConflictError(self._held(session, now), ())
            generation = max((session.generation for session in sessions), default=0) + anew
            earlier = [session for session in sessions if session.generation == generation]
            if earlier:
                self._check_project(earlier[-1], project, entity)
                project, entity = earlier[-1].project, earlier[-1].entity
            session = Session(
                generation=generation,
                mode=mode,
                project=project or "hpo",
                entity=entity,
                host=socket.gethostname(),
                boot=boot_id(),
                pid=os.getpid(),
                process_start=process_start(os.getpid()) or "",
                lease_until=now + LEASE_S,
            )
            inserted = c.execute(
                EVENTS.insert().values(
                    study_id=self.record.study_id,
                    at=now,
                    kind=EventKind.WANDB.value,
                    detail=_as_json(session),
                )
            )
            assert inserted.inserted_primary_key is not None
            session.event_id = int(inserted.inserted_primary_key[0])
        return session, earlier

    def save(self, session: Session) -> None:
        """Store a session and renew its lease.

        Raises
        ------
        ConflictError
            If another process has closed it, having waited for a sign of life and seen none.
        """
        with self.record.storage.write() as c:
            self._check_own(c, session)
            session.lease_until = self.record.storage.now(c) + LEASE_S
            self._store(c, session)

    def close(self, session: Session, trials: list[int], reported: int) -> None:
        """Store what a session has truly logged; one that logged nothing leaves no trace."""
        closed = replace(session, trials=trials, reported=reported, closed=True)
        with self.record.storage.write() as c:
            self._check_own(c, session)
            if trials or reported:
                self._store(c, closed)
            else:
                c.execute(EVENTS.delete().where(EVENTS.c.event_id == session.event_id))

    def withdraw(self, session: Session) -> None:
        """Remove a session that logged nothing."""
        self.close(session, [], 0)

    def release(self, session: Session) -> None:
        """Leave a session open, for want of knowing what arrived: the next one settles it."""
        with self.record.storage.write() as c:
            self._check_own(c, session)
            self._store(c, replace(session, lease_until=0.0))

    # One transaction's pieces -----------------------------------------------------------------

    def _lock(self, c: sa.Connection) -> None:
        """Let no other transaction of this study in."""
        c.execute(
            sa.select(OPTUNA_STUDIES.c.study_id)
            .where(OPTUNA_STUDIES.c.study_id == self.record.study_id)
            .with_for_update()
        ).one()

    def _read(self, c: sa.Connection) -> list[Session]:
        rows = c.execute(
            sa.select(EVENTS.c.event_id, EVENTS.c.detail)
            .where(
                EVENTS.c.study_id == self.record.study_id, EVENTS.c.kind == EventKind.WANDB.value
            )
            .order_by(EVENTS.c.event_id)
        ).all()
        known = {item.name for item in fields(Session)}
        found = []
        for row in rows:
            detail = {key: value for key, value in json.loads(row.detail).items() if key in known}
            found.append(Session(**{**detail, "event_id": row.event_id}))
        return found

    def _check_own(self, c: sa.Connection, session: Session) -> None:
        self._lock(c)
        stored = [found for found in self._read(c) if found.event_id == session.event_id]
        if not stored or stored[0].closed:
            raise ConflictError(
                f"study '{self.record.name}': another process has taken over its logging, because "
                f"this one gave no sign of life for {LEASE_S:g} s",
                (),
            )

    def _store(self, c: sa.Connection, session: Session) -> None:
        c.execute(
            EVENTS.update()
            .where(EVENTS.c.event_id == session.event_id)
            .values(detail=_as_json(session))
        )

    def _held(self, session: Session, now: float) -> str:
        until = ""
        if not session.is_local:
            until = f"; if it is dead, try again in {session.lease_until - now:.0f} s"
        return (
            f"another process logs this study: '{self.record.name}' is logged by process "
            f"{session.pid} on {session.host}{until}"
        )

    def _check_project(self, last: Session, project: str | None, entity: str | None) -> None:
        for what, before, now in (
            ("project", last.project, project),
            ("entity", last.entity, entity),
        ):
            if now is not None and now != before:
                raise ConflictError(
                    f"study '{self.record.name}' is logged to {what} '{before}', not '{now}'; "
                    f"leave --{what} away, or log all trials again in a run of their own: --anew",
                    (),
                )


def _as_json(session: Session) -> str:
    detail: dict[str, Any] = asdict(session)
    del detail["event_id"]
    return json.dumps(detail)
