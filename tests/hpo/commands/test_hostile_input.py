"""No input ends in a stack trace: command lines, study files, cluster files, CSV files, URLs.

The cases are drawn from seeds, so that a failure can be had again; commands run in this process,
up to where they would start processes of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import hpo.commands.results.status
import hpo.commands.studies.nested
import hpo.commands.studies.run
import hpo.commands.studies.worker
import hpo.commands.tools.bench
import hpo.commands.tools.db
import hpo.commands.tools.doctor
import hpo.commands.tools.simulate
import hpo.commands.tools.wandb
from hpo.cli import COMMANDS, main, make_parser
from hpo.errors import HpoError
from hpo.simulation.scenario import Cluster
from tests.support.hostile import CSV, SETTINGS, SOUND, WORDS, fill_folder, mutate

CODES = {0, 2, 3, 130}
# Where a command would make files in any folder that it is given; this may run as root.
FOLDERS = ("--tables", "--reports", "--logs", "--models", "--model")
MAX_SAID = 20_000


class _Clock:
    """Time, in which whoever waits is interrupted."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def sleep(self, _seconds: float) -> None:
        raise KeyboardInterrupt


def _not_here(*_: Any, **__: Any) -> Any:
    raise HpoError("not in this test")


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of hostile files and of a study that was begun, below three others."""
    folder = tmp_path_factory.mktemp("hostile") / "a" / "b" / "c"
    folder.mkdir(parents=True)
    fill_folder(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for variable in [name for name in os.environ if name.startswith(("HPO_", "WANDB_"))]:
            if not variable.startswith("HPO_TEST_"):
                patch.delenv(variable)
        # No sbatch, no squeue.
        patch.setenv("PATH", str(folder / "folder"))
        patch.setenv("HOME", str(folder))
        patch.setattr(hpo.commands.studies.run, "_work", lambda *_: 0)
        patch.setattr(
            "hpo.launch.processes.worker_source", lambda *_: contextlib.nullcontext(), raising=True
        )
        patch.setattr(hpo.commands.studies.worker, "run", _not_here)
        patch.setattr(hpo.commands.tools.bench, "_run", _not_here)
        patch.setattr(hpo.commands.tools.db.Server, "start", _not_here)
        patch.setattr(hpo.commands.tools.wandb.Replay, "run", _not_here)
        patch.setattr(hpo.commands.tools.doctor, "diagnose", _not_here)
        patch.setattr(hpo.commands.results.status, "time", _Clock())
        patch.setattr("hpo.commands.cluster.refill.time", _Clock())
        simulate = hpo.commands.tools.simulate.run_simulation

        def simulate_little(cluster: Cluster, table: Any) -> Any:
            small = cluster.workers * cluster.trials * table.n_parts < 1000
            return simulate(cluster, table) if small else _not_here()

        patch.setattr(hpo.commands.tools.simulate, "run_simulation", simulate_little)
        assert main(["run", "sound.toml"]) == 0
        yield folder


def refused(arguments: Sequence[str]) -> str | None:
    """Run a command; return what is wrong with how it ended, or None."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code: Any = main(arguments)
        except SystemExit as exc:
            code = exc.code or 0
        except BaseException as exc:  # what a user would see as a stack trace
            import traceback

            where = traceback.extract_tb(exc.__traceback__)[-1]
            return f"{type(exc).__name__}: {str(exc)[:200]} ({where.filename}:{where.lineno})"
    out.flush()
    said = err.getvalue()
    text = out.buffer.getvalue().decode("utf-8", "replace") + said  # type: ignore[attr-defined]
    if code not in CODES:
        return f"exit code {code}"
    if "Traceback (most" in text:
        return f"a stack trace: {text[-300:]}"
    if code in (2, 3) and not any(line.startswith("error: ") for line in said.splitlines()):
        return f"exit code {code} without an error: {said[-300:]}"
    if len(said) > MAX_SAID:
        return f"{len(said)} characters of messages"
    return None


def collect(cases: Iterator[tuple[Sequence[str], Callable[[], Any]]]) -> dict[str, str]:
    """Run cases; return the first of each way to go wrong."""
    found: dict[str, str] = {}
    for arguments, prepare in cases:
        prepare()
        began = time.monotonic()
        wrong = refused(arguments)
        if wrong is None and time.monotonic() - began > 20.0:
            wrong = f"{time.monotonic() - began:.0f} s"
        if wrong is not None:
            found.setdefault(wrong[:120], f"{wrong}\n    of {[a[:80] for a in arguments]}")
    return found


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Every command, as in `features build`, and its parser."""
    found: dict[str, argparse.ArgumentParser] = {}

    def walk(parser: argparse.ArgumentParser, prefix: str) -> None:
        groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        if not groups:
            found[prefix] = parser
        for action in groups:
            for name, sub in action.choices.items():
                walk(sub, f"{prefix} {name}".strip())

    walk(make_parser(COMMANDS), "")
    return found


SANE = {
    "study": ["sound.toml"], "studies": ["sound.toml"], "name": ["sound"], "names": ["sound"],
    "candidates": ["mine.csv"], "trials": ["3"], "source": ["sqlite:///hpo.db"], "table": ["tables"],
    "target": ["sqlite:///copy.db"], "folder": ["folder"], "against": ["sound"], "parts": ["2"],
    "dataset": ["csv"], "families": ["ratios"], "cluster": ["x"], "clusters": ["clusters.toml"],
    "workers": ["2"], "storage": ["sqlite:///hpo.db"], "output": ["out"], "reported": ["sound.toml"],
}  # fmt: skip


def value(action: argparse.Action, rng: random.Random) -> str:
    if action.dest in ("set", "slurm") and rng.random() < 0.9:
        return rng.choice(SETTINGS)
    if action.choices and rng.random() < 0.7:
        return str(rng.choice(list(action.choices)))
    if action.dest in SANE and rng.random() < 0.5:
        return rng.choice(SANE[action.dest])
    while True:
        word = rng.choice(WORDS)
        folder = any(option in FOLDERS for option in action.option_strings)
        if not (folder and word.startswith("/") and not word.startswith("/dev")):
            return word


def draw(command: str, parser: argparse.ArgumentParser, rng: random.Random) -> list[str]:
    """Draw a command line that has the shape of a right one, more or less."""
    words: list[str] = []
    sane = rng.random() < 0.5
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        if action.option_strings:
            if rng.random() > 0.3 or (command == "simulate" and action.dest == "workers"):
                continue
            option = action.option_strings[-1]
            if action.nargs == 0:
                words.append(option)
            elif rng.random() < 0.5:
                words.append(f"{option}={value(action, rng)}")
            else:
                words += [option, value(action, rng)]
            continue
        n = 3 if action.nargs == 3 else rng.choice([1, 1, 1, 2]) if action.nargs else 1
        for _ in range(n):
            known = SANE.get(action.dest)
            words.append(rng.choice(known) if known and sane else value(action, rng))
    if rng.random() < 0.2:
        words.insert(rng.randrange(len(words) + 1), rng.choice(WORDS))
    return [*command.split(), *words]


@pytest.mark.slow
@pytest.mark.parametrize("command", parsers())
def test_no_command_line_ends_in_a_stack_trace(command, begun):
    parser, rng = parsers()[command], random.Random(f"command line {command}")
    found = collect((draw(command, parser, rng), lambda: None) for _ in range(120))
    assert not found, "\n".join(found.values())
