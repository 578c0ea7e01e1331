"""One worker as a process of its own, whose launcher says over a channel what it is to do."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from hpo.errors import HpoError, StopRequested, StorageError
from hpo.objectives.cross_validation import CrossValidation
from hpo.plugins import take_as_tried
from hpo.records import Access, WorkerRun
from hpo.storage.backends import open_patiently
from hpo.study.identity import provenance
from hpo.study.record import StudyRecord, find
from hpo.study.status import list_workers
from hpo.system.filesystem import check_sqlite_shared
from hpo.system.processes import leave_with_parent
from hpo.system.resources import loading, name_process
from hpo.system.threads import hold_threads
from hpo.worker.channel import Channel, WorkerOrder
from hpo.worker.log import open_log
from hpo.worker.worker import PATIENCE_S, Worker

_log = logging.getLogger(__name__)


def main(channel: Channel) -> NoReturn:
    """Be one worker until its launcher or its study lets it go; ends the process.

    Threads that an objective has left behind do not keep it: what there is to tell is told.
    """
    code = HpoError.exit_code
    try:
        while not (messages := channel.hear(60.0)):
            if channel.closed:
                # The launcher is gone, or has given up the process that this one was forked from.
                os._exit(code)
        _work(WorkerOrder(**messages[0]), channel)
        code = 0
    except HpoError as exc:
        _log.error("%s", exc)
        passing = isinstance(exc, StorageError) and exc.passing
        told = {"refused": str(exc), "kind": type(exc).__name__, "code": exc.exit_code}
        channel.tell(**told, passing=passing)
    except StopRequested as exc:
        channel.tell(left=f"stopped: {exc}")
    except BaseException:
        # Its launcher sees a death, and the log says why.
        _log.exception("the worker ended with an error")
    try:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        # An objective may have closed them, or taken them away.
        os._exit(code)


def _work(order: WorkerOrder, channel: Channel) -> None:
    leave_with_parent(order.launcher)
    name_process("hpo-worker")
    os.environ.update(order.environment)
    if order.cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, order.cpus)
    with loading():
        log = open_log(Path(order.logs), order.worker_id)
        record = find(open_patiently(order.storage, Access.WORK, PATIENCE_S), order.study)
        _require_shareable(record)
        take_as_tried(record.spec.named_modules)
        _, objective = record.open_objective()
        if isinstance(objective, CrossValidation):
            objective.bound.load()
        threads = hold_threads(order.threads)
    folder = Path(order.logs) / "trials"
    worker = Worker(record, objective, order.worker_id, channel, trial_dirs=folder)
    outcome = worker.run(_worker_run(order, log, threads))
    _log.info("left: %s", outcome)
    channel.tell(left=outcome)


def _require_shareable(record: StudyRecord) -> None:
    """Refuse to join workers of other machines on a SQLite file."""
    url = record.storage.engine.url
    if url.get_backend_name() == "sqlite" and url.database:
        alive = {worker.host for worker in list_workers(record) if worker.alive}
        check_sqlite_shared(Path(url.database), alive | {socket.gethostname()})


def _worker_run(order: WorkerOrder, log: Path | None, threads: Mapping[str, int]) -> WorkerRun:
    return WorkerRun(
        host=socket.gethostname(),
        pid=os.getpid(),
        cluster=order.cluster,
        job=order.job,
        restarts=order.restarts,
        log=str(log) if log else None,
        provenance={**provenance.collect_of_worker(), "threads": dict(threads)},
    )


if __name__ == "__main__":
    main(Channel(socket.socket(fileno=int(sys.argv[1]))))
