"""`hpo report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from hpo.commands.common import add_shared, add_trust, open_storage, print_line
from hpo.records import Access
from hpo.report.plain_page import write_plain_report
from hpo.report.study_page import write_report
from hpo.study.plain import read_plain
from hpo.study.record import find


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("name", metavar="NAME")
    add_trust(parser)
    add_shared(parser, "storage", "reports")


def run(options: argparse.Namespace) -> int:
    """Write the report of a study."""
    storage, reports_dir = open_storage(options, Access.READ), Path(options.reports)
    plain = read_plain(storage, options.name)
    if plain is not None:
        page = write_plain_report(plain, reports_dir)
    else:
        page = write_report(find(storage, options.name), reports_dir)
    print_line(str(page))
    return 0
