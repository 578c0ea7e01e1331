"""`hpo intervals`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hpo.commands.common import (
    add_command,
    add_json,
    add_shared,
    open_storage,
    print_json,
    print_line,
    say,
)


def add_to(commands: Any) -> None:
    """Add this command to the command line."""
    parser = add_command(
        commands, "intervals", intervals, "make calibrated intervals of three quantile studies"
    )
    parser.add_argument(
        "names", nargs=3, metavar="NAME", help="studies of a lower quantile, the median, an upper"
    )
    parser.add_argument(
        "--by-group",
        action="store_true",
        help="calibrate for a row of a new group, rather than for one more row",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the page (default: intervals.html in the folder of reports)",
    )
    add_json(parser)
    add_shared(parser, "storage", "reports")


def intervals(options: argparse.Namespace) -> int:
    """Calibrate the intervals of three studies, and say how they hold."""
    from features.table import FeaturesError
    from hpo.comparison import align
    from hpo.quantile_intervals import (
        PAGE_NAME,
        assess_all,
        join_studies,
        summary_table,
        write_intervals,
    )
    from hpo.results import name_target
    from hpo.study import find

    storage = open_storage(options)
    records = [find(storage, name) for name in options.names]
    reports = Path(options.reports)
    three = join_studies(records, reports, by_group=options.by_group)
    try:
        table = records[0].read_table()
    except FeaturesError as exc:
        say(f"without classes: {exc}")
        table = None
    page = write_intervals(three, table, options.output or reports / PAGE_NAME)
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
