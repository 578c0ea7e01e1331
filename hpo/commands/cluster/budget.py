"""`hpo budget`."""

from __future__ import annotations

import argparse

from hpo.commands.common import add_shared, open_storage, positive, print_line
from hpo.records import Access
from hpo.study.record import find


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("trials", type=positive, metavar="TRIALS")
    add_shared(parser, "storage")


def run(options: argparse.Namespace) -> int:
    """Raise or lower the budget; workers that run see it with their next trial."""
    record = find(open_storage(options, Access.WORK), options.name)
    before = record.ledger.counts()
    taken = record.ledger.set_budget(options.trials)
    counts = record.ledger.counts()
    line = f"study '{record.name}': {before.budget} -> {counts.budget} trials"
    line += f", {counts.finished} finished"
    if taken:
        line += f", {len(taken)} taken from their workers and kept: {', '.join(map(str, taken))}"
    print_line(line)
    return 0
