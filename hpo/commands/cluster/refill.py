"""`hpo refill`."""

from __future__ import annotations

import argparse
import functools
import operator
import time
from dataclasses import replace
from typing import Any

from hpo.commands.cluster.cluster_options import absolute_storage, add_cluster_options
from hpo.commands.common import (
    INTERRUPTED,
    add_json,
    add_shared,
    not_negative,
    open_storage,
    print_json,
    print_line,
    say,
    seconds,
    storage_hint,
)
from hpo.errors import HpoError, StorageError
from hpo.launch.slurm_history import DesiredWorkers, find_wanted
from hpo.launch.slurm_jobs import UnwritableError
from hpo.launch.slurm_workers import BusyError, Refill, describe
from hpo.launch.slurm_workers import refill as refill_once
from hpo.records import Access
from hpo.study.record import StudyRecord, find
from slurm.cluster import find_cluster
from slurm.errors import SubmitError, UnreachableError


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("name", metavar="NAME")
    parser.add_argument(
        "--watch", action="store_true", help="again and again, until the budget is finished"
    )
    parser.add_argument(
        "--interval", type=seconds, default=60.0, metavar="S", help="of --watch (default: 60)"
    )
    parser.add_argument(
        "--workers", type=not_negative, metavar="N", help="how many there should be from now on"
    )
    add_cluster_options(parser)
    add_json(parser)
    add_shared(parser, "storage")


def run(options: argparse.Namespace) -> int:
    """Reap the workers whose jobs are over, submit those that are missing."""
    record = find(open_storage(options, Access.WORK), options.name)
    wanted = _change(options, record, find_wanted(record, absolute_storage(options)))
    how = record.ledger.stopped()
    if how is not None and not record.ledger.counts().done:
        raise HpoError(
            f"study '{record.name}' was stopped (hpo stop), so no workers are submitted; "
            "let it go on with: hpo submit STUDY, or hpo resume NAME for local workers"
        )
    if not options.watch:
        return submit_missing(options, record, wanted, anew=False)
    return _watch(options, record, wanted)


def _change(
    options: argparse.Namespace, record: StudyRecord, wanted: list[DesiredWorkers]
) -> list[DesiredWorkers]:
    """Return the sections that are looked after, with what the options say over them."""
    name = options.cluster or _only_section(options, wanted)
    if name is None:
        return wanted
    # A section that has not served the study yet has the storage and the logs of the others.
    known = {each.cluster.name: each for each in wanted}
    chosen = known.get(name) or replace(wanted[-1], site=None)
    if name not in known or options.slurm or options.clusters:
        resources = record.spec.resources.asked
        cluster = find_cluster(name, options.clusters, options.slurm, resources)
        chosen = replace(chosen, cluster=cluster)
    if options.workers is not None:
        chosen = replace(chosen, workers=options.workers)
    return [chosen]


def _only_section(options: argparse.Namespace, wanted: list[DesiredWorkers]) -> str | None:
    """Return the section that options without --cluster are about; None if about nothing."""
    if options.workers is None and not options.slurm:
        return None
    names = [each.cluster.name for each in wanted]
    if len(names) > 1:
        raise HpoError(
            f"--workers and --slurm are about one section of {len(names)} that serve this study; "
            f"add --cluster NAME: {', '.join(names)}"
        )
    return names[0]


def submit_missing(
    options: argparse.Namespace,
    record: StudyRecord,
    wanted: list[DesiredWorkers],
    *,
    anew: bool,
) -> int:
    """Submit the workers that are missing, and print what was found."""
    found = refill_once(record, wanted, anew=anew)
    counts = record.ledger.counts()
    if options.json:
        print_json({"study": record.name, "counts": vars(counts), **_summarise(found)})
        return 0
    if counts.done:
        print_line(
            f"study '{record.name}' is finished: {counts.finished} of {counts.budget} trials; "
            f"nothing to do (more: hpo budget {record.name} TRIALS)"
        )
        return 0
    done = f"{counts.finished} of {counts.budget} trials"
    print_line(f"study '{record.name}': {done}, {describe(found)}")
    if any(each.submitted for each in found):
        hint = storage_hint(options)
        say(
            f"see: hpo status {record.name} --watch{hint}; "
            f"keep workers alive: hpo refill {record.name} --watch{hint}"
        )
    return 0


def _summarise(found: list[Refill]) -> dict[str, Any]:
    """Return what was found and done in all, and for each section."""
    keys = ("needed", "active", "submitted", "cancelled", "reaped")
    total = {
        key: functools.reduce(operator.add, [getattr(each, key) for each in found]) for key in keys
    }
    return {**total, "clusters": [vars(each) for each in found]}


def _watch(options: argparse.Namespace, record: StudyRecord, wanted: list[DesiredWorkers]) -> int:
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
