"""`hpo budget`."""

from __future__ import annotations

import argparse

from hpo.commands.common import add_shared, open_storage, positive, print_line
from hpo.records import Access
from hpo.spec.loading import with_trials
from hpo.study.record import find
from hpo.study.search import check_budget


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("trials", type=positive, metavar="TRIALS")
    add_shared(parser, "storage")


def run(options: argparse.Namespace) -> int:
    """Raise or lower the budget; workers that run see it with their next trial."""
    record = find(open_storage(options, Access.WORK), options.name)
    check_budget(with_trials(record.spec, options.trials), options.trials)
    change = record.ledger.set_budget(options.trials)
    finished = record.ledger.counts().finished
    print_line(f"study '{record.name}': {change}; {finished} finished")
    return 0
