"""`hpo report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from hpo.commands.common import add_shared, add_trust, open_storage, print_line
from hpo.records import Access
from hpo.report.study_page import write_report
from hpo.study.record import find


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("name", metavar="NAME")
    add_trust(parser)
    add_shared(parser, "storage", "reports")


def run(options: argparse.Namespace) -> int:
    """Write the report of a study."""
    record = find(open_storage(options, Access.READ), options.name)
    print_line(str(write_report(record, Path(options.reports))))
    return 0
