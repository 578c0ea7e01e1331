"""How long after a worker's death does its trial run again?

One trial, and a worker that has it in hand. It is killed with SIGKILL half a second after it began
a part; measured is the time until another process begins that part. Below `hpo run`, the launcher
sees the death and starts another worker; workers started by hand wait for the lease to run
out, and ask once per poll.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hpo.worker.loop import poll_interval

ROOT = Path(__file__).resolve().parents[2]
STUDY = """
trials = 1
lease_s = {lease_s}
max_deaths = 1000
[objective]
name = "tests.support.objectives:Witness"
params = {{ delay_s = 600.0, journal = "journal.txt" }}
[space]
alpha = {{ type = "float", low = 0.0, high = 10.0 }}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line for each way in which a death becomes known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deaths", type=int, default=8)
    parser.add_argument("--lease-s", type=float, default=6.0)
    options = parser.parse_args(arguments)
    bound_s = options.lease_s + poll_interval(options.lease_s)
    ways: dict[str, Callable[[Path], contextlib.AbstractContextManager[None]]] = {
        "its launcher sees it": launched,
        f"its lease runs out, a worker waits (bound {bound_s:.1f} s)": by_hand,
    }
    print(f"lease {options.lease_s:g} s, {options.deaths} deaths each; seconds")
    print(f"{'a death becomes known when':58} {'median':>7} {'max':>7}")
    for way, run in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "one.toml").write_text(STUDY.format(lease_s=options.lease_s))
            with run(Path(folder)):
                times = [die_once(Path(folder)) for _ in range(options.deaths)]
        print(f"{way:58} {statistics.median(times):7.2f} {max(times):7.2f}", flush=True)
    return 0


def die_once(folder: Path) -> float:
    """Kill the worker that has the trial, and return after how long another has it."""
    begun = wait_for_line(folder, beyond=-1)
    time.sleep(0.5)
    os.kill(begun.pid, signal.SIGKILL)
    killed_at = time.monotonic()
    return wait_for_line(folder, beyond=begun.index).at - killed_at


class Line:
    """One line of the journal: which process began the part, and when."""

    def __init__(self, index: int, text: str) -> None:
        _, _, pid, at = text.split()
        self.index, self.pid, self.at = index, int(pid), float(at)


def wait_for_line(folder: Path, beyond: int) -> Line:
    """Return the last line of the journal as soon as there is one after the given one."""
    deadline = time.monotonic() + 120.0
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            lines = (folder / "journal.txt").read_text().splitlines()
            if len(lines) - 1 > beyond:
                return Line(len(lines) - 1, lines[-1])
        time.sleep(0.01)
    raise TimeoutError("nobody began the part again")


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Start `hpo ARGUMENTS` in a folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "hpo", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@contextlib.contextmanager
def launched(folder: Path) -> Iterator[None]:
    """One worker below `hpo run`."""
    run = start(folder, "run", "one.toml", "--workers", "1")
    yield
    end([run], signal.SIGINT)


@contextlib.contextmanager
def by_hand(folder: Path) -> Iterator[None]:
    """Workers that nobody looks after."""
    begin = start(folder, "submit", "one.toml", "--workers", "0")
    begin.wait()
    workers = [start(folder, "worker", "one") for _ in range(12)]
    time.sleep(10.0)
    yield
    end(workers, signal.SIGTERM)


def end(processes: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    """End processes that may have ended."""
    for process in processes:
        process.send_signal(number)
    for process in processes:
        process.wait(timeout=60)


if __name__ == "__main__":
    sys.exit(main())
