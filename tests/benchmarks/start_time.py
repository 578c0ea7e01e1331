"""How long until a command answers, and until a worker works?

Each round measures everything once, one after another, beside the bare import of optuna and the
estimator's module in a Python of its own; a ratio compares two measurements of one round. A worker
is measured from its beginning to its end on a finished study: it enters the books, asks for a
trial, is told that there is none, and leaves.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpo.launch.processes import WorkerSource, worker_source
from hpo.spec.loading import load
from hpo.spec.sections import StudySpec
from hpo.worker.channel import WorkerOrder

ROOT = Path(__file__).resolve().parents[2]
URL = "sqlite:///hpo.db"
BARE = "bare import of optuna and {module}"
MODULES = {"hist_gradient_boosting": "sklearn.ensemble", "lightgbm": "lightgbm"}
STUDY = """
trials = 1
[table]
dataset = "csv"
path = "mine.csv"
families = ["ratios"]
[cv]
scheme = "kfold"
folds = 3
[estimator]
name = "{estimator}"
"""


@dataclass(frozen=True)
class Cost:
    """Seconds of processor time and by the clock."""

    cpu_s: float
    wall_s: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line per way of starting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--estimator", choices=MODULES, default="hist_gradient_boosting")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        spec = prepare(options.estimator)
        with worker_source(spec, 1) as source:
            ways = ways_to_start(MODULES[options.estimator], source)
            rounds = [{way: run() for way, run in ways.items()} for _ in range(options.rounds)]
    for line in table(rounds):
        print(line)
    return 0


def prepare(estimator: str) -> StudySpec:
    """Run two studies until they are finished: one has a report, the other gets workers."""
    elements = ("Na", "K", "Rb", "Mg", "Ca", "Sr", "Zn", "Al", "Ga", "Ti", "Zr", "Sn")
    rows = [f"Li{n}{element}O{n},{n + len(element)}" for element in elements for n in range(1, 9)]
    Path("mine.csv").write_text("\n".join(["formula,target", *rows]) + "\n")
    Path("reported.toml").write_text(STUDY.format(estimator=estimator))
    for name in ("reported", "joined"):
        hpo("run", "reported.toml", "--workers", "1", "--name", name)
    return load(Path("reported.toml"), ())


def ways_to_start(module: str, source: WorkerSource) -> dict[str, Callable[[], Cost]]:
    """Return what is measured, by its description; the bare import comes first."""
    run = ("run", "reported.toml", "--name", "reported")
    bare = [sys.executable, "-c", f"import optuna, {module}"]
    return {
        BARE.format(module=module): lambda: cost_of(lambda: start(bare)),
        "hpo --help": lambda: cost_of(lambda: hpo("--help")),
        "hpo worker, from beginning to end": lambda: cost_of(lambda: hpo("worker", "joined")),
        "forked worker: the fork": lambda: cost_of(lambda: fork(source, wait=False)),
        "forked worker, from beginning to end": lambda: cost_of(lambda: fork(source, wait=True)),
        "hpo run of a finished study": lambda: cost_of(lambda: hpo(*run)),
    }


def cost_of(run: Callable[[], object]) -> Cost:
    """Return what a call costs in this process and in those that it starts and waits for."""
    cpu_s, began = _cpu_s(), time.perf_counter()
    run()
    return Cost(_cpu_s() - cpu_s, time.perf_counter() - began)


def fork(source: WorkerSource, *, wait: bool) -> None:
    """Fork a worker, and wait for its end if asked; else its end belongs to nobody."""
    order = WorkerOrder(URL, "joined", "logs/joined", os.getpid(), worker_id=uuid.uuid4().hex)
    while (process := source.start(order)) is None:
        source.pause(1.0)
    if wait and process.wait(120.0) != 0:
        raise RuntimeError("the forked worker failed; see its log")


def hpo(*arguments: str) -> None:
    """Run `hpo ARGUMENTS`."""
    start([sys.executable, "-m", "hpo", *arguments])


def start(command: Sequence[str]) -> None:
    """Run a command with one thread, as all of `hpo` runs."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | one,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def table(rounds: Sequence[dict[str, Cost]]) -> Iterator[str]:
    """Yield a line per way: medians, and the ratio to the bare import with its extremes."""
    bare = next(iter(rounds[0]))
    yield f"{len(rounds)} rounds; ratios to the bare import of the same round: median (extremes)"
    yield f"{'':40} {'CPU s':>7} {'wall s':>7}  {'CPU ratio':20} {'wall ratio':20}"
    for way in rounds[0]:
        cpu, wall = ([vars(one[way])[kind] for one in rounds] for kind in ("cpu_s", "wall_s"))
        cpu_ratio = _spread([one[way].cpu_s / one[bare].cpu_s for one in rounds])
        wall_ratio = _spread([one[way].wall_s / one[bare].wall_s for one in rounds])
        medians = f"{statistics.median(cpu):7.3f} {statistics.median(wall):7.3f}"
        yield f"{way:40} {medians}  {cpu_ratio:20} {wall_ratio:20}".rstrip()


def _spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})"


def _cpu_s() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    sys.exit(main())
