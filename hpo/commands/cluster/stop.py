"""`hpo stop`."""

from __future__ import annotations

import argparse
import os
import signal
import socket
from pathlib import Path

from hpo.commands.common import add_shared, open_storage, print_line, say
from hpo.launch.slurm_workers import stop_jobs
from hpo.records import Access
from hpo.storage.events import EventKind
from hpo.study.record import find
from hpo.study.status import WorkerStatus, list_workers
from slurm.errors import SlurmError


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("name", metavar="NAME")
    parser.add_argument(
        "--now", action="store_true", help="trials are released at once, at the part they are at"
    )
    add_shared(parser, "storage")


def run(options: argparse.Namespace) -> int:
    """End a study gracefully, or at once."""
    record = find(open_storage(options, Access.WORK), options.name)
    counts = record.ledger.counts()
    if counts.done:
        print_line(f"study '{record.name}' is finished: there is nothing to stop")
        return 0
    record.ledger.stop("now" if options.now else "gently")
    cancelled: dict[str, list[str]] = {}
    if record.ledger.events(EventKind.SUBMITTING) or record.ledger.events(EventKind.SUBMITTED):
        try:
            cancelled, elsewhere = stop_jobs(record, now=options.now)
        except SlurmError as exc:
            say(f"jobs are not cancelled, they will end by themselves: {exc}")
        else:
            if elsewhere:
                say(
                    f"jobs on {', '.join(sorted(elsewhere))} are not cancelled from here, they "
                    "will end by themselves; or use hpo stop there"
                )
    alive = [worker for worker in list_workers(record) if worker.alive]
    if options.now:
        for worker in alive:
            _terminate(worker)
    what = "give their trials back and leave" if options.now else "finish their trials and leave"
    n_cancelled = sum(map(len, cancelled.values()))
    each = ", ".join(f"{section} {len(jobs)}" for section, jobs in cancelled.items())
    print_line(
        f"study '{record.name}' is stopped at {counts.finished} of {counts.budget} trials; "
        f"{len(alive)} workers {what}, {n_cancelled} jobs cancelled"
        + (f" ({each})" if len(cancelled) > 1 else "")
    )
    return 0


def _terminate(worker: WorkerStatus) -> None:
    """Tell a worker on this machine at once; others learn it with their next heartbeat."""
    if worker.host != socket.gethostname() or worker.job is not None:
        return
    try:
        arguments = Path(f"/proc/{worker.pid}/cmdline").read_bytes().split(b"\0")
        # The process id may be somebody else's by now.
        if b"worker" in arguments:
            os.kill(worker.pid, signal.SIGTERM)
    except OSError:
        return
