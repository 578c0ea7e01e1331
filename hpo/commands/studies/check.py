"""`hpo check`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hpo.commands.common import add_shared, print_line
from hpo.commands.studies.study_options import add_file_options, add_trials, read_sound_studies
from hpo.errors import HpoError
from hpo.spec.objectives import FunctionSpec
from hpo.wording import count_of


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        "studies", type=Path, nargs="+", metavar="STUDY", help="study files, or folders of them"
    )
    add_file_options(parser)
    add_trials(parser)
    add_shared(parser, "storage", "data")
    parser.set_defaults(name=None)


def run(options: argparse.Namespace) -> int:
    """Refuse what `hpo run` would refuse; all study files, whatever is wrong with the first."""
    # Not even beside a module of the study's own.
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        sound, n_wrong = read_sound_studies(options, options.studies)
    finally:
        sys.dont_write_bytecode = before
    for path, spec, _, _, notes in sound:
        function = isinstance(spec.objective, FunctionSpec)
        drawn = "its function draws" if function else count_of(len(spec.space), "dimension")
        print_line(f"{path}: ok, study '{spec.name}', {drawn}")
        for note in notes:
            print_line(f"  {note}")
    return HpoError.exit_code if n_wrong else 0
