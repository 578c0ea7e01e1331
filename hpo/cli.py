"""The command line: commands and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from hpo.commands import (
    cluster,
    comparing,
    copying,
    database,
    doctor,
    features,
    intervals,
    looking,
    nesting,
    ranking,
    running,
    simulation,
    tracking,
)
from hpo.commands.common import INTERRUPTED, Parser, say
from hpo.errors import HpoError
from hpo.threads import use_one_thread


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    return run(_parser(), arguments)


def run(parser: Parser, arguments: Sequence[str] | None = None) -> int:
    """Run one command of a parser, ours or a study family's own, and return its exit code.

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


def _parser() -> Parser:
    parser = Parser(prog="hpo", description="Study runner for computational materials science.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    for group in (
        running,
        nesting,
        looking,
        comparing,
        intervals,
        ranking,
        cluster,
        database,
        copying,
        tracking,
        simulation,
        features,
        doctor,
    ):
        group.add_to(commands)
    return parser


def _is_users_mistake(exc: Exception) -> bool:
    """Whether a package below the engine raised it on purpose; those know no HpoError."""
    for name, base in (("features.errors", "FeaturesError"), ("slurm.errors", "SlurmError")):
        module = sys.modules.get(name)
        if module is not None and isinstance(exc, getattr(module, base)):
            return True
    return False


if __name__ == "__main__":
    sys.exit(main())
