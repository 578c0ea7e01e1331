"""`hpo resume`."""

from __future__ import annotations

import argparse
from dataclasses import replace

from hpo.commands.common import absolute, add_shared, add_trust, open_storage
from hpo.commands.studies.run import run_study
from hpo.commands.studies.study_options import add_going_on, add_worker_options
from hpo.records import Access
from hpo.study.record import find


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("name", metavar="NAME", help="the study's name")
    add_worker_options(parser)
    add_going_on(parser)
    add_trust(parser)
    add_shared(parser, "reports")


def run(options: argparse.Namespace) -> int:
    """Go on with a stored study; its file is read again if it is there."""
    record = find(open_storage(options, Access.WORK), options.name)
    source = record.source
    if options.data:
        source = replace(source, data_dir=absolute(options.data))
    record.admit_code(options.accept)
    spec = source.load() or record.spec
    # Workers are forked next: a database of SQLite that is open in a process and in its fork is
    # damaged, as each takes the locks of the other for its own.
    record.storage.engine.dispose()
    return run_study(options, spec, source, record.table_path, by_hand=True)
