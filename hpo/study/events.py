"""The history of a study: what it was begun with, and all that happened since."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from hpo.redaction import redact_arguments, redact_value
from hpo.storage.budget import read_events
from hpo.storage.events import EventKind
from hpo.storage.schema import WORKERS
from hpo.study.identity.fingerprint import PARTS
from hpo.study.record import StudyRecord
from hpo.wording import count_of


class WorkerRow(NamedTuple):
    """One run of a worker: a row of `hpo_workers`, whose times are by the database's clock."""

    worker_id: str
    study_id: int
    host: str
    pid: int
    started_at: float
    seen_at: float
    ended_at: float | None
    outcome: str | None
    cluster: str | None
    job: str | None
    restarts: int | None
    log: str | None
    provenance: str | None


def read_workers(c: sa.Connection, study_id: int) -> list[WorkerRow]:
    """Return every run of a worker that a study has seen, oldest first."""
    query = (
        sa.select(*(WORKERS.c[name] for name in WorkerRow._fields))
        .where(WORKERS.c.study_id == study_id)
        .order_by(WORKERS.c.started_at, WORKERS.c.worker_id)
    )
    return [WorkerRow(*row) for row in c.execute(query)]


def workers_of(record: StudyRecord) -> list[WorkerRow]:
    """Return every run of a worker that the study has seen, oldest first."""
    with record.storage.read() as c:
        return read_workers(c, record.study_id)


def tell(record: StudyRecord) -> dict[str, Any]:
    """Return everything that is known of a study's origin.

    Returns
    -------
    dict
        `study`, `begun_at`, `source`, `origin` (commits, uncommitted changes, lock file, packages,
        user, machine, command), `fingerprint` by part, `workers` (one object per run of a worker)
        and `events`, all without passwords. Times are seconds since the epoch, by the database's
        clock.
    """
    with record.storage.read() as c:
        rows = read_workers(c, record.study_id)
        events = redact_value(read_events(c, record.study_id))
    workers = []
    for row in rows:
        worker = row._asdict()
        worker["provenance"] = json.loads(row.provenance) if row.provenance else None
        workers.append(worker)
    return {
        "study": record.name,
        "begun_at": record.created_at,
        "source": {
            **vars(record.source),
            "overrides": redact_arguments(record.source.overrides),
        },
        "origin": record.provenance,
        "fingerprint": dict(record.fingerprint),
        "table": str(record.table_path) if record.table_path else None,
        "workers": workers,
        "events": events,
    }


def describe(told: Mapping[str, Any]) -> Iterator[str]:
    """Return what `tell` returns as lines for a person."""
    origin = told["origin"]
    git = origin.get("git", {})
    yield f"study '{told['study']}', begun {_time(told['begun_at'])}"
    yield f"  command     {origin.get('command', '')}"
    yield f"  study file  {told['source']['file']}"
    yield f"  commit      {git.get('commit', 'unknown')}{_dirt(git)} (hpo)"
    if repository := origin.get("repository"):
        yield f"  commit      {repository['commit']}{_dirt(repository)} (of the study file)"
    yield f"  lock file   {origin.get('lock') or 'none'}"
    yield f"  python      {origin.get('python', '')}"
    yield f"  host        {origin.get('host', '')}, {origin.get('platform', '')}"
    yield f"  user        {origin.get('user', 'unknown')}"
    if told["table"]:
        yield f"  table       {told['table']}"
    yield "fingerprint"
    for part in PARTS:
        yield f"  {part:10}  {told['fingerprint'].get(part) or 'none'}"
    yield from _describe_workers(told["workers"])
    yield "what happened"
    for event in told["events"]:
        yield f"  {_time(event['at'])}  {_describe_event(event)}"
    for of in (git, origin.get("repository", {})):
        if of.get("diff"):
            yield "uncommitted changes when the study was begun"
            yield from of["diff"].splitlines()


def _describe_workers(workers: list[Mapping[str, Any]]) -> Iterator[str]:
    yield count_of(len(workers), "worker run")
    for worker in workers:
        made_with = worker["provenance"] or {}
        git = made_with.get("git", {})
        job = ""
        if worker["job"]:
            job = f"job {worker['job']} of {worker['cluster']}, restart {worker['restarts']}; "
        lock = (made_with.get("lock") or "none")[:12]
        yield (
            f"  {_time(worker['started_at'])}  {worker['worker_id']} on {worker['host']}; {job}"
            f"commit {git.get('commit', 'unknown')[:12]}{_dirt(git)}, lock file {lock}"
            f"{_threads(made_with)}; {worker['outcome'] or 'at work'}"
        )
    commits = Counter(
        (worker["provenance"] or {}).get("git", {}).get("commit", "unknown") for worker in workers
    )
    if len(commits) > 1:
        yield f"  {count_of(len(commits), 'different commit')}"


def _threads(made_with: Mapping[str, Any]) -> str:
    """Return with how many threads a worker computed, where it wrote that down."""
    if "threads" not in made_with:
        return ""
    held = [name for name, number in made_with["threads"].items() if number > 1]
    return ", one thread" + (f" ({', '.join(held)} held to it)" if held else "")


def _describe_event(event: Mapping[str, Any]) -> str:
    """Return one line; long texts, such as differences, are for `--json`."""
    rest = {key: value for key, value in event.items() if key not in ("at", "kind", "difference")}
    words = " ".join(f"{key}={_short(value)}" for key, value in rest.items())
    kind = event["kind"]
    shown = "test-set evaluation" if kind == EventKind.TEST_EVALUATION else kind
    return f"{shown}: {words}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _dirt(git: Mapping[str, Any]) -> str:
    if not git.get("dirty"):
        return ""
    return f" + uncommitted changes {str(git.get('diff_hash', ''))[:12]}"


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
