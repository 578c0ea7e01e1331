"""How do other study runners do the same work, and what do they do when a worker is killed?

Every peer is installed from the package registry into an environment of its own, and runs the
program of `peer_programs` that its documentation suggests, two evaluations at a time, one thread
each. All contestants take turns, in as many rounds as asked for. With "sleep-1" one process that
evaluates a point is killed with SIGKILL in the middle of the run; nobody starts anything again.

    hpo bench peers --data DIR [--environments KEPT] [--only NAME ...] [--work WORK ...]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.datasets import add_data
from tests.benchmarks.side_by_side import spread
from tests.benchmarks.trial_rate import STUDY, THREADS

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(__file__).with_name("peer_programs.py")
WORKERS = 2
MODELS = "conductivity"
KILLED = "sleep-1"
# How many trials of each kind of work.
BUDGETS = {"no-op": 60, "sleep-0.1": 60, MODELS: 24, KILLED: 12}
ALPHA = [["alpha", "float", 0.0, 10.0, False]]


@dataclass(frozen=True)
class Peer:
    """A study runner.

    Attributes
    ----------
    packages
        What is installed, with versions; the first one is named in the table. None for `hpo`.
    processes
        How many processes a user starts.
    """

    name: str
    packages: tuple[str, ...]
    processes: int = 1


# NePS takes any PyTorch; a named version keeps its installation the same everywhere.
PEERS = {
    "optuna": Peer("plain Optuna, SQLite", ("optuna==5.0.0",), WORKERS),
    "ray": Peer("Ray Tune, OptunaSearch", ("ray[tune]==2.60.0", "optuna==5.0.0")),
    "neps": Peer(
        "NePS, random search", ("neural-pipeline-search==0.17.0", "torch==2.13.0"), WORKERS
    ),
    "syne": Peer("Syne Tune, local backend, TPE", ("syne-tune==0.16.0",)),
    "hydra": Peer(
        "Hydra, Optuna sweeper, joblib",
        ("hydra-optuna-sweeper==1.2.0", "hydra-core==1.3.2", "hydra-joblib-launcher==1.2.0"),
    ),
    "hpo": Peer("hpo run", ()),
}


@dataclass
class Run:
    """What one run of a contestant came to.

    Attributes
    ----------
    began
        When the commands were started, in seconds since the epoch.
    ends
        When evaluations ended, in seconds from the start of the first command.
    evaluated
        How many different points were evaluated to the end.
    again
        Evaluations beyond the first one that began of the same point.
    finished
        Finished trials in the contestant's own books; None if it did not come to say.
    exit_codes
        Of the processes that a user started.
    cpu_s
        Of all processes, from their start to their end.
    """

    began: float = 0.0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    ends: list[float] = field(default_factory=list)
    evaluated: int = 0
    again: int = 0
    finished: int | None = None
    exit_codes: list[int] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Evaluations per second from the end of the first one to the end of the last."""
        return (len(self.ends) - 1) / (self.ends[-1] - self.ends[0])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each kind of work."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_data(parser)
    parser.add_argument("--only", nargs="+", choices=PEERS, default=[*PEERS])
    parser.add_argument("--work", nargs="+", choices=BUDGETS, default=[*BUDGETS])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit-s", type=float, default=240.0, help="for each run")
    parser.add_argument(
        "--environments", type=Path, metavar="DIR", help="keep the environments there"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run there, too")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        kept = (options.environments or folder / "environments").resolve()
        pythons = {name: install(PEERS[name], kept / name) for name in options.only}
        models = _export_models(options.data, folder) if MODELS in options.work else None
        runs: dict[str, dict[str, list[Run]]] = {}
        for work in options.work:
            of = runs[work] = {name: [] for name in options.only}
            for number in range(options.rounds):
                for name, python in pythons.items():
                    where = folder / f"{work}-{name}-{number}"
                    where.mkdir()
                    run = run_one(name, python, work, where, models, options)
                    of[name].append(run)
                    print(f"{work}, {name}: {len(run.ends)} in {run.wall_s:.1f} s", flush=True)
            if options.json:
                found = {
                    work: {name: [vars(run) for run in of] for name, of in by_name.items()}
                    for work, by_name in runs.items()
                }
                options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
            print("\n".join(["", *format_table(work, of), ""]), flush=True)
    return 0


def install(peer: Peer, folder: Path) -> str:
    """Return the Python of an environment with a peer, which is made if it is not there."""
    if not peer.packages:
        return sys.executable
    python = folder / "bin" / "python"
    if (folder / "complete").exists():
        return str(python)
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder], check=True)
    ours = [f"{name}=={metadata.version(name)}" for name in ("numpy", "scikit-learn")]
    print(f"installing {', '.join(peer.packages)}", flush=True)
    # Our own pip serves all environments, of whatever Python.
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", *peer.packages, *ours], check=True)
    (folder / "complete").touch()
    return str(python)


@dataclass(frozen=True)
class Models:
    """The conductivity trial: the files of the peers' programs, and the table of ours."""

    files: Path
    table: Path
    data: Path


def _export_models(data: Path, folder: Path) -> Models:
    import numpy as np

    import features.table
    from hpo.objectives.folds import make_folds
    from hpo.spec.loading import load

    spec = load(STUDY)
    assert spec.table is not None
    assert spec.cv is not None
    built = features.table.build(
        spec.table, data_dir=data, tables_dir=folder / "tables", base_dir=STUDY.parent, log=print
    )
    train = features.table.read(built.path).train
    fold = np.full(len(train.y), -1)
    for number, rows in enumerate(make_folds(spec.cv, train.groups)):
        fold[rows.validation] = number
    files = folder / "models"
    files.mkdir()
    penalty = getattr(spec.objective, "penalty", 0.0)
    np.savez(files / "data.npz", X=train.X, y=train.y, fold=fold, penalty=penalty)
    space = [[name, d.type, d.low, d.high, d.log] for name, d in spec.space.items()]  # type: ignore[union-attr]
    (files / "space.json").write_text(json.dumps(space), encoding="utf-8")
    return Models(files, built.path, data)


def run_one(
    name: str, python: str, work: str, where: Path, models: Models | None, options: Any
) -> Run:
    """Run one contestant in an empty folder."""
    budget = BUDGETS[work]
    if models is not None and work == MODELS:
        shutil.copytree(models.files, where, dirs_exist_ok=True)
    else:
        (where / "space.json").write_text(json.dumps(ALPHA), encoding="utf-8")
    environment = {**os.environ, **dict.fromkeys(THREADS, "1"), "PYTHONWARNINGS": "ignore"}
    # What the peers would otherwise write or send elsewhere.
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "SYNETUNE_FOLDER": str(where / "syne")}
    environment.pop("PYTHONPATH", None)
    if name == "hpo":
        environment["PYTHONPATH"] = str(ROOT)
        commands = [_hpo(work, budget, where, models)]
    else:
        program = [python, "-P", str(PROGRAMS)]
        told = ["--trials", str(budget), "--work", work]
        if name == "optuna":
            subprocess.run(
                [*program, "create-optuna", *told], cwd=where, env=environment, check=True
            )
        commands = [[*program, name, *told]] * PEERS[name].processes
    run = _watch(commands, environment, where, options.limit_s, kill_at=_kill_at(work))
    if name == "hpo":
        _read_storage(where, run)
    elif (where / "books.json").exists():
        run.finished = json.loads((where / "books.json").read_text())["finished"]
    return run


def _kill_at(work: str) -> int | None:
    return BUDGETS[work] // 2 if work == KILLED else None


def _hpo(work: str, budget: int, where: Path, models: Models | None) -> list[str]:
    run = [sys.executable, "-m", "hpo", "run"]
    workers = ["--workers", str(WORKERS), "--name", "x"]
    if models is not None and work == MODELS:
        # Every trial in all folds, as the others do it.
        return [
            *(*run, str(STUDY), *workers, "--trials", str(budget), "--set", "pruning=false"),
            *("--data", str(models.data), "--tables", str(models.table.parent)),
        ]
    study = (
        f"trials = {budget}\n"
        "[objective]\n"
        f'name = "tests.benchmarks.peer_programs:Work"\nparams = {{ work = "{work}" }}\n'
        '[space]\nalpha = { type = "float", low = 0.0, high = 10.0 }\n'
    )
    (where / "x.toml").write_text(study, encoding="utf-8")
    return [*run, "x.toml", *workers]


# One run ---------------------------------------------------------------------------------------


def _watch(
    commands: Sequence[Sequence[str]],
    environment: dict[str, str],
    where: Path,
    limit_s: float,
    kill_at: int | None,
) -> Run:
    """Run commands to their end, and kill an evaluating process after so many evaluations."""
    run, cpu = Run(began=time.time()), _CpuTimes()
    began = run.began
    with (where / "log.txt").open("wb") as log:
        processes = [
            subprocess.Popen(command, cwd=where, env=environment, stdout=log, stderr=log)
            for command in commands
        ]
        while any(process.poll() is None for process in processes):
            cpu.look([process.pid for process in processes])
            if kill_at is not None and _kill_one(where, kill_at):
                kill_at = None
            if time.time() > began + limit_s:
                _end(processes)
            time.sleep(0.05)
    run.wall_s = time.time() - began
    run.cpu_s = cpu.total_s
    run.exit_codes = [process.returncode for process in processes]
    lines = list(_journal(where))
    done = {key for event, _, key, _ in lines if event == "end"}
    begun = [key for event, _, key, _ in lines if event == "begin"]
    run.ends = [at - began for event, _, _, at in lines if event == "end"]
    run.evaluated, run.again = len(done), len(begun) - len(set(begun))
    return run


class _CpuTimes:
    """CPU seconds of the descendants of processes, those that have ended included."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, float], float] = {}

    @property
    def total_s(self) -> float:
        """The sum of what each process had used when it was last seen."""
        return sum(self._seen.values())

    def look(self, pids: Sequence[int]) -> None:
        """See what is alive."""
        for pid in pids:
            try:
                root = psutil.Process(pid)
                family = [root, *root.children(recursive=True)]
            except psutil.NoSuchProcess:
                continue
            for process in family:
                try:
                    used = process.cpu_times()
                    self._seen[process.pid, process.create_time()] = used.user + used.system
                except psutil.NoSuchProcess:
                    continue


def _journal(where: Path) -> Iterator[tuple[str, int, str, float]]:
    path = where / "journal.txt"
    text = path.read_text() if path.exists() else ""
    for line in text[: text.rfind("\n") + 1].splitlines():
        event, pid, key, at = line.split()
        yield event, int(pid), key, float(at)


def _kill_one(where: Path, after: int) -> bool:
    """Kill a process that has just begun a point, if so many have ended."""
    lines = list(_journal(where))
    if sum(event == "end" for event, *_ in lines) < after:
        return False
    ended = {(pid, key) for event, pid, key, _ in lines if event == "end"}
    for event, pid, key, at in reversed(lines):
        if event == "begin" and (pid, key) not in ended and time.time() - at < 0.5:
            os.kill(pid, signal.SIGKILL)
            return True
    return False


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.wait()


def _read_storage(where: Path, run: Run) -> None:
    import optuna
    from optuna.trial import TrialState

    storage = optuna.storages.RDBStorage(f"sqlite:///{where / 'hpo.db'}")
    trials = optuna.load_study(study_name="x", storage=storage).get_trials(deepcopy=False)
    storage.engine.dispose()
    ends = [
        trial.datetime_complete.timestamp()
        for trial in trials
        if trial.state is TrialState.COMPLETE and trial.datetime_complete is not None
    ]
    run.finished = len(ends)
    if not run.ends and ends:
        # Models are fitted by the engine's objective, which keeps no journal.
        run.ends = [end - run.began for end in sorted(ends)]
        run.evaluated = len(ends)


# The table -------------------------------------------------------------------------------------


def format_table(work: str, runs: dict[str, list[Run]]) -> list[str]:
    """Return a table: medians over rounds, with the smallest and the largest."""
    budget = BUDGETS[work]
    lines = [
        f"| {work}, {budget} trials | trials/s | CPU s/trial | first result, s | whole command, s "
        "| evaluated | again | in its books | exit |",
        "|---|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for name, of in runs.items():
        ended = [run for run in of if len(run.ends) > 1]
        cells = (
            _title(PEERS[name]),
            spread([run.rate for run in ended]),
            spread([run.cpu_s / len(run.ends) for run in ended], 3),
            spread([run.ends[0] for run in ended], 1),
            spread([run.wall_s for run in of], 1),
            _all([run.evaluated for run in of]),
            _all([run.again for run in of]),
            _all(["?" if run.finished is None else run.finished for run in of]),
            _all([max(map(abs, run.exit_codes)) for run in of]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _title(peer: Peer) -> str:
    if not peer.packages:
        return peer.name
    return f"{peer.name} ({peer.packages[0].partition('==')[2]})"


def _all(values: Sequence[Any]) -> str:
    """Return one value if all are the same."""
    return ", ".join(dict.fromkeys(map(str, values)))


if __name__ == "__main__":
    sys.exit(main())
