"""Full disks, and folders that may not be written: a sentence, exit code 2, nothing lost."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.requirements import unavailable
from tests.support.studies import ROOT, command

SIZE = "6m"
# Every command that writes, beside a finished study `t` whose storage and folders are on the disk.
WRITING = {
    "run": ("run", "t.toml", "--workers", "1", "--trials", "6"),
    "run new": ("run", "t.toml", "--name", "new", "--workers", "1"),
    "resume": ("resume", "t", "--workers", "1", "--trials", "6"),
    "budget": ("budget", "t", "7"),
    "stop": ("stop", "unfinished"),
    "report": ("report", "t"),
    "export": ("export", "t", "--output", "trials.csv"),
    "export parquet": ("export", "t", "--output", "trials.parquet", "--format", "parquet"),
    "compare": ("compare", "t"),
    "rank": ("rank", "t", "mine.csv", "--output", "ranked.csv"),
    "features build": ("features", "build", "t.toml", "--set", "table.families=['smact']"),
    "copy": ("copy", "sqlite:///hpo.db", "sqlite:///copy.db"),
    "wandb": ("wandb", "t", "--mode", "offline"),
    "db start": ("db", "start", "server"),
}
SAID = re.compile(
    r"No space left|disk|full|Read-only file system|may not be written"
    r"|cannot be (written|opened|used|made)|readonly"
)


def mount(folder: Path, *options: str) -> None:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", *options, "none", str(folder)], capture_output=True, text=True
    )
    if done.returncode != 0:
        unavailable("mount", f"a file system of a few MB cannot be mounted: {done.stderr.strip()}")


@pytest.fixture
def small(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """A finished study on a file system of its own that has a few MB."""
    if shutil.which("mount") is None or os.geteuid() != 0:
        unavailable("mount", "to mount a small file system takes root")
    folder = tmp_path / "small"
    folder.mkdir()
    mount(folder, "-o", f"size={SIZE}")
    try:
        shutil.copytree(finished, folder, dirs_exist_ok=True)
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leave no byte on the file system of a folder."""
    with (folder / "filling").open("wb", buffering=0) as stream:
        for size in (65536, 4096, 1):
            try:
                while True:
                    stream.write(b"x" * size)
            except OSError:
                continue


def run(folder: Path, arguments: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    plain = {key: text for key, text in os.environ.items() if not key.startswith(("HPO", "WANDB"))}
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env={**plain, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def contents(folder: Path) -> dict[str, bytes]:
    # A report that cannot be written loses its stamp first, so that it is drawn again.
    skip = ("hpo.db", "filling", "copy.db", "wandb", "reports/t/.drawn_from")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not str(path.relative_to(folder)).startswith((*skip, "logs"))
    }


@pytest.mark.slow
@pytest.mark.parametrize("how", ["full", "read-only"])
@pytest.mark.parametrize("what", WRITING)
def test_a_disk_that_takes_nothing_is_told_and_loses_nothing(what, how, small, warm):
    before, status = contents(small), warm.call("status", "t", folder=small).stdout
    assert status
    if how == "full":
        fill(small)
    else:
        subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    done = run(small, WRITING[what])
    said = done.stdout + done.stderr
    assert "Traceback" not in said, said
    assert "Exception ignored" not in said, said
    if what == "stop":
        assert done.returncode in (0, 2), said
    elif done.returncode != 0:
        assert done.returncode == 2, said
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, said
        assert SAID.search(errors[0]), said
    assert {path: data for path, data in contents(small).items() if path in before} == before
    if how == "full":
        (small / "filling").unlink()
    assert warm.call("status", "t", folder=small).stdout == status
    assert not list(small.rglob("*.part"))


@pytest.mark.parametrize("arguments", [("features", "list"), ("--version",)])
def test_standard_output_that_takes_nothing_is_told(arguments, tmp_path):
    with Path("/dev/full").open("w") as stream:
        done = subprocess.run(
            command(*arguments),
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=stream,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert "Traceback" not in done.stderr
    assert (done.returncode, done.stderr) == (2, "error: No space left on device\n")
