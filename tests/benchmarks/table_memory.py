"""How much memory does each further worker of a large table take, at rest and in a fit?

`hpo run` with two workers over a table of so many rows and columns, of which a part is held out.
Each has a trial, whose estimator sleeps in its first fit and keeps nothing of its own: what a fit
is handed. One sleeps longer, and meanwhile the other waits: what a worker takes at rest. With an
estimator in place of that one the most of each worker is taken; what it has above the sleeping one
is the estimator's own. Private memory is a worker's alone; of its proportional share (Pss), what it
shares counts by how many share it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

from features.table import Column, OwnRows, Target
from hpo.estimators.protocol import Floats

ROOT = Path(__file__).resolve().parents[2]
FITTING = "fitting"
AT_REST = "a worker at rest"
SLEEP_S = 3.0
STUDY = """
trials = {trials}
[table]
dataset = "own"
loader = "tests.benchmarks.table_memory:make_rows"
params = {{ n_rows = {rows}, n_columns = {columns}, held_out = {held_out} }}
[cv]
scheme = "kfold"
folds = {folds}
[estimator]
{estimator}
[space]
{space}
"""
ESTIMATORS = {
    "none": (
        'name = "tests.benchmarks.table_memory:Sleeper"',
        'x = { type = "float", low = 0.1, high = 1.0 }',
        2,
    ),
    "ridge": ('name = "ridge"', 'alpha = { type = "float", low = 0.1, high = 1.0 }', 2),
    "hist_gradient_boosting": (
        'name = "hist_gradient_boosting"\nparams = { max_iter = 3, early_stopping = false }',
        'learning_rate = { type = "float", low = 0.1, high = 1.0 }',
        2,
    ),
    "lightgbm": (
        'name = "lightgbm"\nparams = { n_estimators = 3 }',
        'learning_rate = { type = "float", low = 0.1, high = 1.0 }',
        2,
    ),
}


class Memory(NamedTuple):
    """Of one process, in 10**6 bytes."""

    private: float
    pss: float
    rss: float


class Sleeper:
    """A regressor that keeps nothing of what it is given; its first fit takes a while."""

    def __init__(self, x: float = 0.0) -> None:
        self.x = x

    def fit(self, X: Floats, y: Floats) -> Sleeper:
        """Sleep, and say so by a file meanwhile."""
        mark = Path(f"{FITTING}.{os.getpid()}")
        if not mark.exists():
            is_second = any(Path().glob(f"{FITTING}.*"))
            mark.touch()
            time.sleep(SLEEP_S * (3 if is_second else 1))
            mark.write_text("done")
        return self

    def predict(self, X: Floats) -> Floats:
        """Return the first column."""
        return np.array(X[:, 0])


def make_rows(data_dir: Path | None, n_rows: int, n_columns: int, held_out: float) -> OwnRows:
    """Return rows of noise, of which some that lie apart are held out."""
    rng = np.random.default_rng(0)
    names = [f"r{row}" for row in range(n_rows)]
    return OwnRows(
        ids=names,
        groups=names,
        labels=names,
        X=rng.random((n_rows, n_columns)),
        y=rng.random(n_rows),
        columns=[Column(f"c{column}", "noise") for column in range(n_columns)],
        target=Target("noise", ""),
        is_train=rng.random(n_rows) >= held_out,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table of workers at rest and in fits."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--columns", type=int, default=128)
    parser.add_argument("--held-out", type=float, default=0.1)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--estimators", nargs="*", choices=ESTIMATORS, default=[*ESTIMATORS])
    options = parser.parse_args(arguments)
    size = options.rows * options.columns * 8e-6
    print(f"{options.rows} x {options.columns}: {size:.0f} MB; MB, and % of the table")
    print(f"{'':44} {'private':>14} {'Pss':>14} {'RSS':>14}")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name in options.estimators:
            for what, memory in measure(name, options).items():
                cells = (f"{value:7.0f} {100 * value / size:4.0f} %" for value in memory)
                print(f"{name + ': ' + what:44} {' '.join(cells)}", flush=True)
    return 0


def measure(name: str, options: argparse.Namespace) -> dict[str, Memory]:
    """Run a study and return what its processes took, by what they were doing."""
    estimator, space, trials = ESTIMATORS[name]
    settings: dict[str, Any] = {key: getattr(options, key) for key in ("rows", "columns", "folds")}
    settings |= {"held_out": options.held_out, "trials": trials}
    Path(f"{name}.toml").write_text(STUDY.format(estimator=estimator, space=space, **settings))
    command = [sys.executable, "-m", "hpo", "run", f"{name}.toml", "--workers", "2"]
    found: dict[str, Memory] = {}
    with Path("log.txt").open("w") as log:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        process = psutil.Popen(command, stdout=log, stderr=log, env=environment)
        while process.poll() is None:
            for what, memory in look(process, sleeps=name == "none"):
                # Who has slept still scores the other folds, and then rests.
                keep = min if what == AT_REST else max
                found[what] = keep(memory, found.get(what, memory))
            if f"{trials}/{trials} trials" in Path("log.txt").read_text():
                # Its report is of no interest here.
                for one in (*process.children(recursive=True), process):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        one.kill()
                process.wait()
            time.sleep(0.05)
    if not found:
        raise SystemExit(Path("log.txt").read_text())
    return found


def look(process: psutil.Popen, *, sleeps: bool) -> list[tuple[str, Memory]]:
    """Return what each process below a launcher takes now, and what it is doing."""
    seen = []
    for child in process.children():
        with contextlib.suppress(psutil.NoSuchProcess, OSError):
            called = child.name()
            if called == "hpo-worker" and not sleeps:
                seen.append(("the most of a worker", memory_of(child.pid)))
            mark = Path(f"{FITTING}.{child.pid}")
            if called != "hpo-worker" or not mark.exists():
                continue
            if not mark.read_text():
                seen.append(("a worker in a fit", memory_of(child.pid)))
            elif time.time() - mark.stat().st_mtime > SLEEP_S / 2.0:
                seen.append((AT_REST, memory_of(child.pid)))
    return seen


def memory_of(pid: int) -> Memory:
    """Return what a process takes, as the kernel says."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kilobytes = {line.split()[0]: int(line.split()[1]) for line in lines}
    private = kilobytes["Private_Clean:"] + kilobytes["Private_Dirty:"]
    return Memory(*(value * 1024e-6 for value in (private, kilobytes["Pss:"], kilobytes["Rss:"])))


if __name__ == "__main__":
    sys.exit(main())
