"""Secrets of a user, planted wherever users have them, are searched for in all that a study leaves.

They may stand where the user has put them, and in the database, which runs the study. A command
line is the user's own until its program has begun.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.support.studies import command, wait_until

STUDY = """
trials = 6
max_failures = 50
[objective]
name = "mine:Talkative"
[space]
alpha = { type = "float", low = 0.0, high = 1.0 }
"""
MODULE = '''"""Fails every other time, and quotes what it knows."""

import logging
import os

from tests.support.objectives import Parabola


class Talkative(Parabola):
    calls = 0

    def __init__(self, table, *, seed, api_key=""):
        super().__init__(table, seed=seed, delay_s=0.2)

    def score_part(self, params, part):
        Talkative.calls += 1
        if Talkative.calls % 5 == 4:
            logging.getLogger("mine").warning("about to fail: %s", dict(os.environ))
            raise ValueError(f"no connection with {dict(os.environ)}")
        return super().score_part(params, part)
'''
CLUSTERS = """
[test]
partition = "work"
memory_gb = 0.5
time_limit = "1:00:00"
"""


class Watch:
    """Reads the command lines of all processes until it is stopped."""

    def __init__(self, secrets: list[str]) -> None:
        self.secrets = [secret.encode() for secret in secrets]
        self.seen: set[tuple[int, bytes]] = set()
        self.excused: set[int] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(0.02):
            self.seen |= {
                (pid, line)
                for pid, line in command_lines()
                if any(secret in line for secret in self.secrets)
            }

    def stop(self) -> list[tuple[int, bytes]]:
        self._ended.set()
        self._thread.join()
        return [(pid, line) for pid, line in self.seen if pid not in self.excused]


def command_lines() -> Iterator[tuple[int, bytes]]:
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                yield int(path.name), (path / "cmdline").read_bytes()
            except OSError:
                continue


def find_hits(folder: Path, secrets: list[str], own: set[str]) -> list[str]:
    """Return the files below a folder that hold a secret, but for the user's own."""
    hits = []
    for path in folder.rglob("*"):
        mine = path.relative_to(folder).as_posix()
        if not path.is_file() or mine in own or mine.startswith((".git/", "__pycache__/")):
            continue
        data = path.read_bytes()
        hits += [f"{mine}: {secret}" for secret in secrets if secret.encode() in data]
    return hits


@pytest.mark.parametrize("how", ["local", "slurm"])
def test_no_secret_leaves_the_place_where_it_was_put(
    how, hpo, warm, postgres_server, postgres_url, monkeypatch, tmp_path, request
):
    planted = {
        "environment": "plantedenvironment0001",
        "arguments": "plantedarguments0002",
        "tracked": "plantedtracked0003",
        "untracked": "planteduntracked0004",
        "wandb": "planted0wandb0005".ljust(40, "f"),
        "url": str(sa.make_url(postgres_url).password),
    }
    secrets = list(planted.values())
    cluster = request.getfixturevalue("slurm_cluster") if how == "slurm" else None
    monkeypatch.setenv("SERVICE_TOKEN", planted["environment"])
    monkeypatch.setenv("WANDB_API_KEY", planted["wandb"])
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    Path("mine.py").write_text(MODULE)
    Path("x.toml").write_text(STUDY)
    Path("clusters.toml").write_text(CLUSTERS)
    for arguments in (("init",), ("add", "."), ("commit", "-m", "one")):
        identity = ("-c", "user.name=A", "-c", "user.email=a@b")
        subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)
    Path("mine.py").write_text(f"{MODULE}\n# {planted['tracked']}\n")
    Path("notes.txt").write_text(planted["untracked"])
    given = ("--storage", postgres_url)
    what = ("x.toml", *given, "--set", f"objective.params.api_key={planted['arguments']}")
    watch = Watch(secrets)
    said = ""
    try:
        verb = ("run", *what) if cluster is None else ("submit", *what, "--cluster", "test")
        process = subprocess.Popen(
            command(*verb, "--workers", "2"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        watch.excused.add(process.pid)
        shown = Path(f"/proc/{process.pid}/cmdline")
        wait_until(lambda: b"***" in shown.read_bytes() or process.poll() is not None)
        said += process.communicate(timeout=300)[0]
        assert process.returncode == 0, said
        # From here on by the environment.
        monkeypatch.setenv("HPO_STORAGE", postgres_url)
        if cluster is not None:
            jobs = subprocess.run(["scontrol", "show", "job"], capture_output=True, text=True)
            said += jobs.stdout
            for job in json.loads(hpo("status", "x", "--json").stdout)["workers"]:
                script = ["scontrol", "write", "batch_script", str(job["job"]), "-"]
                said += subprocess.run(script, capture_output=True, text=True).stdout
            wait_until(
                lambda: json.loads(hpo("status", "x", "--json").stdout)["state"] == "finished",
                timeout_s=240,
            )
            said += subprocess.run(
                ["scontrol", "show", "job"], capture_output=True, text=True
            ).stdout
            hpo("wandb", "x", "--mode", "offline")
        reading: tuple[tuple[str, ...], ...] = (
            *(("status", "x"), ("status", "x", "--json"), ("provenance", "x", "--json")),
            *(("provenance", "x"), ("report", "x"), ("compare", "x"), ("logs", "x")),
            *(("export", "x"), ("export", "x", "--format", "json"), ("doctor",)),
        )
        for reads in reading:
            code = {"doctor": None}.get(reads[0], 0)
            done = warm.call(*reads)
            assert code is None or done.returncode == code, done.stderr
            said += done.stdout + done.stderr
        hpo("budget", "x", "7")
        failed = json.loads(hpo("status", "x", "--json").stdout)["counts"]["failed"]
        assert failed > 0, "nothing quoted the environment"
    finally:
        time.sleep(0.1)
        in_command_lines = watch.stop()
    own = {"mine.py", "notes.txt"}
    url_file = "logs/x/slurm/url"
    if cluster is not None:
        assert planted["url"] in Path(url_file).read_text()
        assert Path(url_file).stat().st_mode & 0o777 == 0o600
        own.add(url_file)
    assert in_command_lines == []
    assert [secret for secret in secrets if secret in said] == []
    assert find_hits(tmp_path, secrets, own) == []
    # The search can find something.
    assert find_hits(tmp_path, [planted["tracked"]], set()) == [f"mine.py: {planted['tracked']}"]
    assert list(tmp_path.glob("wandb/offline-run-*")), "Weights & Biases was written to"
