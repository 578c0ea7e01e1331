"""`hpo intervals`."""

from __future__ import annotations

import argparse
from pathlib import Path

from features.table import FeaturesError
from hpo.analysis.quantile_studies import assess_all, join_studies
from hpo.commands.common import (
    add_json,
    add_output,
    add_shared,
    beside_output,
    open_storage,
    print_json,
    print_line,
    say,
)
from hpo.records import Access
from hpo.report.comparison_tables import align
from hpo.report.formatting import name_target
from hpo.report.intervals_page import PAGE_NAME, summary_table, write_intervals
from hpo.study.record import find


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        "names", nargs=3, metavar="NAME", help="studies of a lower quantile, the median, an upper"
    )
    parser.add_argument(
        "--by-group",
        action="store_true",
        help="calibrate for a row of a new group, rather than for one more row",
    )
    add_output(parser, "intervals.html in the folder of reports", "the page")
    add_json(parser)
    add_shared(parser, "storage", "reports")


def run(options: argparse.Namespace) -> int:
    """Calibrate the intervals of three studies, and say how they hold."""
    storage = open_storage(options, Access.READ)
    records = [find(storage, name) for name in options.names]
    reports = Path(options.reports)
    three = join_studies(records, reports, by_group=options.by_group)
    try:
        table = records[0].read_table()
    except FeaturesError as exc:
        say(f"without classes: {exc}")
        table = None
    page = write_intervals(three, table, options.output or reports / PAGE_NAME)
    with beside_output(options.output):
        if options.json:
            found = {"studies": three.names, "levels": three.levels, "coverage": three.coverage}
            print_json({**found, **assess_all(three, table)})
            say(f"intervals: {page}")
            return 0
        shown = summary_table(three, name_target(table.target if table else None)[1])
        for line in align([shown.columns, *shown.rows]):
            print_line(line)
        print_line(f"intervals: {page}")
    return 0
