"""`hpo enqueue`."""

from __future__ import annotations

import argparse
from pathlib import Path

from hpo.commands.common import add_shared, open_storage, print_line
from hpo.errors import SpecError
from hpo.records import Access
from hpo.spec.loading import parse_value
from hpo.study.points.checking import check_points, lacking_room, read_points
from hpo.study.record import find
from hpo.wording import count_of


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("name", metavar="NAME")
    parser.add_argument(
        "points",
        nargs="+",
        metavar="PARAMETER=VALUE",
        help="one point; or a CSV file, with a column for each parameter and a row for each point",
    )
    add_shared(parser, "storage")


def run(options: argparse.Namespace) -> int:
    """Have points tried before anything that the sampler draws."""
    record = find(open_storage(options, Access.WORK), options.name)
    given: list[str] = options.points
    if len(given) == 1 and "=" not in given[0]:
        points = read_points(Path(given[0]))
    else:
        wrong = next((text for text in given if "=" not in text), None)
        if wrong is not None:
            raise SpecError(f"'{wrong}': must be PARAMETER=VALUE")
        pairs = (text.partition("=") for text in given)
        points = [{name: parse_value(text, name) for name, _, text in pairs}]
    numbers = record.ledger.enqueue(check_points(record.spec, points))
    listed = f"trial {numbers[0]}" if len(numbers) == 1 else f"trials {numbers[0]} to {numbers[-1]}"
    print_line(f"study '{record.name}': {count_of(len(numbers), 'point')} enqueued, {listed}")
    if hint := lacking_room(record.name, record.ledger.counts()):
        print_line(f"  {hint}")
    return 0
