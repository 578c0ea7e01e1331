"""A Weights & Biases writer in a process of its own, beside a run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from hpo.study.record import StudyRecord

# How long `hpo run` waits at its end for the process that logs.
GRACE_S = 20.0

LOG_NAME = "wandb.log"

# What the process that logs ends with when it was asked to leave.
INTERRUPTED = 130


def start_background(
    record: StudyRecord, logs_dir: Path, reports_dir: Path
) -> subprocess.Popen[bytes]:
    """Start a process of its own that logs the study while it runs; it writes to wandb.log.

    Parameters
    ----------
    record
        The study.
    logs_dir
        Folder of the log.
    reports_dir
        Where this process will write the report.
    """
    logs_dir.mkdir(parents=True, exist_ok=True)
    url = record.storage.engine.url.render_as_string(hide_password=False)
    arguments = [
        *(sys.executable, "-m", "hpo", "wandb", record.name, "--watch"),
        *("--parent", str(os.getpid()), "--reports", str(reports_dir)),
    ]
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK
    with os.fdopen(os.open(logs_dir / LOG_NAME, flags, 0o644), "wb") as stream:
        return subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            # A URL may hold a password, which other users could read from a command line.
            env={**os.environ, "HPO_STORAGE": url},
            start_new_session=True,
        )


@contextlib.contextmanager
def tracked(
    record: StudyRecord, logs_dir: Path, reports_dir: Path, say: Callable[[str], None]
) -> Iterator[None]:
    """Log a study while this block works on it; no failure of it is one of the study."""
    try:
        process = start_background(record, logs_dir, reports_dir)
    except OSError as exc:
        say(f"Weights & Biases: cannot be started: {exc}")
        yield
        return
    try:
        yield
    except BaseException:
        process.terminate()
        raise
    else:
        if not record.ledger.counts().done:
            process.terminate()
    finally:
        if problem := end_background(process, logs_dir / LOG_NAME):
            say(f"Weights & Biases: {problem} (again: hpo wandb {record.name})")


def end_background(process: subprocess.Popen[bytes], log: Path) -> str | None:
    """Wait a little for the process that logs, then end it; return what went wrong, or None."""
    try:
        code = process.wait(timeout=GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return f"not done within {GRACE_S:g} s, nothing is lost; see {log}"
    if code in (0, INTERRUPTED, -signal.SIGTERM):
        return None
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("error: ") if lines else f"exit code {code}; see {log}"
