"""`hpo model`."""

from __future__ import annotations

import argparse
from pathlib import Path

from features.table import FeatureTable
from hpo.analysis import saved_model
from hpo.analysis.saved_model import CARD_NAME, Model
from hpo.analysis.skops_file import write_skops
from hpo.commands.common import (
    add_json,
    add_shared,
    add_trust,
    not_negative,
    open_storage,
    print_json,
    print_line,
    say,
)
from hpo.errors import ModelError
from hpo.records import Access
from hpo.study.record import StudyRecord, find


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("name", metavar="NAME")
    add_model_options(parser)
    parser.add_argument(
        "--skops", type=Path, metavar="FILE", help="write the estimator for skops.io.load, too"
    )
    add_json(parser)
    add_trust(parser)
    add_shared(parser, "storage")


def run(options: argparse.Namespace) -> int:
    """Fit the best model of a finished study, and save it with its card."""
    record = find(open_storage(options, Access.READ), options.name)
    model = obtain_model(options, record, read_table(record))
    untrusted = [] if options.skops is None else write_skops(model.estimator, options.skops)
    if options.json:
        skops = None if options.skops is None else {"file": str(options.skops), "trust": untrusted}
        print_json({**model.manifest, "folder": str(model.folder), "skops": skops})
        return 0
    print_line(f"{model.folder}: {CARD_NAME} says what it is")
    if options.skops is not None:
        trusted = f", trusted={untrusted}" if untrusted else ""
        print_line(f"{options.skops}: skops.io.load('{options.skops}'{trusted})")
    return 0


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which model of a study is meant."""
    parser.add_argument(
        "--trial",
        type=not_negative,
        metavar="K",
        help="whose model it is, such as another one of the Pareto front (default: the best one)",
    )
    parser.add_argument("--model", type=Path, metavar="DIR", help="one saved model's folder")
    parser.add_argument(
        "--models", type=Path, default=Path("models"), metavar="DIR", help="folder of saved models"
    )
    parser.add_argument(
        "--refit", action="store_true", help="fit anew with the packages that are here"
    )


def obtain_model(options: argparse.Namespace, record: StudyRecord, table: FeatureTable) -> Model:
    """Load the model that the options name, or fit and save it."""
    return saved_model.obtain(
        record,
        table,
        options.models,
        trial=options.trial,
        folder=options.model,
        refit=options.refit,
        log=say,
    )


def read_table(record: StudyRecord) -> FeatureTable:
    """Read the table of a study.

    Raises
    ------
    ModelError
        If it has none.
    """
    table = record.read_table()
    if table is None:
        raise ModelError(f"study '{record.name}' has no table, and so no features to predict from")
    return table
