"""`hpo provenance`."""

from __future__ import annotations

import argparse

from hpo.commands.common import add_json, add_shared, open_storage, print_json, print_line
from hpo.records import Access
from hpo.study.events import describe, tell
from hpo.study.record import find


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("name", metavar="NAME")
    add_json(parser)
    add_shared(parser, "storage")


def run(options: argparse.Namespace) -> int:
    """Print where the results of a study come from."""
    told = tell(find(open_storage(options, Access.READ), options.name))
    if options.json:
        print_json(told)
        return 0
    for line in describe(told):
        print_line(line)
    return 0
