"""`hpo logs`."""

from __future__ import annotations

import argparse
from pathlib import Path

from hpo.commands.common import add_shared, not_negative, open_storage, print_line, say
from hpo.errors import HpoError
from hpo.records import Access
from hpo.study.events import workers_of
from hpo.study.record import find
from hpo.worker.log import lines_of_trial


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--trial", type=not_negative, metavar="K", help="a trial's number")
    add_shared(parser, "storage")


def run(options: argparse.Namespace) -> int:
    """Print the lines of one trial, or where the logs are."""
    record = find(open_storage(options, Access.READ), options.name)
    workers = workers_of(record)
    if options.trial is None:
        for worker in workers:
            print_line(f"{worker.log or 'no log'}  {worker.host}  {worker.outcome or 'at work'}")
        return 0
    found = 0
    for worker in workers:
        path = Path(worker.log) if worker.log else None
        if path is None or not path.is_file():
            say(f"not here: the log of {worker.worker_id} on {worker.host}: {path or 'none'}")
            continue
        lines = lines_of_trial(path.read_text("utf-8", errors="replace"), options.trial)
        if lines:
            found += 1
            print_line(f"--- {worker.worker_id} ({path})")
            for line in lines:
                print_line(line)
    if not found:
        raise HpoError(f"no worker of study '{record.name}' wrote about a trial {options.trial}")
    return 0
