"""The command line: the table of commands, and exit codes."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import io
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

from hpo.commands.common import INTERRUPTED, Parser, add_commands, print_line, say
from hpo.errors import HpoError, describe_os_error
from hpo.redaction import redact_arguments
from hpo.system.threads import use_threads

# The module of each command, imported only when it is asked for, and what `hpo --help` says of it.
COMMANDS = {
    "run": ("studies.run", "run a study until it is finished, with local workers"),
    "resume": ("studies.resume", "go on with a study that was stopped"),
    "init": ("studies.init", "write a study file for a CSV file of your own"),
    "check": ("studies.check", "validate study files without running them"),
    "worker": ("studies.worker", "add one worker to a study"),
    "submit": ("cluster.submit", "run a study with workers on a SLURM cluster; returns at once"),
    "refill": ("cluster.refill", "submit the workers of a study that are missing"),
    "sbatch": ("cluster.sbatch", "print a script for sbatch that adds a job of workers to a study"),
    "stop": ("cluster.stop", "end a study: running trials are finished, no new ones begin"),
    "adopt": ("studies.adopt", "let a study that Optuna began go on by hpo"),
    "enqueue": ("studies.enqueue", "have points of your own tried first"),
    "budget": ("cluster.budget", "raise or lower the budget of a study, running or finished"),
    "show": ("studies.show", "print the study file that a study was begun with"),
    "delete": ("studies.delete", "delete a study and its trials from the storage"),
    "status": ("results.status", "say how far studies are"),
    "logs": ("results.logs", "print what workers wrote about a trial, or where their logs are"),
    "provenance": ("results.provenance", "print where the results of a study come from"),
    "report": ("results.report", "write the report page of a study"),
    "export": ("results.export", "write the trials of a study to a file"),
    "compare": (
        "results.compare",
        "print the scores of studies side by side and reported ones, and write a page about them",
    ),
    "nested": ("studies.nested", "repeat a study's whole search with each of its folds held out"),
    "intervals": ("results.intervals", "make calibrated intervals of three quantile studies"),
    "rank": ("results.rank", "rank unmeasured materials by the best model of a finished study"),
    "model": ("results.model", "fit and save the best model of a finished study, with its card"),
    "features": ("tools.features", "build and show feature tables"),
    "copy": ("tools.copy", "copy studies from one storage to another"),
    "db": ("tools.db", "run a PostgreSQL server of your own in a folder"),
    "wandb": ("tools.wandb", "log the finished trials of a study to Weights & Biases"),
    "simulate": ("tools.simulate", "simulate a study on a cluster of many workers"),
    "doctor": ("tools.doctor", "check storage, folders, cluster, machine and installation"),
    "bench": ("tools.bench", "run a benchmark, or list what is measured against what"),
}


# How pathlib begins what it says of links that lead in a circle, and of `~` without a home.
_PATHS = ("Symlink loop from", "Could not determine home directory")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    # Before a command imports numpy: a launcher whose libraries have threads cannot fork workers.
    use_threads(1)
    if arguments is None:
        _open_streams()
    given = sys.argv[1:] if arguments is None else list(arguments)
    if arguments is None and (shown := redact_arguments(given)) != given:
        # Other users of this machine see the command lines of all processes.
        from hpo.system.resources import rewrite_arguments

        rewrite_arguments(shown)
    try:
        return run(make_parser([given[0]] if given and given[0] in COMMANDS else []), given)
    except KeyboardInterrupt:
        # While the command was being imported.
        say("interrupted")
        return INTERRUPTED


def _open_streams() -> None:
    """Open what the caller has closed of standard input, output and error: nothing is there.

    The next file or socket would be taken for it otherwise.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest number that is free is this one.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))


def run(parser: Parser, arguments: Sequence[str] | None = None) -> int:
    """Run one command of a parser, ours or a study folder's own, and return its exit code.

    0 done, 2 the user's mistake, 3 a conflict on resume, 130 interrupted.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What the terminal has no sign for is no reason to end.
        sys.stdout.reconfigure(errors="backslashreplace")
    _refuse_odd_texts(parser, given)
    options = argparse.Namespace()
    try:
        options = parser.parse_args(given)
        use_threads(1)
        with _warning_once():
            code = int(options.command(options))
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough.
        _drop_stdout()
        return 0
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except HpoError as exc:
        say(f"error: {exc}")
        return exc.exit_code
    except OSError as exc:
        say(f"error: {describe_os_error(exc)}")
        _drop_stdout()
        return HpoError.exit_code
    except Exception as exc:  # of all else, what is no mistake of ours is told in a sentence
        told = _tell_mistake(exc, getattr(options, "storage", None))
        if told is None:
            raise
        say(f"error: {told}")
        return HpoError.exit_code
    return code


@contextlib.contextmanager
def _warning_once() -> Iterator[None]:
    """Show a library's warning once, and not again for each fold and model that it is of."""
    shown: set[tuple[type[Warning], str, int]] = set()
    show = warnings.showwarning

    def show_once(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if (category, filename, lineno) not in shown:
            shown.add((category, filename, lineno))
            show(message, category, filename, lineno, file, line)

    warnings.showwarning = show_once
    try:
        yield
    finally:
        warnings.showwarning = show


def _refuse_odd_texts(parser: Parser, arguments: Sequence[str]) -> None:
    """Refuse what no file, page or database takes, and what argparse itself stumbles over."""
    variables = {key: text for key, text in os.environ.items() if key.startswith("HPO_")}
    texts = [*((f"argument {text!r}", text) for text in arguments), *variables.items()]
    for what, text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            parser.error(f"{what}: must be valid UTF-8")
        if "\0" in text:
            parser.error(f"{what}: must have no NUL character")
    for text in arguments:
        if text.startswith("--") and text.endswith("=--"):
            parser.error(f"argument {text.removesuffix('=--')}: must have a value other than --")


def _drop_stdout() -> None:
    """Drop what is not yet written, which Python would try to write again at its end."""
    with contextlib.suppress(OSError):  # a stream of other kinds has no descriptor
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def make_parser(configured: Iterable[str]) -> Parser:
    """Return the parser of the command line; only the `configured` commands have their options."""
    parser = Parser(prog="hpo", description="Study runner for computational materials science.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and leave")
    commands = add_commands(parser)
    for name, (_, summary) in COMMANDS.items():
        described = f"{summary[0].upper()}{summary[1:]}."
        commands.add_parser(name, help=summary, description=described)
    for name in configured:
        module = importlib.import_module(f"hpo.commands.{COMMANDS[name][0]}")
        command = commands.choices[name]
        if hasattr(module, "run"):
            command.set_defaults(command=module.run)
        module.configure(command)
    return parser


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print_line(f"hpo {importlib.metadata.version('hpo')}")
        sys.stdout.flush()
        parser.exit()


def _tell_mistake(exc: Exception, storage: str | None) -> str | None:
    """Return what to say of an error that is none of this program; None if it is one."""
    # Packages below the engine raise errors of their own on purpose; those know no HpoError.
    for name, base in (("features.errors", "FeaturesError"), ("slurm.errors", "SlurmError")):
        module = sys.modules.get(name)
        if module is not None and isinstance(exc, getattr(module, base)):
            return str(exc)
    if isinstance(exc, RuntimeError) and str(exc).startswith(_PATHS):
        return str(exc)
    backends: Any = sys.modules.get("hpo.storage.backends")
    told: str | None = None if backends is None else backends.explain_failure(exc, storage)
    return told
