"""The command line: commands, options, exit codes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hpo import commands
from hpo.commands import DEFAULT_STORAGE, INTERRUPTED, say
from hpo.errors import HpoError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 done, 2 the user's mistake, 3 a conflict on resume, 130 interrupted.
    """
    options = _parser().parse_args(arguments)
    use_one_thread()
    try:
        return int(options.command(options))
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except HpoError as exc:
        say(f"error: {exc}")
        return exc.exit_code
    except Exception as exc:
        if _is_features_error(exc):
            say(f"error: {exc}")
            return HpoError.exit_code
        raise


class _Parser(argparse.ArgumentParser):
    """Errors in one line, in the style of all others."""

    def error(self, message: str) -> NoReturn:
        self.exit(HpoError.exit_code, f"error: {message}\n(see: {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="hpo", description="Study runner for computational materials science.")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    shared = _shared_options()

    run = _command(
        subparsers, "run", commands.run, "run a study until it is finished, with local workers"
    )
    run.add_argument("study", type=Path, metavar="STUDY", help="the study file (TOML)")
    _add_run_options(run, shared)
    run.add_argument("--name", help="name of the study (default: the file's)")
    run.add_argument("--seed", type=int, help="seed of sampler and estimator")
    _add_set_option(run)

    resume = _command(subparsers, "resume", commands.resume, "go on with a study that was stopped")
    resume.add_argument("name", metavar="NAME", help="the study's name")
    _add_run_options(resume, shared)

    check = _command(
        subparsers, "check", commands.check, "validate study files without running them"
    )
    check.add_argument("studies", type=Path, nargs="+", metavar="STUDY")
    _add_set_option(check)

    status = _command(subparsers, "status", commands.status, "say how far studies are")
    status.add_argument("name", nargs="?", metavar="NAME", help="one study (default: all)")
    status.add_argument("--json", action="store_true", help="print JSON")
    shared["storage"](status)

    report = _command(subparsers, "report", commands.report, "write the report page of a study")
    report.add_argument("name", metavar="NAME")
    shared["storage"](report)
    shared["reports"](report)

    export = _command(
        subparsers, "export", commands.export, "write the trials of a study to a file"
    )
    export.add_argument("name", metavar="NAME")
    export.add_argument("--format", choices=("csv", "json", "parquet"), default="csv")
    export.add_argument("--output", type=Path, metavar="FILE", help="default: NAME.FORMAT")
    shared["storage"](export)

    _add_features_commands(subparsers, shared)

    worker = _command(subparsers, "worker", commands.worker, "add one worker to a study")
    worker.add_argument("name", metavar="NAME")
    worker.add_argument("--id", help=argparse.SUPPRESS)
    worker.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    shared["storage"](worker)
    return parser


def _add_features_commands(subparsers: Any, shared: dict[str, Callable[..., None]]) -> None:
    group = subparsers.add_parser("features", help="build and show feature tables")
    features = group.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    build = _command(
        features, "build", commands.features_build, "build a feature table, or find it built"
    )
    build.add_argument("study", type=Path, nargs="?", metavar="STUDY", help="the table of a study")
    build.add_argument("--dataset", help="a dataset, instead of a study file")
    build.add_argument("--families", metavar="A,B,…", help="its feature families")
    build.add_argument("--json", action="store_true", help="print JSON")
    _add_set_option(build, "any key of a study file's [table]; with STUDY, of the file")
    shared["data"](build)
    shared["tables"](build)
    show = _command(
        features,
        "show",
        commands.features_show,
        "print what is in a table, and what is not and why",
    )
    show.add_argument("table", type=Path, metavar="TABLE", help="its folder")
    show.add_argument("--json", action="store_true", help="print the manifest")
    listing = _command(
        features, "list", commands.features_list, "list datasets and feature families"
    )
    listing.add_argument("--json", action="store_true", help="print JSON")


def _command(
    subparsers: Any, name: str, function: Callable[[argparse.Namespace], int], summary: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
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


def use_one_thread() -> None:
    """Set before the numerical libraries load: more threads make small tables slower."""
    for name in (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        # joblib, which scikit-learn asks for cores, would otherwise look for a program that knows.
        "LOKY_MAX_CPU_COUNT",
    ):
        os.environ[name] = "1"


def _is_features_error(exc: Exception) -> bool:
    module = sys.modules.get("features.errors")
    return module is not None and isinstance(exc, module.FeaturesError)


if __name__ == "__main__":
    sys.exit(main())
