"""`hpo run`, `resume`, `check` and `worker`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.commands.common import (
    INTERRUPTED,
    absolute,
    add_command,
    add_set,
    add_shared,
    open_storage,
    positive,
    print_line,
    say,
    storage_hint,
)
from hpo.commands.looking import summary
from hpo.errors import HpoError

if TYPE_CHECKING:
    from hpo.spec import StudySpec
    from hpo.study import Source, StudyRecord


def add_to(commands: Any) -> None:
    """Add these commands to the command line."""
    parser = add_command(
        commands, "run", run, "run a study until it is finished, with local workers"
    )
    parser.add_argument("study", type=Path, metavar="STUDY", help="the study file (TOML)")
    _add_run_options(parser)
    parser.add_argument("--name", help="name of the study (default: the file's)")
    parser.add_argument("--seed", type=int, help="seed of sampler and estimator")
    add_set(parser)

    parser = add_command(commands, "resume", resume, "go on with a study that was stopped")
    parser.add_argument("name", metavar="NAME", help="the study's name")
    _add_run_options(parser)

    parser = add_command(commands, "check", check, "validate study files without running them")
    parser.add_argument("studies", type=Path, nargs="+", metavar="STUDY")
    add_set(parser)

    parser = add_command(commands, "worker", worker, "add one worker to a study")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--id", help=argparse.SUPPRESS)
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    add_shared(parser, "storage", "logs")


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=positive, default=None, metavar="N")
    parser.add_argument("--trials", type=positive, metavar="N", help="the budget")
    parser.add_argument(
        "--accept",
        type=lambda text: tuple(part for part in text.split(",") if part),
        default=(),
        metavar="PART,…",
        help="go on although these parts of the study changed; written down in the study",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="refuse to go on with another commit, lock file or Python, too",
    )
    add_shared(parser, "storage", "data", "tables", "reports", "logs")


def run(options: argparse.Namespace) -> int:
    """Build the table of a study file, run the study, write its report."""
    from hpo.spec import load
    from hpo.study import Source

    flags = {key: getattr(options, key) for key in ("name", "trials", "seed")}
    overrides = [
        *options.set,
        *(f"{key}={json.dumps(value)}" for key, value in flags.items() if value is not None),
    ]
    spec = load(options.study, overrides)
    source = Source(str(options.study.resolve()), tuple(overrides), absolute(options.data))
    return _go(options, spec, source, None)


def resume(options: argparse.Namespace) -> int:
    """Go on with a stored study; its file is read again if it is there."""
    from dataclasses import replace

    from hpo.study import find

    record = find(open_storage(options), options.name)
    trials = options.trials or record.ledger.counts().budget
    source = record.source
    if options.data:
        source = replace(source, data_dir=absolute(options.data))
    spec = (source.load() or record.spec).model_copy(update={"trials": trials})
    return _go(options, spec, source, record.table_path)


def _go(
    options: argparse.Namespace, spec: StudySpec, source: Source, stored_table: Path | None
) -> int:
    from hpo.estimators import check_estimator
    from hpo.plugins import make_importable
    from hpo.study import begin, build_table

    make_importable(Path(source.file))
    check_estimator(spec, source.file)
    storage = open_storage(options, create=True)
    table = build_table(spec, source, Path(options.tables), say, stored_table)
    record = begin(storage, spec, source, table, options.accept, strict=options.strict)
    counts = record.ledger.counts()
    if counts.done:
        say(
            f"study '{record.name}' is finished: {counts.finished} of {counts.budget} trials; "
            "nothing to do (more: --trials N)"
        )
        return _finish(options, record)
    if counts.finished or counts.free or counts.held:
        say(f"going on with study '{record.name}': {counts.finished} of {counts.budget} finished")
    return _work(options, record)


def _work(options: argparse.Namespace, record: StudyRecord) -> int:
    from hpo.launcher import LocalLauncher
    from hpo.progress import Progress

    progress = Progress(record, sys.stderr)
    workers = options.workers or len(os.sched_getaffinity(0))
    logs = Path(options.logs) / record.name
    launcher = LocalLauncher(record, workers, logs, progress)
    say(f"study '{record.name}': {record.spec.trials} trials, {workers} workers, logs in {logs}")
    try:
        finished = launcher.run()
    finally:
        progress.close()
    if not finished:
        counts = record.ledger.counts()
        say(
            f"stopped: {counts.finished} of {counts.budget} trials finished, nothing is lost; "
            f"go on with: hpo resume {record.name}{storage_hint(options)}"
        )
        return INTERRUPTED
    return _finish(options, record)


def _finish(options: argparse.Namespace, record: StudyRecord) -> int:
    from hpo.report import write_report

    path = write_report(record, Path(options.reports))
    for line in summary(record):
        print_line(line)
    print_line(f"report: {path}")
    return 0


def check(options: argparse.Namespace) -> int:
    """Validate study files; all of them, whatever is wrong with the first."""
    from hpo.estimators import check_estimator
    from hpo.plugins import make_importable
    from hpo.spec import load

    wrong = 0
    for path in options.studies:
        try:
            spec = load(path, options.set)
            make_importable(path)
            check_estimator(spec, str(path))
        except HpoError as exc:
            say(f"error: {exc}")
            wrong += 1
        else:
            print_line(f"{path}: ok, study '{spec.name}', {len(spec.space)} dimensions")
    return HpoError.exit_code if wrong else 0


def worker(options: argparse.Namespace) -> int:
    """Be one worker of a study until its budget is finished."""
    import logging
    import socket

    from hpo import provenance
    from hpo.ledger import Incarnation
    from hpo.study import find
    from hpo.worker import Orders, Worker, new_worker_id
    from hpo.worker_log import open_log

    worker_id = options.id or new_worker_id()
    log = open_log(Path(options.logs) / options.name, worker_id)
    record = find(open_storage(options), options.name)
    _, objective = record.open_objective()
    incarnation = Incarnation(
        host=socket.gethostname(),
        pid=os.getpid(),
        log=str(log) if log else None,
        provenance=provenance.collect_of_worker(),
    )
    outcome = Worker(record, objective, worker_id).run(incarnation, Orders(options.parent))
    logging.getLogger(__name__).info("left: %s", outcome)
    return 0
