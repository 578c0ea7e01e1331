"""Options of commands that begin a study, and how a study file is read with them.

What works on a study or its storage is imported by the functions that need it: `hpo run` reads the
study file and starts its first worker before it loads as much itself.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from features.table import FeaturesError
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
from hpo.launch.placement import gpu_share
from hpo.plugins import make_importable
from hpo.records import Access
from hpo.spec.loading import apply_overrides, load, read_toml
from hpo.spec.sections import StudySpec
from hpo.spec.variants import VARIANTS_NAME, read_variant, study_files

if TYPE_CHECKING:
    from hpo.study.record import Source, StudyRecord

# As `workers_per_job` of a cluster.
MAX_WORKERS = 10_000


def add_study_options(parser: argparse.ArgumentParser) -> None:
    """Add what every command that begins a study from its file takes."""
    parser.add_argument("study", type=Path, metavar="STUDY", help="the study file (TOML)")
    parser.add_argument(
        "--name", default=os.environ.get("HPO_NAME"), help="name of the study (default: the file's)"
    )
    add_file_options(parser)
    add_going_on(parser)


def add_file_options(parser: argparse.ArgumentParser) -> None:
    """Add what is set over a study file, whatever is done with it then."""
    parser.add_argument(
        "--seed", type=int, help="seed of sampler and estimator", **from_variable("HPO_SEED")
    )
    add_set(parser)
    parser.add_argument(
        "--variant",
        metavar="NAME",
        help="as variants.toml beside the study file says; the study is named STUDY.NAME",
    )


def worker_count(text: str) -> int:
    """Read how many workers a launcher has."""
    number = positive(text)
    if number > MAX_WORKERS:
        raise argparse.ArgumentTypeError(f"must be at most {MAX_WORKERS} on a machine, got {text}")
    return number


def add_worker_options(parser: argparse.ArgumentParser, default: int | None = None) -> None:
    """Add how many workers there are, and what each gets of the machine."""
    told = f"how many (default: {default or 'one for each core'})"
    parser.add_argument(
        "--workers",
        type=worker_count,
        default=os.environ.get("HPO_WORKERS") or default,
        metavar="N",
        help=told,
    )
    parser.add_argument(
        "--cpus-per-worker",
        type=positive,
        metavar="N",
        help="cores of each: threads of libraries and programs (default: as the study asks, or 1)",
    )
    parser.add_argument(
        "--gpus-per-worker",
        type=gpu_share,
        metavar="N",
        help="GPUs of each; 0.5 is one for two workers (default: as the study asks, or all)",
    )


def add_going_on(parser: argparse.ArgumentParser) -> None:
    """Add what every command that begins a study or goes on with it takes."""
    add_trials(parser)
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


def add_trials(parser: argparse.ArgumentParser) -> None:
    """Add `--trials`."""
    parser.add_argument(
        "--trials",
        type=positive,
        metavar="N",
        help="the budget",
        **from_variable("HPO_TRIALS"),
    )


def read_study(options: argparse.Namespace) -> tuple[StudySpec, Source]:
    """Read the study file that the options name, with what they set over it.

    The number of trials stays the file's own, so that a later run knows whether that was changed:
    `--trials` is the budget of the study in its storage. From here on, modules that lie beside the
    file can be imported.
    """
    from hpo.study.record import Source

    flags = {key: getattr(options, key) for key in ("name", "seed")}
    overrides = [
        *options.set,
        *(f"{key}={json.dumps(value)}" for key, value in flags.items() if value is not None),
    ]
    spec, overrides = _load(options, overrides)
    if options.variant is not None:
        plain, variant = spec, read_variant(options.study.parent / VARIANTS_NAME, options.variant)
        if options.name is None:
            overrides.append(f"name={json.dumps(f'{plain.name}.{options.variant}')}")
        spec, overrides = _load(options, [*variant.set, *overrides])
        if spec.model_copy(update={"name": plain.name}) == plain:
            raise AbsentError(f"{options.study}: --variant {options.variant} changes nothing in it")
    make_importable(options.study)
    return spec, Source(str(options.study.resolve()), tuple(overrides), absolute(options.data))


def _load(options: argparse.Namespace, overrides: list[str]) -> tuple[StudySpec, list[str]]:
    """Read the study file; where it has no number of trials, `--trials` is among what is set."""
    path: Path = options.study
    if options.trials is None:
        return load(path, overrides), overrides
    asked = f"trials={options.trials}"
    spec = load(path, [*overrides, asked])
    raw = read_toml(path)
    apply_overrides(raw, overrides)
    if "trials" not in raw:
        return spec, [*overrides, asked]
    return load(path, overrides), overrides


class SoundStudy(NamedTuple):
    """A study file in which `hpo.study.creation.check` found nothing wrong."""

    path: Path
    spec: StudySpec
    source: Source
    trials: int | None
    notes: list[str]


def read_sound_studies(
    options: argparse.Namespace, paths: Iterable[Path]
) -> tuple[list[SoundStudy], int]:
    """Read and check study files and folders of them, and say what is wrong with each.

    Returns
    -------
    tuple
        The sound ones, in order, and the number of the others.

    Raises
    ------
    AbsentError
        If a variant concerns none of them.
    """
    from hpo.study.creation import check

    sound, n_wrong = [], 0
    for path, in_folder in _each_file(paths):
        try:
            one = _options_of(options, path, in_folder=in_folder)
            spec, source = read_study(one)
            notes = check(spec, source, options.storage)
        except (HpoError, FeaturesError) as exc:
            if in_folder and options.variant is not None and isinstance(exc, AbsentError):
                say(f"{path.stem}: variant {options.variant} does not concern it ({exc})")
                continue
            say(f"error: {exc}")
            n_wrong += 1
            continue
        sound.append(SoundStudy(path, spec, source, one.trials, notes))
    if not sound and not n_wrong:
        raise AbsentError(f"--variant {options.variant} concerns no study file that was given")
    return sound, n_wrong


def _each_file(paths: Iterable[Path]) -> Iterator[tuple[Path, bool]]:
    """Yield study files, and whether each was found in a folder."""
    for path in paths:
        if path.is_dir():
            yield from ((file, True) for file in study_files(path))
        else:
            yield path, False


def _options_of(options: argparse.Namespace, path: Path, *, in_folder: bool) -> argparse.Namespace:
    """Return the options of one of several studies."""
    one = argparse.Namespace(**{**vars(options), "study": path})
    if in_folder and not load(path, options.set).space:
        # A study without a space is one trial, whatever the budget of the others.
        one.trials = None
    return one


def begin_study(
    options: argparse.Namespace,
    spec: StudySpec,
    source: Source,
    stored_table: Path | None = None,
    *,
    by_hand: bool = False,
) -> StudyRecord:
    """Check a study, build its table and begin it, or go on with it if it is the same.

    `by_hand` says that `--trials` sets the budget as `hpo budget` does.
    """
    from hpo.study.creation import begin, build_table, check_declared, check_first_points

    check_declared(spec, source)
    storage = open_storage(options, Access.CREATE)
    if spec.warm_start:
        # Not after hours of features.
        check_first_points(spec, source, storage)
    table = build_table(spec, source, Path(options.tables), say, stored_table)
    return begin(
        storage,
        spec,
        source,
        table,
        options.accept,
        strict=options.strict,
        trials=options.trials,
        by_hand=by_hand,
        log=say,
    )
