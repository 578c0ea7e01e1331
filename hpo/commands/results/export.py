"""`hpo export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from hpo.commands.common import add_shared, open_storage, print_line
from hpo.study.export import export as write_trials
from hpo.study.record import find


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--format", choices=("csv", "json", "parquet"), default="csv")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: NAME.FORMAT")
    add_shared(parser, "storage")


def run(options: argparse.Namespace) -> int:
    """Write the trials of a study to a file."""
    record = find(open_storage(options), options.name)
    path = options.output or Path(f"{options.name}.{options.format}")
    n_trials = write_trials(record, path, options.format)
    print_line(f"{path}: {n_trials} trials")
    return 0
