"""What do workers ask of the store while they work, or wait for work, to be known to live?

Eight workers are started three ways, on a PostgreSQL server that writes every statement down: each
by a launcher of its own (`hpo worker`, as a SLURM job with one worker), all by one launcher
(`--workers 8`), and as plain Optuna with `heartbeat_interval`, a third of the grace period. They
first all hold a trial that never ends; then as many more wait for one (Optuna's have no waiting).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from hpo.storage.postgres.server import Server
from hpo.storage.urls import resolve_url
from tests.support.studies import ROOT

LEASE_S = 6.0
# As it is by default.
USUAL_LEASE_S = 60.0
STARTING_S = 45.0
OBJECTIVE = """
import time
from tests.support.objectives import Parabola

class Endless(Parabola):
    def score_part(self, params, part):
        time.sleep(100_000)
"""
STUDY = """
trials = {workers}
lease_s = {lease_s}
[objective]
name = "endless:Endless"
[space]
alpha = {{ type = "float", low = 0.0, high = 1.0 }}
"""
PLAIN = """
import sys, time, optuna
from optuna.storages import RDBStorage
storage = RDBStorage(sys.argv[1], heartbeat_interval={every_s}, grace_period={lease_s})
study = optuna.create_study(study_name="plain", storage=storage, load_if_exists=True)
study.optimize(lambda trial: time.sleep(100_000 * trial.suggest_float("alpha", 1.0, 1.1)), 1)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print statements a second of a thousand workers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=40.0, help="of each measurement")
    options = parser.parse_args(arguments)
    print(f"statements a second of 1,000 workers, lease {USUAL_LEASE_S:g} s (busy / waiting)")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        server = Server(Path("pg"))
        server.start("127.0.0.1", settings={"log_statement": "all"})
        try:
            for name, packed in (("a launcher each", False), ("one launcher", True)):
                busy, idle = measure_ours(server, options.workers, options.seconds, packed=packed)
                print(f"  hpo, {name}: {busy:.0f} / {idle:.0f}")
            plain = measure_plain(server, options.workers, options.seconds)
            print(f"  Optuna's heartbeat: {plain:.0f}")
        finally:
            server.stop()
    return 0


def measure_ours(
    server: Server, workers: int, seconds: float, *, packed: bool
) -> tuple[float, float]:
    """Return statements a second of a thousand busy workers, and of a thousand waiting ones."""
    name = "packed" if packed else "alone"
    Path("endless.py").write_text(OBJECTIVE)
    Path(f"{name}.toml").write_text(STUDY.format(workers=workers, lease_s=LEASE_S))
    hpo = [sys.executable, "-m", "hpo"]
    storage = ["--storage", str(server.folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    begin = [*hpo, "submit", f"{name}.toml", "--workers", "0", *storage]
    subprocess.run(begin, env=environment, check=True, capture_output=True)
    join = [*hpo, "worker", name, *storage]
    each = [[*join, "--workers", str(workers)]] if packed else [join] * workers
    with contextlib.ExitStack() as started:
        started.enter_context(running(each))
        time.sleep(STARTING_S)
        busy = count_while(server, seconds)
        started.enter_context(running(each))
        time.sleep(STARTING_S)
        both = count_while(server, seconds)
    return of_thousand(busy, workers), of_thousand(both - busy, workers)


def measure_plain(server: Server, workers: int, seconds: float) -> float:
    """Return statements a second of a thousand workers of plain Optuna."""
    code = PLAIN.format(every_s=int(LEASE_S / 3), lease_s=int(LEASE_S))
    url = resolve_url(str(server.folder))
    with running([[sys.executable, "-c", code, url]] * workers):
        time.sleep(STARTING_S)
        return of_thousand(count_while(server, seconds), workers)


@contextlib.contextmanager
def running(commands: Sequence[Sequence[str]]) -> Iterator[None]:
    """Run commands meanwhile."""
    processes = [
        subprocess.Popen(
            command,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for command in commands
    ]
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def count_while(server: Server, seconds: float) -> float:
    """Return how many statements a second the server is asked, beginnings and ends included."""
    before = count(server)
    time.sleep(seconds)
    return (count(server) - before) / seconds


def count(server: Server) -> int:
    """Return how many statements the server has written down."""
    return len(re.findall(rb"(?:statement|execute [^:]*): ", server.log.read_bytes()))


def of_thousand(per_second: float, workers: int) -> float:
    """Return what a thousand workers with the usual lease would ask."""
    return per_second / workers * 1000.0 * LEASE_S / USUAL_LEASE_S


if __name__ == "__main__":
    sys.exit(main())
