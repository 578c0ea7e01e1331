"""The command line: the table of commands, and exit codes."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Iterable, Sequence

from hpo.commands.common import INTERRUPTED, Parser, add_commands, print_line, say
from hpo.errors import HpoError
from hpo.system.threads import use_one_thread

# The module of each command, imported only when it is asked for, and what `hpo --help` says of it.
COMMANDS = {
    "run": ("studies.run", "run a study until it is finished, with local workers"),
    "resume": ("studies.resume", "go on with a study that was stopped"),
    "check": ("studies.check", "validate study files without running them"),
    "worker": ("studies.worker", "add one worker to a study"),
    "submit": ("cluster.submit", "run a study with workers on a SLURM cluster; returns at once"),
    "refill": ("cluster.refill", "submit the workers of a study that are missing"),
    "stop": ("cluster.stop", "end a study: running trials are finished, no new ones begin"),
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
    "features": ("tools.features", "build and show feature tables"),
    "copy": ("tools.copy", "copy studies from one storage to another"),
    "db": ("tools.db", "run a PostgreSQL server of your own in a folder"),
    "wandb": ("tools.wandb", "log the finished trials of a study to Weights & Biases"),
    "simulate": ("tools.simulate", "simulate a study on a cluster of many workers"),
    "doctor": ("tools.doctor", "check storage, folders, cluster, machine and installation"),
    "bench": ("tools.bench", "run a benchmark, or list what is measured against what"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    return run(make_parser([given[0]] if given and given[0] in COMMANDS else []), given)


def run(parser: Parser, arguments: Sequence[str] | None = None) -> int:
    """Run one command of a parser, ours or a study folder's own, and return its exit code.

    0 done, 2 the user's mistake, 3 a conflict on resume, 130 interrupted.
    """
    options = parser.parse_args(arguments)
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
        if _is_users_mistake(exc):
            say(f"error: {exc}")
            return HpoError.exit_code
        raise


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
        parser.exit()


def _is_users_mistake(exc: Exception) -> bool:
    """Whether a package below the engine raised it on purpose; those know no HpoError."""
    for name, base in (("features.errors", "FeaturesError"), ("slurm.errors", "SlurmError")):
        module = sys.modules.get(name)
        if module is not None and isinstance(exc, getattr(module, base)):
            return True
    return False
