"""The command line. Imports of everything heavy wait until a command needs them."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from hpo.errors import HpoError, SpecError

if TYPE_CHECKING:
    from hpo.spec import StudySpec
    from hpo.storage import StudyStorage
    from hpo.study import Source, StudyRecord

INTERRUPTED = 130
DEFAULT_STORAGE = "sqlite:///hpo.db"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 done, 2 the user's mistake, 3 a conflict on resume, 130 interrupted.
    """
    options = _parser().parse_args(arguments)
    _use_one_thread()
    try:
        return int(options.command(options))
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except HpoError as exc:
        _say(f"error: {exc}")
        return exc.exit_code
    except Exception as exc:
        if _is_features_error(exc):
            _say(f"error: {exc}")
            return HpoError.exit_code
        raise


class _Parser(argparse.ArgumentParser):
    """Errors in one line, in the style of all others."""

    def error(self, message: str) -> NoReturn:
        self.exit(HpoError.exit_code, f"error: {message}\n(see: {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="hpo", description="Study runner for computational materials science.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    shared = _shared_options()

    run = _command(commands, "run", _run, "run a study with local workers until it is finished")
    run.add_argument("study", type=Path, metavar="STUDY", help="the study file (TOML)")
    _add_run_options(run, shared)
    run.add_argument("--name", help="name of the study (default: the file's)")
    run.add_argument("--seed", type=int, help="seed of sampler and estimator")
    _add_set_option(run)

    resume = _command(commands, "resume", _resume, "go on with a study that was stopped")
    resume.add_argument("name", metavar="NAME", help="the study's name")
    _add_run_options(resume, shared)

    check = _command(commands, "check", _check, "validate study files without running them")
    check.add_argument("studies", type=Path, nargs="+", metavar="STUDY")
    _add_set_option(check)

    status = _command(commands, "status", _status, "say how far studies are")
    status.add_argument("name", nargs="?", metavar="NAME", help="one study (default: all)")
    status.add_argument("--json", action="store_true", help="print JSON")
    shared["storage"](status)

    report = _command(commands, "report", _report, "write the report page of a study")
    report.add_argument("name", metavar="NAME")
    shared["storage"](report)
    shared["reports"](report)

    export = _command(commands, "export", _export, "write the trials of a study to a file")
    export.add_argument("name", metavar="NAME")
    export.add_argument("--format", choices=("csv", "json", "parquet"), default="csv")
    export.add_argument("--output", type=Path, metavar="FILE", help="default: NAME.FORMAT")
    shared["storage"](export)

    _add_features_commands(commands, shared)

    worker = _command(commands, "worker", _worker, "add one worker to a study")
    worker.add_argument("name", metavar="NAME")
    worker.add_argument("--id", help=argparse.SUPPRESS)
    worker.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    shared["storage"](worker)
    return parser


def _add_features_commands(commands: Any, shared: dict[str, Callable[..., None]]) -> None:
    group = commands.add_parser("features", help="build and show feature tables")
    features = group.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    build = _command(features, "build", _build, "build a feature table, or find it built")
    build.add_argument("study", type=Path, nargs="?", metavar="STUDY", help="the table of a study")
    build.add_argument("--dataset", help="a dataset, instead of a study file")
    build.add_argument("--families", metavar="A,B,…", help="its feature families")
    build.add_argument("--json", action="store_true", help="print JSON")
    _add_set_option(build, "any key of a study file's [table]; with STUDY, of the file")
    shared["data"](build)
    shared["tables"](build)
    show = _command(features, "show", _show, "print what is in a table, and what is not and why")
    show.add_argument("table", type=Path, metavar="TABLE", help="its folder")
    show.add_argument("--json", action="store_true", help="print the manifest")
    listing = _command(features, "list", _list, "list datasets and feature families")
    listing.add_argument("--json", action="store_true", help="print JSON")


def _command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], int], summary: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
    )
    parser.set_defaults(command=function)
    return parser


def _shared_options() -> dict[str, Callable[[argparse.ArgumentParser], Any]]:
    def option(name: str, variable: str, default: str | None, text: str) -> Callable[..., Any]:
        shown = f"default: {variable}" + (f", or {default}" if default else "")
        return lambda parser: parser.add_argument(
            f"--{name}", default=os.environ.get(variable) or default, help=f"{text} ({shown})"
        )

    return {
        "storage": option("storage", "HPO_STORAGE", DEFAULT_STORAGE, "URL of the study storage"),
        "data": option("data", "HPO_DATA", None, "folder of datasets"),
        "tables": option("tables", "HPO_TABLES", "tables", "folder of feature tables"),
        "reports": option("reports", "HPO_REPORTS", "reports", "folder of reports"),
    }


def _add_run_options(
    parser: argparse.ArgumentParser, shared: dict[str, Callable[..., Any]]
) -> None:
    parser.add_argument("--workers", type=_positive, default=None, metavar="N")
    parser.add_argument("--trials", type=_positive, metavar="N", help="the budget")
    parser.add_argument(
        "--accept",
        type=lambda text: tuple(part for part in text.split(",") if part),
        default=(),
        metavar="PART,…",
        help="go on although these parts of the study changed; written down in the study",
    )
    for option in shared.values():
        option(parser)


def _add_set_option(
    parser: argparse.ArgumentParser, what: str = "any field of the study file"
) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help=f"set {what}; repeatable"
    )


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got '{text}'")
    return number


# Commands -------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
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


def _resume(options: argparse.Namespace) -> int:
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
    table = build_table(spec, source, Path(options.tables), _say, stored_table)
    record = begin(storage, spec, source, table, options.accept)
    counts = record.ledger.counts()
    if counts.done:
        _say(
            f"study '{record.name}' is finished: {counts.finished} of {counts.budget} trials; "
            "nothing to do (more: --trials N)"
        )
        return _finish(options, record)
    if counts.finished or counts.free or counts.held:
        _say(f"going on with study '{record.name}': {counts.finished} of {counts.budget} finished")
    return _work(options, record)


def _work(options: argparse.Namespace, record: StudyRecord) -> int:
    from hpo.launcher import LocalLauncher
    from hpo.progress import Progress

    progress = Progress(record, sys.stderr)
    workers = options.workers or len(os.sched_getaffinity(0))
    logs = Path("logs") / record.name
    launcher = LocalLauncher(record, workers, logs, progress)
    _say(f"study '{record.name}': {record.spec.trials} trials, {workers} workers, logs in {logs}")
    try:
        finished = launcher.run()
    finally:
        progress.close()
    if not finished:
        counts = record.ledger.counts()
        _say(
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


def _check(options: argparse.Namespace) -> int:
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
            _say(f"error: {exc}")
            wrong += 1
        else:
            _print(f"{path}: ok, study '{spec.name}', {len(spec.space)} dimensions")
    return HpoError.exit_code if wrong else 0


def _status(options: argparse.Namespace) -> int:
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


def _status_line(status: Any) -> str:
    counts = status.counts
    line = f"{status.name}: {status.state}, {counts.finished} of {counts.budget} trials"
    if counts.failed:
        line += f", {counts.failed} failed"
    if status.best_score is not None:
        line += f", best {status.best_score:.6g} (trial {status.best_trial})"
    return line


def _report(options: argparse.Namespace) -> int:
    from hpo.report import write_report
    from hpo.study import find

    _print(str(write_report(find(_open(options), options.name), Path(options.reports))))
    return 0


def _export(options: argparse.Namespace) -> int:
    from hpo.export import export
    from hpo.study import find

    record = find(_open(options), options.name)
    path = options.output or Path(f"{options.name}.{options.format}")
    n_trials = export(record, path, options.format)
    _print(f"{path}: {n_trials} trials")
    return 0


def _worker(options: argparse.Namespace) -> int:
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


def _build(options: argparse.Namespace) -> int:
    import features.table

    spec, base_dir = _table_spec(options)
    built = features.table.build(
        spec,
        data_dir=Path(options.data) if options.data else None,
        tables_dir=Path(options.tables),
        base_dir=base_dir,
        log=_say,
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


def _show(options: argparse.Namespace) -> int:
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


def _list(options: argparse.Namespace) -> int:
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


# Small things ---------------------------------------------------------------------------------


def _open(options: argparse.Namespace, *, create: bool = False) -> StudyStorage:
    from hpo.storage import open_storage

    return open_storage(options.storage, create=create)


def _absolute(folder: str | None) -> str | None:
    return str(Path(folder).resolve()) if folder else None


def _storage_hint(options: argparse.Namespace) -> str:
    if options.storage == DEFAULT_STORAGE or os.environ.get("HPO_STORAGE"):
        return ""
    return f" --storage {options.storage}"


def _use_one_thread() -> None:
    """Set before the numerical libraries load: more threads make small tables slower."""
    for name in (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
    ):
        os.environ[name] = "1"


def _is_features_error(exc: Exception) -> bool:
    module = sys.modules.get("features.errors")
    return module is not None and isinstance(exc, module.FeaturesError)


def _say(line: str) -> None:
    """Print what is for a person, not for a program."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
