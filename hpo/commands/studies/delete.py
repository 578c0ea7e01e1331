"""`hpo delete`."""

from __future__ import annotations

import argparse
from pathlib import Path

from hpo.commands.common import add_shared, open_storage, print_line
from hpo.records import Access
from hpo.storage.urls import show_url
from hpo.study.lifecycle.deletion import delete
from hpo.study.record import StudyRecord, find
from hpo.wording import count_of


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("name", metavar="NAME")
    add_shared(parser, "storage", "reports", "logs")


def run(options: argparse.Namespace) -> int:
    """Delete a study, and say what is gone and what stays."""
    storage = open_storage(options, Access.WORK)
    record = find(storage, options.name)
    counts = record.ledger.counts()
    n_rows = delete(record)
    shown = show_url(storage.engine.url)
    print_line(
        f"study '{record.name}' deleted from {shown}: "
        f"{counts.finished} of {count_of(counts.budget, 'trial')} finished, {counts.failed} "
        f"failed; {count_of(n_rows, 'row')}"
    )
    if kept := _files_of(record, options):
        print_line(f"its files stay: {', '.join(map(str, kept))}")
    return 0


def _files_of(record: StudyRecord, options: argparse.Namespace) -> list[Path]:
    """Return the folders of a study that are here."""
    from hpo.study.report_folder import report_folder

    places = [report_folder(record, Path(options.reports)), Path(options.logs) / record.name]
    places += sorted(Path("models").glob(f"{record.name}-*"))
    return [place for place in places if place.exists()]
