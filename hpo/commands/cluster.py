"""`hpo submit`, `refill`, `stop` and `budget`."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.commands.common import (
    INTERRUPTED,
    add_command,
    add_json,
    add_shared,
    from_variable,
    not_negative,
    open_storage,
    positive,
    print_json,
    print_line,
    say,
    seconds,
    storage_hint,
)
from hpo.commands.running import add_study_options, begin_study, read_study
from hpo.errors import HpoError

if TYPE_CHECKING:
    from hpo.cluster_launcher import Wanted
    from hpo.status import WorkerStatus
    from hpo.study import StudyRecord
    from slurm.cluster import ClusterSpec


def add_to(commands: Any) -> None:
    """Add these commands to the command line."""
    parser = add_command(
        commands, "submit", submit, "run a study with workers on a SLURM cluster; returns at once"
    )
    add_study_options(parser)
    parser.add_argument(
        "--workers",
        type=not_negative,
        metavar="N",
        help="how many there should be; 0 begins the study alone, for sbatch by hand",
        **from_variable("HPO_WORKERS"),
    )
    add_cluster_options(parser)
    add_json(parser)

    parser = add_command(
        commands, "refill", refill, "submit the workers of a study that are missing"
    )
    parser.add_argument("name", metavar="NAME")
    parser.add_argument(
        "--watch", action="store_true", help="again and again, until the budget is finished"
    )
    parser.add_argument(
        "--interval", type=seconds, default=60.0, metavar="S", help="of --watch (default: 60)"
    )
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="how many there should be from now on"
    )
    add_cluster_options(parser)
    add_json(parser)
    add_shared(parser, "storage")

    parser = add_command(
        commands, "stop", stop, "end a study: running trials are finished, no new ones begin"
    )
    parser.add_argument("name", metavar="NAME")
    parser.add_argument(
        "--now", action="store_true", help="trials are given back at once, at the part they are at"
    )
    add_shared(parser, "storage")

    parser = add_command(
        commands, "budget", budget, "raise or lower the budget of a study, running or finished"
    )
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("trials", type=positive, metavar="TRIALS")
    add_shared(parser, "storage")


def add_cluster_options(parser: argparse.ArgumentParser, what: str | None = None) -> None:
    """Add what says on which cluster, and how; `what` is said of a --cluster without default."""
    parser.add_argument(
        "--cluster",
        default=None if what else os.environ.get("HPO_CLUSTER"),
        metavar="NAME",
        help=what or "a section of the cluster file (default: HPO_CLUSTER, or its only section)",
    )
    parser.add_argument(
        "--clusters",
        type=Path,
        metavar="FILE",
        help="the cluster file (default: HPO_CLUSTERS, clusters.toml here or in ~/.config/hpo)",
    )
    parser.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set any field of the cluster, as in time_limit=1:00:00; repeatable",
    )


def submit(options: argparse.Namespace) -> int:
    """Begin a study, or go on with it, and have as many workers on the cluster as are wanted."""
    from hpo.cluster_launcher import Wanted
    from slurm.cluster import find_cluster

    cluster = find_cluster(options.cluster, options.clusters, options.slurm)
    spec, source = read_study(options)
    workers = 1 if options.workers is None else options.workers
    if workers:
        _require_shareable(options, cluster)
    record = begin_study(options, spec, source)
    if not workers:
        print_line(f"study '{record.name}' is begun; add workers: sbatch slurm/worker.sbatch NAME")
        return 0
    wanted = Wanted(workers, cluster, _absolute_storage(options), str(Path(options.logs).resolve()))
    return _refill_once(options, record, wanted, anew=True)


def refill(options: argparse.Namespace) -> int:
    """Bury the workers whose jobs are over, submit those that are missing."""
    from hpo.cluster_launcher import find_wanted
    from hpo.study import find

    record = find(open_storage(options), options.name)
    wanted = _change(options, find_wanted(record, _absolute_storage(options)))
    how = record.ledger.stopped()
    if how is not None and not record.ledger.counts().done:
        raise HpoError(
            f"study '{record.name}' was stopped (hpo stop), so no workers are submitted; "
            "let it go on with: hpo submit STUDY, or hpo resume NAME for local workers"
        )
    if not options.watch:
        return _refill_once(options, record, wanted, anew=False)
    return _watch(options, record, wanted)


def _change(options: argparse.Namespace, wanted: Wanted) -> Wanted:
    """Return what is wanted with what the options say over it."""
    from dataclasses import replace

    from slurm.cluster import find_cluster

    if options.workers is not None:
        wanted = replace(wanted, workers=options.workers)
    if options.cluster or options.slurm:
        cluster = find_cluster(
            options.cluster or wanted.cluster.name, options.clusters, options.slurm
        )
        wanted = replace(wanted, cluster=cluster)
    return wanted


def _refill_once(
    options: argparse.Namespace, record: StudyRecord, wanted: Wanted, *, anew: bool
) -> int:
    from hpo.cluster_launcher import describe
    from hpo.cluster_launcher import refill as refill_once

    found = refill_once(record, wanted, anew=anew)
    counts = record.ledger.counts()
    if options.json:
        print_json({"study": record.name, "counts": vars(counts), **vars(found)})
        return 0
    if counts.done:
        print_line(
            f"study '{record.name}' is finished: {counts.finished} of {counts.budget} trials; "
            f"nothing to do (more: hpo budget {record.name} TRIALS)"
        )
        return 0
    done = f"{counts.finished} of {counts.budget} trials"
    print_line(f"study '{record.name}': {done}, {describe(found)}")
    if found.submitted:
        hint = storage_hint(options)
        say(
            f"see: hpo status {record.name} --watch{hint}; "
            f"keep workers alive: hpo refill {record.name} --watch{hint}"
        )
    return 0


def _watch(options: argparse.Namespace, record: StudyRecord, wanted: Wanted) -> int:
    from hpo.cluster_launcher import BusyError, describe
    from hpo.cluster_launcher import refill as refill_once
    from hpo.errors import StorageError
    from hpo.jobs import UnwritableError
    from slurm.errors import SubmitError, UnreachableError

    shown = ""
    while True:
        counts = None
        try:
            found = refill_once(record, wanted)
            counts = record.ledger.counts()
            line = f"{counts.finished} of {counts.budget} trials, {describe(found)}"
        except (StorageError, UnreachableError, SubmitError, UnwritableError, BusyError) as exc:
            # All of it may come right again; to give up because of a restart would be no watch.
            line = f"trying again: {exc}"
        if line != shown:
            say(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}")
            shown = line
        if counts is not None and counts.done:
            return 0
        if counts is not None and record.ledger.stopped() is not None:
            say(f"study '{record.name}' was stopped")
            return INTERRUPTED
        time.sleep(options.interval)


def stop(options: argparse.Namespace) -> int:
    """End a study gracefully, or at once."""
    from hpo.cluster_launcher import stop_jobs
    from hpo.ledger import SUBMITTED
    from hpo.status import list_workers
    from hpo.study import find
    from slurm.errors import SlurmError

    record = find(open_storage(options), options.name)
    counts = record.ledger.counts()
    if counts.done:
        print_line(f"study '{record.name}' is finished: there is nothing to stop")
        return 0
    record.ledger.stop("now" if options.now else "gently")
    cancelled: list[str] = []
    if record.ledger.events(SUBMITTED):
        try:
            cancelled = stop_jobs(record, now=options.now)
        except SlurmError as exc:
            say(f"jobs are not cancelled, they will end by themselves: {exc}")
    alive = [worker for worker in list_workers(record) if worker.alive]
    if options.now:
        for worker in alive:
            _terminate(worker)
    what = "give their trials back and leave" if options.now else "finish their trials and leave"
    print_line(
        f"study '{record.name}' is stopped at {counts.finished} of {counts.budget} trials; "
        f"{len(alive)} workers {what}, {len(cancelled)} jobs cancelled"
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


def budget(options: argparse.Namespace) -> int:
    """Raise or lower the budget; workers that run see it with their next trial."""
    from hpo.study import find

    record = find(open_storage(options), options.name)
    before = record.ledger.counts()
    taken = record.ledger.set_budget(options.trials)
    counts = record.ledger.counts()
    line = f"study '{record.name}': {before.budget} -> {counts.budget} trials"
    line += f", {counts.finished} finished"
    if taken:
        line += f", {len(taken)} taken from their workers and kept: {', '.join(map(str, taken))}"
    print_line(line)
    return 0


def _require_shareable(options: argparse.Namespace, cluster: ClusterSpec) -> None:
    """Refuse a SQLite file that workers on several machines cannot share."""
    import sqlalchemy as sa

    from hpo.filesystem import check_sqlite_shared
    from hpo.storage import resolve_url
    from slurm.queue import node_hosts

    url = sa.make_url(resolve_url(options.storage))
    if url.get_backend_name() == "sqlite" and url.database:
        hosts = node_hosts(cluster.partition) | {socket.gethostname().split(".")[0]}
        check_sqlite_shared(Path(url.database), hosts)


def _absolute_storage(options: argparse.Namespace) -> str:
    """Return the storage as workers in another folder find it."""
    text: str = options.storage
    if "://" not in text:
        return str(Path(text).resolve())
    prefix = "sqlite:///"
    if text.startswith(prefix):
        return f"{prefix}{Path(text.removeprefix(prefix)).resolve()}"
    return text
