"""Small studies that tests run as a user does: by the command line, in a folder of their own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hpo.spec.loading import validate
from hpo.spec.sections import StudySpec

ROOT = Path(__file__).resolve().parents[2]

PARABOLA = """
trials = {trials}
lease_s = {lease_s}
checkpoint_s = 0
max_deaths = 20
[objective]
name = "tests.support.objectives:{objective}"
params = {{ delay_s = {delay_s}, journal = "{journal}" }}
[space]
alpha = {{ type = "float", low = 0.0, high = 10.0 }}
"""


# A worker of a study in a storage, in a Python that can tell afterwards what it has imported.
WORKER = """
import os, socket, sys
from hpo.worker.channel import Channel, WorkerOrder
ours, theirs = socket.socketpair()
order = WorkerOrder(sys.argv[1], sys.argv[2], f"logs/{sys.argv[2]}", os.getppid(), worker_id="w1")
Channel(ours).tell(**order.as_message())
os._exit = sys.exit
from hpo.launch.worker_process import main
main(Channel(theirs))
"""


def command(*arguments: str) -> list[str]:
    """Return how `hpo ARGUMENTS` is started."""
    return [sys.executable, "-m", "hpo", *arguments]


def run_hpo(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `hpo ARGUMENTS`, which must end with that code and without a stack trace."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300)
    return check_done(done, code)


def check_done(
    done: subprocess.CompletedProcess[str], code: int
) -> subprocess.CompletedProcess[str]:
    """Assert that a command ended as it must, and return it."""
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def write_study(
    trials=12, delay_s=0.02, objective="Parabola", name="x", lease_s=3.0, journal="journal.txt"
) -> str:
    """Write NAME.toml in the working directory."""
    text = PARABOLA.format(
        trials=trials, delay_s=delay_s, objective=objective, lease_s=lease_s, journal=journal
    )
    Path(f"{name}.toml").write_text(text)
    return f"{name}.toml"


def journal() -> Counter[str]:
    """How often each part of each trial was computed."""
    return Counter(Path("journal.txt").read_text().splitlines())


def wait_until(condition, timeout_s=60.0) -> None:
    """Return when something is true; looking takes no more than a third of the time."""
    deadline = time.monotonic() + timeout_s
    while True:
        began = time.monotonic()
        if condition():
            return
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(max(0.05, 2.0 * (time.monotonic() - began)))


def make_spec(**changes: Any) -> StudySpec:
    """Return a small valid study over a table, with fields replaced."""
    raw: dict[str, Any] = {
        "name": "small",
        "trials": 6,
        "table": {"dataset": "transport", "families": ["ratios"]},
        "cv": {"scheme": "interleaved", "folds": 3},
        "estimator": {"name": "ridge"},
        "space": {"alpha": {"type": "float", "low": 1e-3, "high": 10.0, "log": True}},
    }
    raw.update(changes)
    return validate({key: value for key, value in raw.items() if value is not None}, "test")
