"""Where results come from: what is written down, refused, and left in logs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hpo.errors import ConflictError
from hpo.records import INTERRUPTED, WorkerRun
from hpo.storage.events import EventKind
from hpo.storage.schema import STUDIES
from hpo.study.events import describe, tell
from hpo.study.identity import provenance
from hpo.study.record import find
from hpo.worker.log import lines_of_trial
from tests.support.studies import WORKER, command, wait_until, write_study


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=A", "-c", "user.email=a@b")
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)


def test_what_differs_from_the_commit_is_kept(tmp_path, monkeypatch):
    git(tmp_path, "init")
    (tmp_path / "model.py").write_text("depth = 3\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "one")
    clean = provenance.git_state(tmp_path)
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (tmp_path / "model.py").write_text("depth = 4\napi_key = 12345678\n")
    (tmp_path / "new é.py").write_text("x = 1\n")
    dirty = provenance.git_state(tmp_path)
    assert dirty["commit"] == clean["commit"]
    assert dirty.keys() == {"commit", "dirty", "untracked", "diff_hash"}
    assert dirty["untracked"] == 1
    monkeypatch.setenv("HPO_KEEP_DIFF", "1")
    kept = provenance.git_state(tmp_path)
    assert kept["diff_hash"] == dirty["diff_hash"]
    assert "-depth = 3\n+depth = 4" in kept["diff"]
    assert "api_key = ***" in kept["diff"], "asked for, but still without keys"
    (tmp_path / "model.py").write_text("depth = 5\n")
    assert provenance.git_state(tmp_path)["diff_hash"] != dirty["diff_hash"]
    monkeypatch.setattr(provenance, "MAX_DIFF_CHARS", 20)
    short = provenance.git_state(tmp_path)
    assert len(short["diff"]) == 20
    (tmp_path / "below").mkdir()
    assert provenance.git_state(tmp_path / "below")["dirty"] is None, "not its top folder"
    assert short["diff_hash"] == provenance.git_state(tmp_path)["diff_hash"]


def test_a_folder_without_git_is_said(tmp_path):
    state = provenance.git_state(tmp_path)
    assert state == {"commit": "unknown: not a git checkout", "dirty": None}
    assert provenance.lock_hash(tmp_path) is None


def test_the_repository_of_the_study_file_is_named_beside_hpos_own(tmp_path):
    git(tmp_path, "init")
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "x.toml").write_text("trials = 3\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "one")
    origin = provenance.collect(tmp_path / "studies" / "x.toml")
    assert origin["repository"] == provenance.git_state(tmp_path)
    assert origin["repository"]["commit"] != origin["git"]["commit"]
    assert "repository" not in provenance.collect(provenance.ROOT / "studies" / "x.toml")


def test_what_leaves_the_storage_names_nobody_and_no_place(tmp_path, monkeypatch):
    monkeypatch.setenv("HPO_KEEP_DIFF", "1")
    git(tmp_path, "init")
    (tmp_path / "x.toml").write_text("trials = 3\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "one")
    (tmp_path / "x.toml").write_text("trials = 4\n")
    monkeypatch.setattr("sys.argv", ["hpo", "run", str(tmp_path / "x.toml")])
    origin = provenance.collect(tmp_path / "x.toml")
    assert "trials = 4" in origin["repository"]["diff"]
    shown = json.dumps(provenance.published(origin))
    for word in (str(tmp_path), origin["host"], origin["user"], "trials = 4", "x.toml"):
        assert word in json.dumps(origin)
        assert word not in shown.replace(origin["platform"], "")
    assert origin["repository"]["diff_hash"] in shown


def test_a_password_that_an_earlier_version_kept_is_hidden_when_it_is_read(begin_study):
    record = begin_study()
    old = {"command": "hpo run x.toml --storage postgresql://hpo:planted@host/db"}
    with record.storage.write() as c:
        stored = json.dumps({**old, "source": vars(record.source)})
        c.execute(STUDIES.update().values(provenance=stored))
        record.storage.record_event(c, record.study_id, EventKind.RESUMED, **old)
    told = tell(find(record.storage, record.name))
    assert "planted" not in json.dumps(told)
    assert "planted" not in "\n".join(describe(told))
    assert told["origin"]["command"].endswith("postgresql://hpo:***@host/db")


@pytest.fixture
def elsewhere(begin_study, monkeypatch):
    """Begin a study, and go on with it from another commit, lock file and host."""
    here = provenance.collect()
    here["git"] = {"commit": "a" * 40, "dirty": False}
    monkeypatch.setattr(provenance, "collect", lambda *_: here)
    begin_study()
    there = here | {
        "git": {"commit": "b" * 40, "dirty": True, "diff": "-1\n+2", "diff_hash": "c" * 64},
        "lock": "d" * 64,
        "host": "node7",
    }
    monkeypatch.setattr(provenance, "collect", lambda *_: there)
    return begin_study


def test_another_commit_is_written_down_with_its_difference(elsewhere):
    record = elsewhere()
    (event,) = record.ledger.events(EventKind.RESUMED)
    assert event["changed"] == ["commit", "diff", "lock", "host"]
    assert (event["commit"], event["host"]) == ("b" * 40, "node7")
    assert event["difference"] == "-1\n+2"
    told = "\n".join(describe(tell(record)))
    assert f"commit      {'a' * 40}" in told
    assert "resumed: commit=bbbb" in told


def test_another_commit_is_refused_if_it_has_to_be_the_same(elsewhere):
    with pytest.raises(ConflictError) as caught:
        elsewhere(strict=True)
    assert caught.value.changed == ("commit", "diff", "lock")
    message = str(caught.value)
    assert "commit: the commit of the checkout changed (aaaaaaaaaaaa -> bbbbbbbbbbbb)" in message
    assert "lock: the lock file changed" in message
    record = elsewhere()
    assert len(record.ledger.events(EventKind.RESUMED)) == 1, "a refused resumption leaves nothing"


def test_each_run_of_a_worker_is_told(begin_study):
    record = begin_study()
    made_with = provenance.collect_of_worker()
    for restarts in (0, 1):
        record.ledger.register(
            f"w{restarts}",
            WorkerRun("node7", 9, "narval", "12_3", restarts, None, made_with),
        )
    record.ledger.deregister("w0", "stopped: SIGUSR2")
    told = tell(record)
    assert [w["restarts"] for w in told["workers"]] == [0, 1]
    assert told["workers"][0]["provenance"] == json.loads(json.dumps(made_with))
    lines = "\n".join(describe(told))
    assert "w0 on node7; job 12_3 of narval, restart 0; commit " in lines
    assert "; stopped: SIGUSR2" in lines
    assert "2 worker runs" in lines


LOG = """\
12:00 INFO trial 3: attempt 1 begins
a print of the objective about trial 31
12:01 INFO trial 3: a scored 1
12:02 INFO trial 3: finished, score 2 in 1.00 s
between
12:03 INFO trial 31: attempt 1 begins
12:04 WARNING trial 31: failed: ValueError: no
Traceback (most recent call last):
12:05 INFO trial 3: attempt 2 begins
cut off"""


def test_the_lines_of_a_trial_are_found_in_a_log():
    lines = LOG.splitlines()
    assert lines_of_trial(LOG, 3) == [*lines[0:4], *lines[8:]]
    assert lines_of_trial(LOG, 31) == lines[5:8]
    assert lines_of_trial(LOG, 1) == []


@pytest.mark.slow
def test_a_full_disk_below_the_logs_stops_no_worker(hpo):
    hpo("submit", write_study(trials=3, delay_s=0.0), "--workers", "0")
    Path("logs/x").mkdir(parents=True)
    Path("logs/x/w1.log").symlink_to("/dev/full")
    subprocess.run([sys.executable, "-c", WORKER, "sqlite:///hpo.db", "x"], check=True, timeout=120)
    assert json.loads(hpo("status", "x", "--json").stdout)["counts"]["finished"] == 3


@pytest.mark.slow
def test_a_folder_for_logs_that_cannot_be_made_stops_no_worker(hpo):
    hpo("submit", write_study(trials=3, delay_s=0.0), "--workers", "0")
    said = hpo("worker", "x", "--logs", "/dev/full/logs").stderr
    assert "no log in /dev/full/logs/x: Not a directory" in said
    assert "trial 2: finished" in said
    assert hpo("logs", "x").stdout.startswith("no log  ")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2])
def test_a_worker_by_hand_gives_its_trial_back_when_it_is_told_to_leave(hpo, number):
    hpo("submit", write_study(trials=3, delay_s=30.0), "--workers", "0")
    worker = subprocess.Popen(
        command("worker", "x"), stderr=subprocess.DEVNULL, start_new_session=True
    )

    def counts():
        return json.loads(hpo("status", "x", "--json").stdout)["counts"]

    wait_until(lambda: counts()["held"] == 1)
    (log,) = Path("logs/x").glob("*.log")
    wait_until(lambda: "attempt 1 begins" in log.read_text())
    os.kill(worker.pid, number)
    assert worker.wait(timeout=20) == 0
    assert (counts()["held"], counts()["free"]) == (0, 1)
    reason = INTERRUPTED if number is signal.SIGINT else number.name
    assert f"left: stopped: {reason}" in log.read_text()
