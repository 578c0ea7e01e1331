"""`hpo compare`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.commands.common import (
    add_command,
    add_json,
    add_shared,
    open_storage,
    print_json,
    print_line,
)
from hpo.errors import HpoError

if TYPE_CHECKING:
    from hpo.study import StudyRecord


def add_to(commands: Any) -> None:
    """Add this command to the command line."""
    parser = add_command(
        commands, "compare", compare, "print the scores of studies side by side, and reported ones"
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--all", action="store_true", help="every study of the storage")
    parser.add_argument(
        "--reported",
        type=Path,
        metavar="FILE",
        help="figures to compare with (default: reported.toml beside the study files)",
    )
    add_json(parser)
    add_shared(parser, "storage")


def compare(options: argparse.Namespace) -> int:
    """Print a table of studies."""
    from hpo.study import find, names

    if options.all == bool(options.names):
        raise HpoError("hpo compare: give the names of studies, or --all")
    storage = open_storage(options)
    chosen = names(storage) if options.all else dict.fromkeys(options.names)
    records = [find(storage, name) for name in chosen]
    print_comparison(records, options.reported, as_json=options.json)
    return 0


def print_comparison(
    records: Sequence[StudyRecord], reported_file: Path | None = None, *, as_json: bool = False
) -> None:
    """Print the comparison of studies, as text or as JSON."""
    from hpo.comparison import as_dicts, compare_study, lines, read_reported, reported_beside

    reported = read_reported(reported_file) if reported_file else reported_beside(records)
    rows = [compare_study(record) for record in records]
    if as_json:
        print_json(as_dicts(rows, reported))
        return
    for line in lines(rows, reported):
        print_line(line)
