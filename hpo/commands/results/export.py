"""`hpo export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from hpo.commands.common import (
    add_output,
    add_shared,
    beside_output,
    open_storage,
    print_line,
)
from hpo.records import Access
from hpo.study.export import FORMATS, export_plain
from hpo.study.export import export as write_trials
from hpo.study.plain import list_plain
from hpo.study.record import find
from hpo.wording import count_of


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--format", choices=FORMATS, default="csv")
    add_output(parser, "NAME.FORMAT")
    add_shared(parser, "storage")


def run(options: argparse.Namespace) -> int:
    """Write the trials of a study to a file."""
    storage = open_storage(options, Access.READ)
    path = options.output or Path(f"{options.name}.{options.format}")
    if options.name in list_plain(storage):
        n_trials = export_plain(storage, options.name, path, options.format)
    else:
        n_trials = write_trials(find(storage, options.name), path, options.format)
    with beside_output(path):
        print_line(f"{path}: {count_of(n_trials, 'trial')}")
    return 0
