"""`hpo show`."""

from __future__ import annotations

import argparse

from hpo.commands.common import add_json, add_shared, open_storage, print_json, print_line
from hpo.records import Access
from hpo.spec.writing import write_toml
from hpo.study.record import find


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("name", metavar="NAME")
    add_json(parser)
    add_shared(parser, "storage")


def run(options: argparse.Namespace) -> int:
    """Print the study file as the storage keeps it, which `hpo run` takes again."""
    record = find(open_storage(options, Access.READ), options.name)
    if options.json:
        print_json(record.spec.model_dump(mode="json"))
        return 0
    print_line(f"# begun from {record.source.file!r}, to whose folder paths are relative")
    budget = record.ledger.counts().budget
    if budget != record.spec.trials:
        print_line(f"# the budget is {budget} now")
    print_line(write_toml(record.spec).rstrip("\n"))
    return 0
