"""`hpo worker`."""

from __future__ import annotations

import argparse
from pathlib import Path

from hpo.commands.common import add_shared, add_trust, seconds
from hpo.system.resources import loading, name_process


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--id", help=argparse.SUPPRESS)
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    parser.add_argument(
        "--leave-before",
        type=seconds,
        default=120.0,
        metavar="S",
        help="in a SLURM job: leave this long before its time limit (default: 120)",
    )
    parser.add_argument(
        "--stagger",
        type=seconds,
        default=120.0,
        metavar="S",
        help="… spread over this many further seconds (default: 120)",
    )
    parser.add_argument(
        "--no-requeue",
        action="store_true",
        help="do not go back into the queue at the time limit or when preempted",
    )
    add_trust(parser)
    add_shared(parser, "storage", "logs")


def run(options: argparse.Namespace) -> int:
    """Be one worker of a study until its budget is finished."""
    name_process("hpo-worker")
    with loading():
        from hpo.launch.worker_process import WorkerSettings, run_worker
    settings = WorkerSettings(
        logs=Path(options.logs),
        worker_id=options.id,
        parent=options.parent,
        leave_before_s=options.leave_before,
        stagger_s=options.stagger,
        requeue=not options.no_requeue,
    )
    run_worker(options.storage, options.name, settings)
    return 0
