"""`hpo init`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from hpo.commands.common import add_json, add_output, beside_output, print_json, print_line
from hpo.errors import SpecError
from hpo.study.draft import Draft, draft, name_study, occupied, write_new
from hpo.system.atomic_files import is_stream
from hpo.wording import count_of


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("file", type=Path, metavar="FILE.csv", help="your own CSV file")
    parser.add_argument(
        "--target",
        action="append",
        metavar="COLUMN",
        help="what to predict (default: guessed); several times for several targets at once",
    )
    add_output(parser, "FILE.toml here", "the study file, and none that is there already")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Write a study file that runs, from what a CSV file holds."""
    output = options.output or Path(f"{name_study(options.file.stem)}.toml")
    if not is_stream(output) and output.exists():
        raise occupied(output)
    if not output.parent.is_dir():
        raise SpecError(f"--output {output}: there is no folder {output.parent}")
    made = draft(options.file, output, options.target or ())
    write_new(output, made.text)
    with beside_output(output):
        if options.json:
            told = {key: value for key, value in vars(made).items() if key != "text"}
            print_json({"output": str(output), **told})
            return 0
        for line in _tell(made):
            print_line(line)
        if not is_stream(output):
            print_line(f"{output}: written; next: hpo run {output} --workers 2")
    return 0


def _tell(made: Draft) -> Iterator[str]:
    width = max(len(column["name"]) for column in made.columns)
    for column in made.columns:
        why = f": {column['why']}" if column["why"] else ""
        gaps = f", {count_of(column['n_missing'], 'gap')}" if column["n_missing"] else ""
        yield f"{column['name']:{width}}  {column['kind']}{gaps}; {column['role']}{why}"
    named = [made.target] if isinstance(made.target, str) else made.target
    targets = ", ".join(map(repr, named))
    skipped = f", {count_of(made.skipped, 'row')} cannot be used" if made.skipped else ""
    yield f"{count_of(made.rows, 'row')}{skipped}; {made.task} of {targets}"
