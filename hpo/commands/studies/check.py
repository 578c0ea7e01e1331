"""`hpo check`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from hpo.commands.common import add_set, print_line, say
from hpo.commands.studies.study_options import complain
from hpo.errors import HpoError
from hpo.spec.loading import load
from hpo.spec.variants import study_files


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        "studies", type=Path, nargs="+", metavar="STUDY", help="study files, or folders of them"
    )
    add_set(parser)


def run(options: argparse.Namespace) -> int:
    """Validate study files; all of them, whatever is wrong with the first."""
    wrong = 0
    for path in _each_file(options.studies):
        try:
            spec = load(path, options.set)
        except HpoError as exc:
            say(f"error: {exc}")
            wrong += 1
            continue
        if complain(spec, path):
            wrong += 1
        else:
            print_line(f"{path}: ok, study '{spec.name}', {len(spec.space)} dimensions")
    return HpoError.exit_code if wrong else 0


def _each_file(paths: Sequence[Path]) -> Iterator[Path]:

    for path in paths:
        yield from study_files(path) if path.is_dir() else [path]
