"""No input ends in a stack trace: command lines, study files, cluster files, CSV files, URLs.

The cases are drawn from seeds, so that a failure can be had again; commands run in this process,
up to where they would start processes of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
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
import hpo.commands.tools.doctor
import hpo.commands.tools.simulate
import hpo.simulation.engine
from hpo.cli import COMMANDS, main, make_parser
from hpo.errors import HpoError
from hpo.simulation.scenario import Cluster
from tests.support.bad_input.hostile import CSV, SETTINGS, SOUND, WORDS, fill_folder, mutate

CODES = {0, 2, 3, 130}
# Where a command would make files in any folder that it is given; this may run as root.
FOLDERS = ("--tables", "--reports", "--logs", "--models", "--model")
MAX_SAID = 20_000
# A page takes a part of a second.
N_CASES, N_PAGES = 120, 25
PAGES = ("report", "compare", "nested", "resume", "run")


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
        patch.setattr("hpo.commands.tools.db.Server.start", _not_here)
        patch.setattr("hpo.commands.tools.wandb.Replay.run", _not_here)
        patch.setattr(hpo.commands.tools.doctor, "diagnose", _not_here)
        patch.setattr(hpo.commands.results.status, "time", _Clock())
        patch.setattr("hpo.commands.cluster.refill.time", _Clock())
        simulate = hpo.simulation.engine.simulate

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
    text = out.buffer.getvalue().decode("utf-8", "replace") + said
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
    "candidates": ["mine.csv"], "trials": ["3"], "source": ["sqlite:///hpo.db"],
    "table": ["tables"],
    "target": ["sqlite:///copy.db"], "folder": ["folder"], "against": ["sound"], "parts": ["2"],
    "dataset": ["csv"], "families": ["ratios"], "cluster": ["x"], "clusters": ["clusters.toml"],
    "workers": ["2"], "storage": ["sqlite:///hpo.db"], "output": ["out"],
    "reported": ["sound.toml"],
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


# Before the others, which take files away.
SAID = {
    ("check", "/dev/zero"): "/dev/zero: must be a file, and is a device, pipe or socket",
    ("check", "pipe"): "pipe: must be a file, and is a device, pipe or socket",
    ("check", "huge.toml"): "huge.toml: must have 10 MB at most, and has more",
    ("check", "latin.toml"): "latin.toml: not UTF-8 text",
    ("check", "loop"): "loop: cannot be read: Too many levels of symbolic links",
    ("check", "x" * 300): "File name too long",
    ("check", "\udce9"): "must be valid UTF-8",
    ("check", "a\0b"): "must have no NUL character",
    ("check", "sound.toml", "--set=--"): "argument --set: must have a value other than --",
    ("check", "sound.toml", "--set", "x" + ".x" * 99 + "=1"): "nested in more than 32 levels",
    ("check", "sound.toml", "--set", "x=" + "[" * 9999): "nested too deeply",
    ("check", "sound.toml", "--set", "x=" + "9" * 9999): "Exceeds the limit",
    (
        "check",
        "sound.toml",
        "--set",
        f"seed={2**63}",
    ): "must be an integer of 64 bits, and is beyond them",
    ("check", "sound.toml", "--set", f"trials={2**31}"): "less than 2147483648",
    ("check", "sound.toml", "--set", "table.path=/dev/zero"): "is a device or socket, no file",
    ("check", "sound.toml", "--set", "table.path=pipe"): "pipe: the file is empty; it needs",
    ("check", "sound.toml", "--set", "table.path=~nouser/x"): "there is no file",
    ("check", "sound.toml", "--data", "loop"): "Symlink loop from",
    ("status", "--storage", "/dev/zero"): "/dev/zero is no file with a URL, but a device or pipe",
    ("status", "--storage", "pipe"): "pipe is no file with a URL, but a device or pipe",
    ("status", "--storage", "~nouser"): "there is no such home folder",
    ("status", "--storage", "sqlite:///bad.db"): "the file is no SQLite database, or is damaged",
    ("status", "--storage", "sqlite:///hpo.db?mode=x"): "a SQLite file takes no options",
    ("export", "sound", "--output", "/"): "must be a file, and '/' is a folder",
    ("export", "sound", "--output", "x" * 300): "File name too long",
    ("export", "sound", "--output", "file/below"): "cannot be written: Not a directory",
    ("budget", "sound", str(2**31)): "must be at most 2147483647",
    ("simulate", "--workers", "9" * 9): "must be at most 100000",
    ("simulate", "--part-s", "1e9"): "at most 1e+08 can be simulated",
}


@pytest.mark.parametrize("arguments", SAID, ids=lambda words: " ".join(words)[:40])
def test_the_message_names_what_is_wrong(arguments, begun, capsys):
    try:
        code: Any = main(arguments)
    except SystemExit as exc:
        code = exc.code
    said = capsys.readouterr().err
    assert code == 2
    assert SAID[arguments] in said
    assert len(said) < 1000


@pytest.mark.slow
@pytest.mark.parametrize("command", parsers())
def test_no_command_line_ends_in_a_stack_trace(command, begun):
    parser, rng = parsers()[command], random.Random(f"command line {command}")
    found = collect(
        (draw(command, parser, rng), lambda: None)
        for _ in range(N_PAGES if command in PAGES else N_CASES)
    )
    if command == "delete":
        # The other commands want something to read.
        assert main(["run", "sound.toml"]) == 0
    assert not found, "\n".join(found.values())


def mutated(
    text: str, into: str, arguments: Sequence[str], n: int
) -> Iterator[tuple[Sequence[str], Callable[[], Any]]]:
    """Draw `n` files that are nearly as `text`, each with the command that reads it."""
    rng = random.Random(f"{into} {arguments}")
    for _ in range(n):
        data = mutate(text, rng)
        yield arguments, functools.partial(Path(into).write_bytes, data)


CLUSTERS = '[x]\npartition = "p"\ntime_limit = "1:00:00"\nmemory_gb = 2\nsetup = ["a"]\n'
CLUSTERS += "[x.extra]\nmail-type = true\n"
VARIANTS = '[v]\ndescription = "text"\nset = ["seed=5", "trials=7"]\n'
REPORTED = '[[experiment]]\nname = "a"\nstudies = ["sound"]\nsource = "b"\n'
REPORTED += "[experiment.scores]\nr2 = 0.5\n"
FILES = {
    "study": (SOUND, "m.toml", ("check", "m.toml"), 400),
    "table": (SOUND, "m.toml", ("features", "build", "m.toml"), 100),
    "csv": (CSV, "m.csv", ("check", "sound.toml", "--set", "table.path=m.csv"), 200),
    "clusters": (
        CLUSTERS, "m.toml", ("submit", "sound.toml", "--clusters", "m.toml", "--cluster", "x"), 200,
    ),
    "variants": (VARIANTS, "variants.toml", ("check", "sound.toml", "--variant", "v"), 200),
    "reported": (REPORTED, "m.toml", ("compare", "--reported", "m.toml"), 200),
    "url": ("sqlite:///hpo.db\n", "url", ("status", "--storage", "@url"), 100),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_no_file_ends_in_a_stack_trace(kind, begun):
    found = collect(mutated(*FILES[kind]))
    assert not found, "\n".join(found.values())


@pytest.mark.slow
def test_every_setting_is_taken_or_refused(begun):
    files = ["sound.toml", "bom.toml", "crlf.toml"]
    cases = [["check", files[at % 3], "--set", text] for at, text in enumerate(SETTINGS)]
    cases += [["submit", "sound.toml", "--slurm", text] for text in SETTINGS]
    found = collect((case, lambda: None) for case in cases)
    assert not found, "\n".join(found.values())
