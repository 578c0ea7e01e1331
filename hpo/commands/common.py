"""Options, output streams and the opening of storages, shared by all commands."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from hpo.errors import HpoError
from hpo.records import TRUST, Access
from hpo.redaction import redact, redact_argument
from hpo.system.atomic_files import is_stream
from hpo.wording import abridge, printable

if TYPE_CHECKING:
    from hpo.storage.storage import StudyStorage

INTERRUPTED = 130
# What a person may read of one message; files may hold more in one word.
MAX_LINE = 10_000
# What a column of numbers holds in every database.
MAX_COUNT = 2**31 - 1
DEFAULT_STORAGE = "sqlite:///hpo.db"


class Parser(argparse.ArgumentParser):
    """Errors in one line, in the style of all others."""

    def error(self, message: str) -> NoReturn:
        """End with the exit code of a user's mistake."""
        said = printable(f"error: {message}\n(see: {self.prog} --help)\n")
        self.exit(HpoError.exit_code, said)


def add_commands(parser: argparse.ArgumentParser) -> Any:
    """Let a parser have commands, and return where these are added."""
    return parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)


def add_command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], int], summary: str
) -> argparse.ArgumentParser:
    """Add a command, and return the parser that its arguments are added to."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
    )
    parser.set_defaults(command=function)
    return parser


# Options that several commands have: the environment variable, the default, what it is.
_SHARED = {
    "storage": (
        "HPO_STORAGE",
        DEFAULT_STORAGE,
        "where studies are kept: a URL, or the DIR of `hpo db start`",
    ),
    "data": ("HPO_DATA", None, "folder of datasets"),
    "tables": ("HPO_TABLES", "tables", "folder of feature tables"),
    "reports": ("HPO_REPORTS", "reports", "folder of reports"),
    "logs": ("HPO_LOGS", "logs", "folder of the workers' logs"),
}


def add_shared(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add options that several commands have in common, by their names."""
    for name in names:
        variable, default, text = _SHARED[name]
        shown = f"default: {variable}" + (f", or {default}" if default else "")
        parser.add_argument(
            f"--{name}", default=os.environ.get(variable) or default, help=f"{text} ({shown})"
        )


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add `--trust`."""
    parser.add_argument(
        "--trust",
        action=_Trust,
        nargs=0,
        help=f"import code that a study names, although another user began it (default: {TRUST})",
    )


class _Trust(argparse.Action):
    """Sets a variable, which the workers of this command inherit."""

    def __call__(self, *_: object) -> None:
        os.environ[TRUST] = "1"


def add_json(parser: argparse.ArgumentParser, text: str = "print JSON") -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help=text)


def add_set(parser: argparse.ArgumentParser, what: str = "any field of the study file") -> None:
    """Add `--set`."""
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help=f"set {what}; repeatable"
    )


def from_variable(name: str) -> dict[str, Any]:
    """Return the default of an option that an environment variable may give."""
    # A text is checked by the option's type, as if it had been typed.
    return {"default": os.environ.get(name) or None}


def not_negative(text: str) -> int:
    """Read a whole number of at least 0."""
    return _count(text, 0)


def seconds(text: str) -> float:
    """Read a number of seconds."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0.0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of seconds from 0 on, got '{text}'")
    return number


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    return _count(text, 1)


def _count(text: str, least: int) -> int:
    got = f"got '{abridge(text)}'"
    digits = text.lstrip("0") or text[-1:]
    # A text of so many digits is not even read.
    number = int(digits[:20]) if text.isdecimal() else -1
    if number > MAX_COUNT:
        raise argparse.ArgumentTypeError(f"must be at most {MAX_COUNT}, {got}")
    if number < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, {got}")
    return number


def add_output(parser: argparse.ArgumentParser, default: str, what: str = "") -> None:
    """Add `--output` for one file; `default` says where it is written without it."""
    parser.add_argument(
        "--output",
        type=_output_file,
        metavar="FILE",
        help=f"{what or 'what to write'}; - is standard output (default: {default})",
    )


def _output_file(text: str) -> Path:
    """Read the name of a file that may be written, as far as its name says."""
    path = Path(text)
    try:
        is_folder = path.is_dir()
    except OSError as exc:
        raise argparse.ArgumentTypeError(f"'{text}': {exc.strerror}") from exc
    if is_folder:
        raise argparse.ArgumentTypeError(f"must be a file, and '{text}' is a folder")
    return path


@contextlib.contextmanager
def beside_output(path: Path | None) -> Iterator[None]:
    """Print to standard error meanwhile if what is written to `path` is a stream."""
    if path is None or not is_stream(path):
        yield
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield


def open_storage(options: argparse.Namespace, access: Access) -> StudyStorage:
    """Open the storage that the options name."""
    from hpo.storage.backends import open_storage

    return open_storage(options.storage, access)


def storage_hint(options: argparse.Namespace) -> str:
    """Return what a suggested command needs so that it finds the same storage."""
    if options.storage == DEFAULT_STORAGE or os.environ.get("HPO_STORAGE"):
        return ""
    return f" --storage {redact_argument(options.storage)}"


def absolute(folder: str | None) -> str | None:
    """Return the absolute path of a folder that was given."""
    return str(Path(folder).resolve()) if folder else None


def say(line: str) -> None:
    """Print what is for a person, not for a program; a library's message may name a password."""
    sys.stderr.write(f"{printable(abridge(redact(line), MAX_LINE))}\n")
    sys.stderr.flush()


def print_line(line: str) -> None:
    """Print what a program may read."""
    sys.stdout.write(f"{printable(line)}\n")


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print_line(json.dumps(value, indent=1, default=str))
