"""`hpo bench`."""

from __future__ import annotations

import argparse
import ast
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from hpo.commands.common import print_line, say
from hpo.errors import HpoError, suggest

FOLDER = Path(__file__).resolve().parents[3] / "tests" / "benchmarks"
ALL = "all"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("name", nargs="?", help=f"a benchmark, or '{ALL}'; without it, the list")
    parser.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        metavar="ARGUMENT",
        help="the benchmark's own; --help shows them",
    )


def run(options: argparse.Namespace) -> int:
    """List the benchmarks, run one, or run all in turn; 2 if one of them failed."""
    questions = find_benchmarks(FOLDER)
    if options.name is None:
        width = max(map(len, questions))
        for name, question in questions.items():
            print_line(f"{name:{width}}  {question}")
        return 0
    if options.name == ALL:
        return _run_all(questions, options.arguments)
    if options.name not in questions:
        raise HpoError(f"no benchmark '{options.name}'; {suggest(options.name, questions)}")
    return _run(options.name, options.arguments)


def find_benchmarks(folder: Path) -> dict[str, str]:
    """Return the question of each benchmark below a checkout's tests, by name.

    Raises
    ------
    HpoError
        If there are none: they belong to the checkout and are not installed without it.
    """
    found = {}
    for path in sorted(folder.glob("*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        # What benchmarks share, and processes of theirs, take no arguments to `main`.
        if any(isinstance(node, ast.FunctionDef) and _is_main(node) for node in module.body):
            found[path.stem] = (ast.get_docstring(module) or "").partition("\n")[0]
    if not found:
        raise HpoError(f"no benchmarks in {folder}; run this from a checkout of the project")
    return found


def _is_main(function: ast.FunctionDef) -> bool:
    return function.name == "main" and bool(function.args.args)


def _run_all(questions: Mapping[str, str], arguments: list[str]) -> int:
    if arguments:
        raise HpoError(f"'{ALL}' takes no arguments of a benchmark, got '{' '.join(arguments)}'")
    failed = []
    for name, question in questions.items():
        print_line(f"\n== {name}: {question}")
        sys.stdout.flush()
        began = time.monotonic()
        if _run(name, []):
            failed.append(name)
        say(f"{name}: {time.monotonic() - began:.0f} s")
    if failed:
        raise HpoError(f"{len(failed)} of {len(questions)} did not end well: {', '.join(failed)}")
    return 0


def _run(name: str, arguments: list[str]) -> int:
    # A process of its own: what a benchmark imports and sets must not meet the next one.
    paths = [str(FOLDER.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    # Without -P, `tests` of the user's own in the working directory would come first.
    command = [sys.executable, "-P", "-m", f"tests.benchmarks.{name}", *arguments]
    return subprocess.run(
        command, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, check=False
    ).returncode
