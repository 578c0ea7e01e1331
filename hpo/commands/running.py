"""`hpo run`, `resume`, `check` and `worker`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.commands.common import (
    INTERRUPTED,
    absolute,
    add_command,
    add_set,
    add_shared,
    from_variable,
    open_storage,
    positive,
    print_line,
    say,
    seconds,
    storage_hint,
)
from hpo.commands.looking import summary
from hpo.errors import AbsentError, HpoError, SpecError

if TYPE_CHECKING:
    from hpo.ledger import Incarnation
    from hpo.spec import StudySpec
    from hpo.study import Source, StudyRecord
    from hpo.worker import Orders
    from hpo.worker_processes import WorkerSource
    from slurm.submit import Job

LEAVING_SHARE = 0.08


def add_to(commands: Any) -> None:
    """Add these commands to the command line."""
    parser = add_command(
        commands, "run", run, "run a study until it is finished, with local workers"
    )
    add_study_options(parser)
    parser.add_argument("--workers", type=positive, metavar="N", **from_variable("HPO_WORKERS"))
    add_shared(parser, "reports")

    parser = add_command(commands, "resume", resume, "go on with a study that was stopped")
    parser.add_argument("name", metavar="NAME", help="the study's name")
    parser.add_argument("--workers", type=positive, metavar="N", **from_variable("HPO_WORKERS"))
    _add_going_on(parser)
    add_shared(parser, "reports")

    parser = add_command(commands, "check", check, "validate study files without running them")
    parser.add_argument(
        "studies", type=Path, nargs="+", metavar="STUDY", help="study files, or folders of them"
    )
    add_set(parser)

    parser = add_command(commands, "worker", worker, "add one worker to a study")
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
    add_shared(parser, "storage", "logs")


def add_study_options(parser: argparse.ArgumentParser) -> None:
    """Add what every command that begins a study from its file takes."""
    parser.add_argument("study", type=Path, metavar="STUDY", help="the study file (TOML)")
    parser.add_argument(
        "--name", default=os.environ.get("HPO_NAME"), help="name of the study (default: the file's)"
    )
    parser.add_argument(
        "--seed", type=int, help="seed of sampler and estimator", **from_variable("HPO_SEED")
    )
    add_set(parser)
    parser.add_argument(
        "--variant",
        metavar="NAME",
        help="as variants.toml beside the study file says; the study is named STUDY.NAME",
    )
    _add_going_on(parser)


def _add_going_on(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trials",
        type=positive,
        metavar="N",
        help="the budget",
        **from_variable("HPO_TRIALS"),
    )
    parser.add_argument(
        "--accept",
        type=lambda text: tuple(part for part in text.split(",") if part),
        default=os.environ.get("HPO_ACCEPT") or "",
        metavar="PART,…",
        help="go on although these parts of the study changed; written down in the study",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="refuse to go on with another commit, lock file or Python, too",
    )
    add_shared(parser, "storage", "data", "tables", "logs")


def run(options: argparse.Namespace) -> int:
    """Build the table of a study file, run the study, write its report; or so for a folder."""
    if options.study.is_dir():
        return _run_family(options)
    spec, source = read_study(options)
    return run_study(options, spec, source, None)


def _run_family(options: argparse.Namespace) -> int:
    """Run every study file of a folder, one after another, and compare them."""
    from features.table import FeaturesError
    from hpo.commands.comparing import print_comparison
    from hpo.study import find

    if options.name is not None:
        raise SpecError(f"--name {options.name}: the studies of a folder have their files' names")
    worst, done = 0, []
    for spec, source in _read_family(options):
        try:
            code = run_study(options, spec, source, None, again=False)
        except (HpoError, FeaturesError) as exc:
            # The others do not depend on it.
            say(f"error: {exc}")
            code = getattr(exc, "exit_code", HpoError.exit_code)
        if code == INTERRUPTED:
            return INTERRUPTED
        worst = max(worst, code)
        if code == 0:
            done.append(spec.name)
    storage = open_storage(options)
    records = [find(storage, name) for name in done]
    print_comparison(records, reports_dir=Path(options.reports))
    return worst


def _read_family(options: argparse.Namespace) -> list[tuple[StudySpec, Source]]:
    """Read and check all study files of a folder before the first is run.

    A mistake in the last one should not come to light hours later.
    """
    from hpo.family import study_files
    from hpo.spec import load

    family, complaints = [], 0
    for path in study_files(options.study):
        try:
            # A study without a space is one trial, whatever the budget of the others.
            trials = options.trials if load(path, options.set).space else None
            one = {**vars(options), "study": path, "trials": trials}
            spec, source = read_study(argparse.Namespace(**one))
        except HpoError as exc:
            if options.variant is not None and isinstance(exc, AbsentError):
                say(f"{path.stem}: variant {options.variant} does not concern it ({exc})")
                continue
            say(f"error: {exc}")
            complaints += 1
            continue
        complaints += _complain(spec, path)
        family.append((spec, source))
    if complaints:
        raise SpecError(f"{options.study}: {complaints} study files are not valid, none was run")
    return family


def read_study(options: argparse.Namespace) -> tuple[StudySpec, Source]:
    """Read the study file that the options name, with what they set over it."""
    from hpo.family import VARIANTS_NAME, read_variant
    from hpo.spec import load
    from hpo.study import Source

    flags = {key: getattr(options, key) for key in ("name", "trials", "seed")}
    overrides = [
        *options.set,
        *(f"{key}={json.dumps(value)}" for key, value in flags.items() if value is not None),
    ]
    spec = load(options.study, overrides)
    if options.variant is not None:
        plain, variant = spec, read_variant(options.study.parent / VARIANTS_NAME, options.variant)
        if options.name is None:
            overrides.append(f"name={json.dumps(f'{plain.name}.{options.variant}')}")
        overrides = [*variant.set, *overrides]
        spec = load(options.study, overrides)
        if spec.model_copy(update={"name": plain.name}) == plain:
            raise AbsentError(f"{options.study}: --variant {options.variant} changes nothing in it")
    return spec, Source(str(options.study.resolve()), tuple(overrides), absolute(options.data))


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
    return run_study(options, spec, source, record.table_path)


def run_study(
    options: argparse.Namespace,
    spec: StudySpec,
    source: Source,
    stored_table: Path | None,
    *,
    again: bool = True,
) -> int:
    """Run a study; what is finished is reported `again`, or only where its report is missing."""
    from hpo.worker_processes import worker_source

    reported = _find_reported(options, spec, source, stored_table)
    if reported is not None:
        _say_finished(reported, again=again)
        return _show(options, reported) if again else 0
    # The first worker gets ready while the study is begun.
    with worker_source(spec) as processes:
        record = begin_study(options, spec, source, stored_table)
        counts = record.ledger.counts()
        if not counts.done:
            if counts.finished or counts.free or counts.held:
                say(
                    f"going on with study '{record.name}': "
                    f"{counts.finished} of {counts.budget} finished"
                )
            return _work(options, record, processes)
    again = again or not _page(options, record.name).is_file()
    _say_finished(record, again=again)
    return _finish(options, record) if again else 0


def _say_finished(record: StudyRecord, *, again: bool) -> None:
    counts = record.ledger.counts()
    told = f": {counts.finished} of {counts.budget} trials; nothing to do (more: --trials N)"
    say(f"study '{record.name}' is finished{told if again else ''}")


def _page(options: argparse.Namespace, name: str) -> Path:
    return Path(options.reports) / name / "report.html"


def _find_reported(
    options: argparse.Namespace, spec: StudySpec, source: Source, stored_table: Path | None
) -> StudyRecord | None:
    """Return the study if it is finished, the same as ever, and its report shows all of it.

    That is found out without a worker, an estimator or a figure. None in all other cases, which
    `begin` tells apart.
    """
    from hpo.plugins import make_importable
    from hpo.report_stamp import STAMP_NAME, is_current
    from hpo.study import build_table, find, is_same, names

    folder = Path(options.reports) / spec.name
    if options.strict or options.accept or not (folder / STAMP_NAME).is_file():
        return None
    make_importable(Path(source.file))
    storage = open_storage(options, create=True)
    if spec.name not in names(storage):
        return None
    record = find(storage, spec.name)
    counts = record.ledger.counts()
    if not counts.done or counts.budget != spec.trials or record.ledger.stopped() is not None:
        return None
    if not is_current(record, folder):
        return None
    table = build_table(spec, source, Path(options.tables), say, stored_table)
    return record if is_same(record, spec, table) else None


def begin_study(
    options: argparse.Namespace, spec: StudySpec, source: Source, stored_table: Path | None = None
) -> StudyRecord:
    """Build the table of a study and begin it, or go on with it if it is the same."""
    from hpo.estimators import check_estimator, expected_columns
    from hpo.leaks import refuse_leaks
    from hpo.plugins import make_importable
    from hpo.study import begin, build_table

    make_importable(Path(source.file))
    check_estimator(spec, source.file)
    refuse_leaks(spec, expected_columns(spec), source.file)
    storage = open_storage(options, create=True)
    table = build_table(spec, source, Path(options.tables), say, stored_table)
    return begin(storage, spec, source, table, options.accept, strict=options.strict)


def _work(options: argparse.Namespace, record: StudyRecord, processes: WorkerSource) -> int:
    from hpo.launcher import LocalLauncher
    from hpo.progress import Progress

    progress = Progress(record, sys.stderr)
    workers = options.workers or len(os.sched_getaffinity(0))
    logs = Path(options.logs) / record.name
    launcher = LocalLauncher(record, workers, logs, progress, processes)
    say(f"study '{record.name}': {record.spec.trials} trials, {workers} workers, logs in {logs}")
    with _tracked(options, record, logs):
        try:
            finished = launcher.run()
        finally:
            progress.close()
        if finished:
            return _finish(options, record)
    counts = record.ledger.counts()
    say(
        f"stopped: {counts.finished} of {counts.budget} trials finished, nothing is lost; "
        f"go on with: hpo resume {record.name}{storage_hint(options)}"
    )
    return INTERRUPTED


def _tracked(
    options: argparse.Namespace, record: StudyRecord, logs: Path
) -> contextlib.AbstractContextManager[None]:
    """Log the study to Weights & Biases meanwhile, where there is a key for it."""
    if not os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE") == "disabled":
        return contextlib.nullcontext()
    from hpo.tracking import tracked

    return tracked(record, logs, Path(options.reports), say)


def _finish(options: argparse.Namespace, record: StudyRecord) -> int:
    from hpo.report import write_report

    write_report(record, Path(options.reports))
    return _show(options, record)


def _show(options: argparse.Namespace, record: StudyRecord) -> int:
    """Print what came out, and where the report is."""
    for line in summary(record):
        print_line(line)
    print_line(f"report: {_page(options, record.name)}")
    return 0


def check(options: argparse.Namespace) -> int:
    """Validate study files; all of them, whatever is wrong with the first."""
    from hpo.spec import load

    wrong = 0
    for path in _each_file(options.studies):
        try:
            spec = load(path, options.set)
        except HpoError as exc:
            say(f"error: {exc}")
            wrong += 1
            continue
        if _complain(spec, path):
            wrong += 1
        else:
            print_line(f"{path}: ok, study '{spec.name}', {len(spec.space)} dimensions")
    return HpoError.exit_code if wrong else 0


def _each_file(paths: Sequence[Path]) -> Iterator[Path]:
    from hpo.family import study_files

    for path in paths:
        yield from study_files(path) if path.is_dir() else [path]


def _complain(spec: StudySpec, path: Path) -> bool:
    """Say what is wrong with a study as far as that can be told without its table."""
    from hpo.estimators import check_estimator, expected_columns
    from hpo.leaks import refuse_leaks
    from hpo.plugins import make_importable

    try:
        make_importable(path)
        check_estimator(spec, str(path))
        refuse_leaks(spec, expected_columns(spec), str(path))
    except HpoError as exc:
        say(f"error: {exc}")
        return True
    return False


def worker(options: argparse.Namespace) -> int:
    """Be one worker of a study until its budget is finished."""
    import logging

    from hpo.machine import loading, name_process

    name_process("hpo-worker")
    with loading():
        from hpo.estimators import load_estimator
        from hpo.study import find
        from hpo.threads import hold_one_thread
        from hpo.worker import TIME_LIMIT, Worker, new_worker_id
        from hpo.worker_log import open_log
        from slurm.submit import current_job

        worker_id = options.id or new_worker_id()
        log = open_log(Path(options.logs) / options.name, worker_id)
        record = find(open_storage(options), options.name)
        _require_shareable(record)
        _, objective = record.open_objective()
        if record.spec.estimator is not None:
            load_estimator(record.spec.estimator)
        threads = hold_one_thread()
    job = current_job()
    worker = Worker(record, objective, worker_id)
    outcome = worker.run(_incarnation(log, job, threads), _orders(options, job))
    logging.getLogger(__name__).info("left: %s", outcome)
    # A worker that got SIGTERM was cancelled and is not wanted, or SLURM requeues it by itself.
    wanted_back = worker.stop.reason in (TIME_LIMIT, "SIGUSR2")
    if job is not None and wanted_back and not options.no_requeue:
        _requeue(job)
    return 0


def _require_shareable(record: StudyRecord) -> None:
    """Refuse to join workers of other machines on a SQLite file."""
    import socket

    from hpo.filesystem import check_sqlite_shared
    from hpo.status import list_workers

    url = record.storage.engine.url
    if url.get_backend_name() == "sqlite" and url.database:
        alive = {worker.host for worker in list_workers(record) if worker.alive}
        check_sqlite_shared(Path(url.database), alive | {socket.gethostname()})


def _incarnation(log: Path | None, job: Job | None, threads: Mapping[str, int]) -> Incarnation:
    import socket

    from hpo import provenance
    from hpo.ledger import Incarnation

    return Incarnation(
        host=socket.gethostname(),
        pid=os.getpid(),
        cluster=os.environ.get("SLURM_CLUSTER_NAME") if job else None,
        job=job.job_id if job else None,
        restarts=job.restarts if job else None,
        log=str(log) if log else None,
        provenance={**provenance.collect_of_worker(), "threads": dict(threads)},
    )


def _orders(options: argparse.Namespace, job: Job | None) -> Orders:
    import time

    from hpo.worker import Orders, leave_time

    if job is None or job.end_unix_s is None:
        return Orders(options.parent)
    # A short job is not spent on leaving it.
    share_s = LEAVING_SHARE * (job.end_unix_s - time.time())
    before_s, stagger_s = min(options.leave_before, share_s), min(options.stagger, share_s)
    return Orders(options.parent, leave_time(job.end_unix_s, before_s, stagger_s))


def _requeue(job: Job) -> None:
    import logging

    from slurm.errors import SlurmError
    from slurm.submit import requeue_self

    log = logging.getLogger(__name__)
    log.info("job %s goes back into the queue", job.job_id)
    try:
        requeue_self()
    except SlurmError as exc:
        log.warning("not requeued, hpo refill submits another: %s", exc)
