"""What does a trial cost a worker, beside its objective?

Ours and plain Optuna (`RDBStorage`; `ask`, `suggest_*`, `report`, `set_user_attr` and `tell`, all
with their defaults) run trials in turns, in one process, on studies that are equal at the start:
seven parameters, five part scores, their attributes and a result each, and no work at all.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage

from hpo.records import Claim
from hpo.spec.space import distributions
from hpo.storage.postgres.server import Server
from hpo.storage.urls import resolve_url
from hpo.study.record import StudyRecord
from hpo.worker.sampler import draw
from hpo.worker.trial_cache import TrialHistory
from tests.benchmarks.filled_studies import N_PARTS, WORKER, begin_study, fill, score_of

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Cost:
    """What one trial cost its worker's process."""

    cpu_ms: float
    statements: int
    commits: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the cost of a trial and of `hpo status`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=60, help="measured of each contestant")
    parser.add_argument("--before", type=int, nargs="+", default=[100, 10_000])
    parser.add_argument("--status-of", type=int, default=30_000, help="trials; 0: not measured")
    parser.add_argument("--only", choices=("sqlite", "postgresql"))
    options = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print("median (quartiles) of CPU ms a trial; SQL statements and commits of the last trial")
    print(f"{'store':11} {'sampler':7} {'before':>6}  {'plain Optuna':31} {'ours':31} {'ratio':>6}")
    with (
        tempfile.TemporaryDirectory() as folder,
        fresh_stores(Path(folder), options.only) as stores,
    ):
        for store, make in stores.items():
            url = make()
            for sampler in ("random", "tpe"):
                record = begin_study(url, f"of-{sampler}", sampler={"name": sampler})
                for before in options.before:
                    fill(record, before)
                    plain, ours = _compare(record, sampler, options.trials, Path(folder))
                    ratio = _median(plain) / _median(ours)
                    print(
                        f"{store:11} {sampler:7} {before:6}  {_show(plain)} {_show(ours)}"
                        f" {ratio:6.1f}",
                        flush=True,
                    )
            if options.status_of:
                fill(record, options.status_of)
                times = sorted(_time_status(url, record.name) for _ in range(5))
                print(
                    f"{store:11} hpo status of {options.status_of} trials: "
                    f"{times[2]:.2f} s ({times[0]:.2f} to {times[-1]:.2f})",
                    flush=True,
                )
    return 0


def _compare(
    record: StudyRecord, sampler: str, n: int, folder: Path
) -> tuple[list[Cost], list[Cost]]:
    """Run trials of both in turns."""
    with _plain_study(record, sampler, folder) as study:
        history = TrialHistory(record.storage, record.study_id, record.spec.sampler.history)
        run_plain, run_ours = _Plain(study), _Ours(record, history)
        for run in (run_plain, run_ours):
            run()  # reads what was there before
        pairs = [(_measure(run_plain), _measure(run_ours)) for _ in range(n)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


class _Ours:
    """A trial as a worker runs it."""

    def __init__(self, record: StudyRecord, history: TrialHistory) -> None:
        self.engine = record.storage.engine
        self.record, self.history = record, history
        self.space = distributions(record.spec.space)

    def __call__(self) -> None:
        ledger, spec = self.record.ledger, self.record.spec
        claim = ledger.claim(WORKER)
        assert isinstance(claim, Claim)
        params = draw(self.history, claim.number, self.space, spec.sampler, spec.seed)
        ledger.save_params(claim, params, self.space)
        self.history.note(claim.trial_id, params, self.space)
        score = score_of(params)
        parts = {part: {"score": score, "wall_s": 0.0} for part in range(N_PARTS)}
        ledger.finish(claim, {"score": score, "wall_s": 0.0}, parts)


class _Plain:
    """A trial as Optuna's documentation has it."""

    def __init__(self, study: optuna.Study) -> None:
        self.study = study
        self.engine: sa.Engine = study._storage._backend.engine  # type: ignore[attr-defined]

    def __call__(self) -> None:
        trial = self.study.ask()
        params: dict[str, Any] = {f"x{k}": trial.suggest_float(f"x{k}", 0.0, 1.0) for k in range(5)}
        params["depth"] = trial.suggest_int("depth", 3, 30)
        params["kind"] = trial.suggest_categorical("kind", ["a", "b"])
        score = score_of(params)
        for part in range(N_PARTS):
            trial.report(score, part)
            trial.set_user_attr(f"part {part}", {"score": score, "wall_s": 0.0})
        trial.set_user_attr("wall_s", 0.0)
        trial.set_user_attr("worker", "w")
        self.study.tell(trial, score)


def _measure(run: _Ours | _Plain) -> Cost:
    counted = {"statements": 0, "commits": 0}

    def statement(_c: Any, _cursor: Any, text: str, *_: Any) -> None:
        counted["statements"] += not text.startswith("BEGIN")

    def commit(_c: Any) -> None:
        counted["commits"] += 1

    sa.event.listen(run.engine, "before_cursor_execute", statement)
    sa.event.listen(run.engine, "commit", commit)
    try:
        began = time.process_time()
        run()
        cpu_s = time.process_time() - began
    finally:
        sa.event.remove(run.engine, "before_cursor_execute", statement)
        sa.event.remove(run.engine, "commit", commit)
    return Cost(1e3 * cpu_s, counted["statements"], counted["commits"])


def _median(costs: Sequence[Cost]) -> float:
    return statistics.median(cost.cpu_ms for cost in costs)


def _show(costs: Sequence[Cost]) -> str:
    low, middle, high = statistics.quantiles((cost.cpu_ms for cost in costs), n=4)
    last = costs[-1]
    return f"{middle:6.1f} ({low:5.1f}-{high:5.1f}) {last.statements:4} {last.commits:3}  "


# Studies --------------------------------------------------------------------------------------


@contextlib.contextmanager
def _plain_study(record: StudyRecord, sampler: str, folder: Path) -> Iterator[optuna.Study]:
    """Open the same study as Optuna does; on SQLite a copy of it, in Optuna's own journal mode."""
    url = record.storage.engine.url
    if url.get_backend_name() == "sqlite":
        copy = folder / "plain.db"
        assert url.database is not None
        with contextlib.closing(sqlite3.connect(url.database)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copyfile(url.database, copy)
        with contextlib.closing(sqlite3.connect(copy)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
        url = url.set(database=str(copy))
    storage = RDBStorage(url.render_as_string(hide_password=False))
    sampler_of: dict[str, Callable[[], BaseSampler]] = {"random": RandomSampler, "tpe": TPESampler}
    yield optuna.load_study(study_name=record.name, storage=storage, sampler=sampler_of[sampler]())
    storage.remove_session()
    storage.engine.dispose()


@contextlib.contextmanager
def fresh_stores(folder: Path, only: str | None) -> Iterator[dict[str, Callable[[], str]]]:
    """Give for each kind of store what makes an empty one and returns its URL."""
    numbers = itertools.count()
    stores: dict[str, Callable[[], str]] = {
        "sqlite": lambda: f"sqlite:///{folder / f'{next(numbers)}.db'}"
    }
    server = Server(folder / "server")
    if only != "sqlite":
        server.start("127.0.0.1", settings={})
        stores["postgresql"] = lambda: _make_database(server, next(numbers))
    try:
        yield {name: make for name, make in stores.items() if only in (None, name)}
    finally:
        if only != "sqlite":
            server.stop()


def _make_database(server: Server, number: int) -> str:
    url = sa.make_url(resolve_url(str(server.folder)))
    with server.connect_as_admin() as connection:
        connection.execute(f"CREATE DATABASE rate_{number} OWNER hpo".encode())
    made = url.set(drivername="postgresql+psycopg", database=f"rate_{number}")
    return made.render_as_string(hide_password=False)


def _time_status(url: str, name: str) -> float:
    command = [sys.executable, "-m", "hpo", "status", name, "--json", "--storage", url]
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    seconds = time.monotonic() - began
    assert json.loads(done.stdout)["counts"]["finished"] > 0
    return seconds


if __name__ == "__main__":
    sys.exit(main())
