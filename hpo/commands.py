"""What each command of the command line does; `hpo.cli` says how it is called.

Imports of everything heavy wait until a command needs them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.errors import HpoError, SpecError

if TYPE_CHECKING:
    from hpo.spec import StudySpec
    from hpo.status import Status
    from hpo.storage import StudyStorage
    from hpo.study import Source, StudyRecord

INTERRUPTED = 130
DEFAULT_STORAGE = "sqlite:///hpo.db"


def run(options: argparse.Namespace) -> int:
    """Build the table of a study file, run the study, write its report."""
    from hpo.spec import load
    from hpo.study import Source

    flags = {key: getattr(options, key) for key in ("name", "trials", "seed")}
    overrides = [
        *options.set,
        *(f"{key}={json.dumps(value)}" for key, value in flags.items() if value is not None),
    ]
    spec = load(options.study, overrides)
    source = Source(str(options.study.resolve()), tuple(overrides), _absolute(options.data))
    return _go(options, spec, source, None)


def resume(options: argparse.Namespace) -> int:
    """Go on with a stored study; its file is read again if it is there."""
    from dataclasses import replace

    from hpo.study import find

    record = find(_open(options), options.name)
    trials = options.trials or record.ledger.counts().budget
    source = record.source
    if options.data:
        source = replace(source, data_dir=_absolute(options.data))
    spec = (source.load() or record.spec).model_copy(update={"trials": trials})
    return _go(options, spec, source, record.table_path)


def _go(
    options: argparse.Namespace, spec: StudySpec, source: Source, stored_table: Path | None
) -> int:
    from hpo.estimators import check_estimator
    from hpo.plugins import make_importable
    from hpo.study import begin, build_table

    make_importable(Path(source.file))
    check_estimator(spec, source.file)
    storage = _open(options, create=True)
    table = build_table(spec, source, Path(options.tables), say, stored_table)
    record = begin(storage, spec, source, table, options.accept)
    counts = record.ledger.counts()
    if counts.done:
        say(
            f"study '{record.name}' is finished: {counts.finished} of {counts.budget} trials; "
            "nothing to do (more: --trials N)"
        )
        return _finish(options, record)
    if counts.finished or counts.free or counts.held:
        say(f"going on with study '{record.name}': {counts.finished} of {counts.budget} finished")
    return _work(options, record)


def _work(options: argparse.Namespace, record: StudyRecord) -> int:
    from hpo.launcher import LocalLauncher
    from hpo.progress import Progress

    progress = Progress(record, sys.stderr)
    workers = options.workers or len(os.sched_getaffinity(0))
    logs = Path("logs") / record.name
    launcher = LocalLauncher(record, workers, logs, progress)
    say(f"study '{record.name}': {record.spec.trials} trials, {workers} workers, logs in {logs}")
    try:
        finished = launcher.run()
    finally:
        progress.close()
    if not finished:
        counts = record.ledger.counts()
        say(
            f"stopped: {counts.finished} of {counts.budget} trials finished, nothing is lost; "
            f"go on with: hpo resume {record.name}{_storage_hint(options)}"
        )
        return INTERRUPTED
    return _finish(options, record)


def _finish(options: argparse.Namespace, record: StudyRecord) -> int:
    from hpo.report import write_report

    path = write_report(record, Path(options.reports))
    for line in _summary(record):
        _print(line)
    _print(f"report: {path}")
    return 0


def _summary(record: StudyRecord) -> list[str]:
    from hpo.status import take_status

    status = take_status(record)
    lines = [_status_line(status)]
    best = status.best_trial
    if best is not None:
        trial = record.optuna_study().get_trials(deepcopy=False)[best]
        lines.extend(f"  {name} = {value}" for name, value in trial.params.items())
    return lines


def check(options: argparse.Namespace) -> int:
    """Validate study files; all of them, whatever is wrong with the first."""
    from hpo.estimators import check_estimator
    from hpo.plugins import make_importable
    from hpo.spec import load

    wrong = 0
    for path in options.studies:
        try:
            spec = load(path, options.set)
            make_importable(path)
            check_estimator(spec, str(path))
        except HpoError as exc:
            say(f"error: {exc}")
            wrong += 1
        else:
            _print(f"{path}: ok, study '{spec.name}', {len(spec.space)} dimensions")
    return HpoError.exit_code if wrong else 0


def status(options: argparse.Namespace) -> int:
    """Say how far one study is, or all of them."""
    from hpo.status import take_status
    from hpo.study import find, names

    storage = _open(options)
    chosen = [options.name] if options.name else names(storage)
    found = [take_status(find(storage, name)) for name in chosen]
    if options.json:
        shown = [status.as_dict() for status in found]
        _print(json.dumps(shown[0] if options.name else shown, indent=1))
        return 0
    if not found:
        _print("no studies yet")
    for status in found:
        _print(_status_line(status))
        if options.name:
            for worker in status.workers:
                doing = f"trial {worker.trial}" if worker.trial is not None else "idle"
                sign = "" if worker.alive else ", no sign of life"
                _print(f"  {worker.worker_id}: {doing}, seen {worker.seen_s_ago:.0f} s ago{sign}")
    return 0


def _status_line(status: Status) -> str:
    counts = status.counts
    line = f"{status.name}: {status.state}, {counts.finished} of {counts.budget} trials"
    if counts.failed:
        line += f", {counts.failed} failed"
    if status.best_score is not None:
        line += f", best {status.best_score:.6g} (trial {status.best_trial})"
    return line


def report(options: argparse.Namespace) -> int:
    """Write the report of a study."""
    from hpo.report import write_report
    from hpo.study import find

    _print(str(write_report(find(_open(options), options.name), Path(options.reports))))
    return 0


def export(options: argparse.Namespace) -> int:
    """Write the trials of a study to a file."""
    from hpo.export import export as write_trials
    from hpo.study import find

    record = find(_open(options), options.name)
    path = options.output or Path(f"{options.name}.{options.format}")
    n_trials = write_trials(record, path, options.format)
    _print(f"{path}: {n_trials} trials")
    return 0


def worker(options: argparse.Namespace) -> int:
    """Be one worker of a study until its budget is finished."""
    import logging

    from hpo.study import find
    from hpo.worker import Worker, new_worker_id

    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    record = find(_open(options), options.name)
    _, objective = record.open_objective()
    worker = Worker(record, objective, options.id or new_worker_id())
    logging.getLogger(__name__).info("left: %s", worker.run(options.parent))
    return 0


def features_build(options: argparse.Namespace) -> int:
    """Build a table, or find it built, and print what is missing in it."""
    import features.table

    spec, base_dir = _table_spec(options)
    built = features.table.build(
        spec,
        data_dir=Path(options.data) if options.data else None,
        tables_dir=Path(options.tables),
        base_dir=base_dir,
        log=say,
    )
    if options.json:
        _print(json.dumps({**vars(built), **_plain(built)}, indent=1, default=str))
        return 0
    how = "unchanged, reused" if built.reused else "built"
    _print(
        f"{built.path}: {built.n_rows} rows, {built.n_features} features, {how} "
        f"in {built.wall_s:.2f} s"
    )
    _print_remarks(built.skipped, built.partial)
    return 0


def _table_spec(options: argparse.Namespace) -> tuple[Any, Path]:
    from features.table import TableSpec
    from hpo.spec import apply_overrides, load, validate_as

    if options.study is not None:
        if options.dataset or options.families:
            raise SpecError("give a study file, or --dataset and --families, not both")
        spec = load(options.study, options.set)
        if spec.table is None:
            raise SpecError(f"{options.study}: has no [table]")
        return spec.table, options.study.resolve().parent
    if not options.dataset or not options.families:
        raise SpecError("give a study file, or --dataset and --families (see: hpo features list)")
    raw: dict[str, Any] = {"dataset": options.dataset, "families": options.families.split(",")}
    apply_overrides(raw, options.set)
    return validate_as(TableSpec, raw, "features build"), Path.cwd()


def _plain(built: Any) -> dict[str, Any]:
    return {key: [vars(row) for row in getattr(built, key)] for key in ("skipped", "partial")}


def _print_remarks(skipped: Sequence[Any], partial: Sequence[Any]) -> None:
    for row in skipped:
        _print(f"  skipped: {row.source} line {row.line} ({row.id}): {row.reason}")
    for row in partial:
        _print(f"  {row.family}: {row.source} line {row.line} ({row.id}): {row.reason}")


def features_show(options: argparse.Namespace) -> int:
    """Print what is in a table."""
    import features.table

    if options.json:
        _print(json.dumps(features.table.read_manifest(options.table), indent=1))
        return 0
    table = features.table.read(options.table)
    target = f"log10({table.target.name}" if table.target.log10 else f"({table.target.name}"
    unit = f" / {table.target.unit}" if table.target.unit else ""
    _print(f"table {table.name}")
    _print(f"  dataset {table.dataset}, hash {table.hash}")
    _print(f"  {len(table.train.y)} training rows, {len(table.test.y)} held-out rows")
    _print(f"  target {target}{unit})")
    for family in dict.fromkeys(column.family for column in table.columns):
        columns = [column for column in table.columns if column.family == family]
        leak = ", derived from the target" if columns[0].derived_from_target else ""
        _print(f"  {family}: {len(columns)} features{leak}")
    _print_remarks(table.skipped, table.partial)
    return 0


def features_list(options: argparse.Namespace) -> int:
    """Print the datasets and feature families there are."""
    import features.table

    datasets, families = features.table.datasets(), features.table.families()
    if options.json:
        described = {name: info.description for name, info in families.items()}
        _print(json.dumps({"datasets": dict(datasets), "families": described}, indent=1))
        return 0
    _print("datasets:")
    for name, description in datasets.items():
        _print(f"  {name:16} {description}")
    _print("feature families:")
    for name, info in families.items():
        _print(f"  {name:16} {info.n_columns:4}  {info.description}")
    return 0


def _open(options: argparse.Namespace, *, create: bool = False) -> StudyStorage:
    from hpo.storage import open_storage

    return open_storage(options.storage, create=create)


def _absolute(folder: str | None) -> str | None:
    return str(Path(folder).resolve()) if folder else None


def _storage_hint(options: argparse.Namespace) -> str:
    if options.storage == DEFAULT_STORAGE or os.environ.get("HPO_STORAGE"):
        return ""
    return f" --storage {options.storage}"


def say(line: str) -> None:
    """Print what is for a person, not for a program."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
