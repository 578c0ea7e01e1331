"""Options of commands that begin a study, and how a study file is read with them."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.commands.common import (
    absolute,
    add_set,
    add_shared,
    from_variable,
    open_storage,
    positive,
    say,
)
from hpo.errors import AbsentError, HpoError
from hpo.records import Access
from hpo.spec.loading import load
from hpo.spec.sections import StudySpec
from hpo.spec.variants import VARIANTS_NAME, read_variant

if TYPE_CHECKING:
    from hpo.study.record import Source, StudyRecord


def add_study_options(parser: argparse.ArgumentParser) -> None:
    """Add what every command that begins a study from its file takes."""
    parser.add_argument("study", type=Path, metavar="STUDY", help="the study file (TOML)")
    parser.add_argument(
        "--name", default=os.environ.get("HPO_NAME"), help="name of the study (default: the file's)"
    )
    parser.add_argument(
        "--seed", type=int, help="seed of sampler and estimator", **from_variable("HPO_SEED")
    )
    add_set(parser)
    parser.add_argument(
        "--variant",
        metavar="NAME",
        help="as variants.toml beside the study file says; the study is named STUDY.NAME",
    )
    add_going_on(parser)


def add_going_on(parser: argparse.ArgumentParser) -> None:
    """Add what every command that begins a study or goes on with it takes."""
    parser.add_argument(
        "--trials",
        type=positive,
        metavar="N",
        help="the budget",
        **from_variable("HPO_TRIALS"),
    )
    parser.add_argument(
        "--accept",
        type=lambda text: tuple(part for part in text.split(",") if part),
        default=os.environ.get("HPO_ACCEPT") or "",
        metavar="PART,…",
        help="go on although these parts of the study changed; written down in the study",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="refuse to go on with another commit, lock file or Python, too",
    )
    add_shared(parser, "storage", "data", "tables", "logs")


def read_study(options: argparse.Namespace) -> tuple[StudySpec, Source]:
    """Read the study file that the options name, with what they set over it."""
    from hpo.study.record import Source

    flags = {key: getattr(options, key) for key in ("name", "trials", "seed")}
    overrides = [
        *options.set,
        *(f"{key}={json.dumps(value)}" for key, value in flags.items() if value is not None),
    ]
    spec = load(options.study, overrides)
    if options.variant is not None:
        plain, variant = spec, read_variant(options.study.parent / VARIANTS_NAME, options.variant)
        if options.name is None:
            overrides.append(f"name={json.dumps(f'{plain.name}.{options.variant}')}")
        overrides = [*variant.set, *overrides]
        spec = load(options.study, overrides)
        if spec.model_copy(update={"name": plain.name}) == plain:
            raise AbsentError(f"{options.study}: --variant {options.variant} changes nothing in it")
    return spec, Source(str(options.study.resolve()), tuple(overrides), absolute(options.data))


def begin_study(
    options: argparse.Namespace, spec: StudySpec, source: Source, stored_table: Path | None = None
) -> StudyRecord:
    """Build the table of a study and begin it, or go on with it if it is the same."""
    from hpo.estimators.checks import check_estimator, expected_columns
    from hpo.plugins import make_importable
    from hpo.spec.leakage import refuse_leaks
    from hpo.study.creation import begin, build_table

    make_importable(Path(source.file))
    check_estimator(spec, source.file)
    refuse_leaks(spec, expected_columns(spec), source.file)
    storage = open_storage(options, Access.CREATE)
    table = build_table(spec, source, Path(options.tables), say, stored_table)
    return begin(storage, spec, source, table, options.accept, strict=options.strict)


def complain(spec: StudySpec, path: Path) -> bool:
    """Say what is wrong with a study as far as that can be told without its table."""
    from hpo.estimators.checks import check_estimator, expected_columns
    from hpo.plugins import make_importable
    from hpo.spec.leakage import refuse_leaks

    try:
        make_importable(path)
        check_estimator(spec, str(path))
        refuse_leaks(spec, expected_columns(spec), str(path))
    except HpoError as exc:
        say(f"error: {exc}")
        return True
    return False
