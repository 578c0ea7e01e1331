"""`hpo resume`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from hpo.commands.common import absolute, add_shared, from_variable, open_storage, positive
from hpo.commands.studies.run import run_study
from hpo.commands.studies.study_options import add_going_on
from hpo.plugins import make_importable
from hpo.records import Access
from hpo.study.record import find


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("name", metavar="NAME", help="the study's name")
    parser.add_argument("--workers", type=positive, metavar="N", **from_variable("HPO_WORKERS"))
    add_going_on(parser)
    add_shared(parser, "reports")


def run(options: argparse.Namespace) -> int:
    """Go on with a stored study; its file is read again if it is there."""
    record = find(open_storage(options, Access.WORK), options.name)
    source = record.source
    if options.data:
        source = replace(source, data_dir=absolute(options.data))
    make_importable(Path(source.file))
    spec = source.load() or record.spec
    return run_study(options, spec, source, record.table_path, by_hand=True)
