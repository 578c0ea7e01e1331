"""What does a trial of a function cost beside plain Optuna's?

Seven parameters and five reports, one worker: the time of a trial is what sampler and store take.
Plain Optuna runs `study.optimize` in one process on SQLite as it is, on SQLite in write-ahead mode,
on JournalStorage and on PostgreSQL; ours works on a claim at a time. Each is given studies that
hold so many trials already.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
import sqlalchemy as sa
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.objectives.function import FunctionObjective
from hpo.records import Access, WorkerRun
from hpo.spec.loading import validate
from hpo.storage.backends import open_storage
from hpo.storage.postgres.server import Server
from hpo.study.creation import begin
from hpo.study.record import Source, StudyRecord
from hpo.worker.worker import Worker

N_PARAMS, N_REPORTS = 7, 5
SPACE: dict[str, BaseDistribution] = {
    f"x{k}": FloatDistribution(-5.0, 5.0) for k in range(N_PARAMS)
}


def objective(trial: optuna.Trial) -> float:
    """The sphere, with reports."""
    total = sum(trial.suggest_float(name, -5.0, 5.0) ** 2 for name in SPACE)
    for step in range(N_REPORTS):
        trial.report(total + 1.0 / (step + 1), step)
        trial.should_prune()
    return total


def main(arguments: Sequence[str] | None = None) -> int:
    """Print milliseconds per trial."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=int, nargs="*", default=[100, 1000])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", type=Path, help="where the files are")
    parser.add_argument("--sampler", choices=["tpe", "random"], default="tpe")
    options = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print(f"ms per trial, {options.sampler}, median of {options.rounds} rounds (least to most)")
    for before in options.before:
        print(f"after {before} trials")
        for name, run in CONTESTANTS.items():
            told = []
            for _ in range(options.rounds):
                with tempfile.TemporaryDirectory(dir=options.dir) as folder:
                    told.append(run(Path(folder), before, options.trials, options.sampler))
            print(
                f"  {name:<28} {statistics.median(told):7.1f} ({min(told):.1f} to {max(told):.1f})"
            )
    return 0


def _known(n: int) -> list[FrozenTrial]:
    """Return trials that a study begins with."""
    drawn = optuna.create_study(sampler=RandomSampler(seed=0))
    found = []
    for _ in range(n):
        params = drawn.ask(SPACE).params
        total = sum(value**2 for value in params.values())
        found.append(
            create_trial(
                value=total,
                params=params,
                distributions=SPACE,
                intermediate_values={step: total + 1.0 / (step + 1) for step in range(N_REPORTS)},
            )
        )
    return found


def _plain(open_it: Callable[[Path], BaseStorage]) -> Callable[[Path, int, int, str], float]:
    def run(folder: Path, before: int, n_trials: int, name: str) -> float:
        sampler: BaseSampler = RandomSampler(seed=1) if name == "random" else TPESampler(seed=1)
        storage = open_it(folder)
        study = optuna.create_study(storage=storage, sampler=sampler)
        study.add_trials(_known(before))
        study.optimize(objective, n_trials=1)
        began = time.perf_counter()
        study.optimize(objective, n_trials=n_trials)
        spent_s = time.perf_counter() - began
        storage.remove_session()
        return 1e3 * spent_s / n_trials

    return run


def _ours(url_of: Callable[[Path], str]) -> Callable[[Path, int, int, str], float]:
    def run(folder: Path, before: int, n_trials: int, name: str) -> float:
        record = _begin(url_of(folder), before, name)
        study = optuna.load_study(study_name=record.name, storage=record.storage)
        study.add_trials(_known(before))
        _work(record, 1)
        began = time.perf_counter()
        _work(record, 1 + n_trials)
        spent_s = time.perf_counter() - began
        states = (TrialState.COMPLETE,)
        assert len(study.get_trials(deepcopy=False, states=states)) == before + 1 + n_trials
        record.storage.remove_session()
        record.storage.engine.dispose()
        return 1e3 * spent_s / n_trials

    return run


def _begin(url: str, before: int, sampler: str) -> StudyRecord:
    raw = {
        "name": f"cost-{before}-{os.getpid()}-{time.monotonic_ns()}",
        "trials": 1,
        "objective": {"function": "tests.benchmarks.function_cost:objective"},
        "sampler": {"name": sampler},
    }
    storage = open_storage(url, Access.CREATE)
    return begin(storage, validate(raw, "benchmark"), Source("x.toml", (), None), None)


def _work(record: StudyRecord, budget: int) -> None:
    record.ledger.set_budget(budget)
    Worker(record, FunctionObjective(objective), f"{record.name}-{budget}").run(
        WorkerRun("here", 1)
    )


def _wal(folder: Path) -> RDBStorage:
    storage = RDBStorage(f"sqlite:///{folder / 'wal.db'}")

    def set_mode(connection: sa.engine.interfaces.DBAPIConnection, _: object) -> None:
        for mode in ("journal_mode = WAL", "synchronous = NORMAL"):
            connection.execute(f"PRAGMA {mode}")

    sa.event.listen(storage.engine, "connect", set_mode)
    storage.engine.dispose()
    return storage


_server: Server | None = None


def _postgresql(_: Path) -> str:
    global _server
    if _server is None:
        _server = Server(Path(tempfile.mkdtemp()) / "server")
        _server.start("127.0.0.1")
    return str(_server.folder)


def _plain_postgresql(folder: Path) -> RDBStorage:
    storage = open_storage(_postgresql(folder), Access.CREATE)
    return RDBStorage(storage.engine.url.render_as_string(hide_password=False))


CONTESTANTS: dict[str, Callable[[Path, int, int, str], float]] = {
    "hpo, SQLite": _ours(lambda folder: f"sqlite:///{folder / 'hpo.db'}"),
    "optuna, SQLite": _plain(lambda folder: RDBStorage(f"sqlite:///{folder / 'plain.db'}")),
    "optuna, SQLite WAL": _plain(_wal),
    "optuna, JournalStorage": _plain(
        lambda folder: JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    ),
    "hpo, PostgreSQL": _ours(_postgresql),
    "optuna, PostgreSQL": _plain(_plain_postgresql),
}


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    finally:
        if _server is not None:
            _server.stop()
