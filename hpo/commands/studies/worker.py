"""`hpo worker`."""

from __future__ import annotations

import argparse
from pathlib import Path

from hpo.commands.common import add_shared, add_trust, say, seconds
from hpo.commands.studies.study_options import add_worker_options
from hpo.system.resources import loading, name_process


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("name", metavar="NAME")
    add_worker_options(parser, default=1)
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
    add_shared(parser, "storage", "logs", "reports")


def run(options: argparse.Namespace) -> int:
    """Keep workers of a study alive until its budget is finished."""
    name_process("hpo-launcher")
    with loading():
        from hpo.launch.job import LauncherSettings, run_launcher
    settings = LauncherSettings(
        logs=Path(options.logs),
        workers=options.workers,
        cpus_per_worker=options.cpus_per_worker,
        gpus_per_worker=options.gpus_per_worker,
        leave_before_s=options.leave_before,
        stagger_s=options.stagger,
        requeue=not options.no_requeue,
    )
    record = run_launcher(options.storage, options.name, settings, say)
    if record is not None:
        from hpo.report.at_end import write_when_finished

        page = write_when_finished(record, Path(options.reports), say)
        if page is not None:
            say(f"report: {page}")
    return 0
