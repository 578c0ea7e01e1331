"""Logging to Weights & Biases: every trial once, whatever is killed; read back from its files."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from optuna.trial import TrialState

from hpo.cli import main
from hpo.errors import ConflictError
from hpo.records import Claim
from hpo.storage.events import EventKind
from hpo.study.export import trials_frame
from hpo.tracking.replay import Replay, RunTarget, run_id
from hpo.tracking.rows import make_row
from hpo.tracking.run_file import MESSAGES, _records, read_run
from hpo.tracking.sessions import Logbook
from tests.support.studies import ROOT, command, wait_until, write_study
from tests.support.trials import SPACE, finish_trials, finished_trials


@pytest.fixture(autouse=True, scope="module")
def _service():
    """End the service that the library starts for this process."""
    import wandb

    yield
    wandb.teardown()


@pytest.fixture(autouse=True)
def _offline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HPO_STORAGE", f"sqlite:///{tmp_path / 'hpo.db'}")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for variable in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(variable)


@pytest.fixture
def begin_study(begin_study):
    """Begin a study without a table, whose trials a test can make up."""
    fields: dict[str, Any] = {"objective": {"name": "tests.support.objectives:Parabola"}}
    fields.update(dict.fromkeys(("table", "cv", "estimator")))

    def begin(**changes):
        return begin_study(**fields, **changes)

    return begin


def runs() -> list[Path]:
    return sorted(Path("wandb").glob("offline-run-*/run-*.wandb"))


def records(kind: str) -> list[Any]:
    found = []
    for path in runs():
        for data in _records(path.read_bytes()):
            record = MESSAGES.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == kind:
                found.append(getattr(record, kind))
    return found


def values(items) -> dict[str, Any]:
    pairs = [("/".join(item.nested_key) or item.key, item.value_json) for item in items]
    return {key: json.loads(text) for key, text in pairs}


def rows() -> list[dict[str, Any]]:
    """Every row of every run folder, in the order in which they were begun."""
    return [values(history.item) for history in records("history")]


def summary() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for record in records("summary"):
        found.update(values(record.update))
    return found


def logged() -> list[int]:
    return [row["trial"] for row in rows()]


@dataclass
class Said:
    stdout: str
    stderr: str


def log(name="small", *options: str, code: int = 0) -> Said:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        ended = main(["wandb", name, *options])
    assert ended == code, out.getvalue() + err.getvalue()
    return Said(out.getvalue(), err.getvalue())


def fail_trial(ledger, reason="ValueError: no") -> None:
    claim = ledger.claim("w1")
    assert isinstance(claim, Claim)
    ledger.save_params(claim, {"alpha": 9.0}, SPACE)
    ledger.fail(claim, reason)


def replay(record, **options) -> Replay:
    target = RunTarget("offline", None, None, False, Path("reports"))
    return Replay(record, target, say=lambda line: None, **options)


@pytest.mark.slow
def test_what_is_logged_is_what_the_storage_holds(begin_study):
    record = begin_study(trials=3)
    finish_trials(record.ledger, [0.5, 2.0])
    fail_trial(record.ledger)
    finish_trials(record.ledger, [0.25])
    said = log()
    assert said.stdout == "small: 4 trials logged now, 4 in all\n"
    assert f"upload with: wandb sync {runs()[0].parent}" in said.stderr
    frame = trials_frame(record).set_index("number")
    told = rows()
    assert [row["order"] for row in told] == [0, 1, 2, 3]
    assert [row["trial"] for row in told] == [0, 1, 2, 3]
    for row in told:
        stored = frame.loc[row["trial"]]
        assert row["hparams/alpha"] == stored["param.alpha"]
        if stored["state"] == "COMPLETE":
            assert row["state"] == "complete"
            assert row["score"] == stored["score"]
            assert row["parts/0/score"] == stored["part 0.score"]
            assert row["parts/0/r2_val"] == 0.5
            assert row["duration_s"] == 1.0
            assert row["worker"] == "w1"
        else:
            assert row["state"] == "failed"
            assert row["reason"] == "ValueError: no"
            assert "score" not in row
    assert [row["best/score"] for row in told] == [0.5, 0.5, 0.5, 0.25]
    assert [row["best/trial"] for row in told] == [0, 0, 0, 3]
    ended = summary()
    assert (ended["budget"], ended["finished"], ended["failed"]) == (3, 3, 1)
    assert (ended["best/trial"], ended["best/score"]) == (3, 0.25)
    assert ended["best/hparams/alpha"] == 0.25
    assert ended["study"] == "small"
    assert ended["fingerprint/space"] == record.fingerprint["space"]
    assert ended["provenance/git/commit"] == record.provenance["git"]["commit"]
    config = values(records("run")[0].config.update)
    assert config["trials"] == 3
    assert config["space"]["alpha"]["high"] == 10.0
    assert {run.run_id for run in records("run")} == {run_id(record)}
    files = runs()[0].parent / "files"
    assert (files / "report.html").read_bytes() == Path("reports/small/report.html").read_bytes()
    assert len((files / "trials.csv").read_text().splitlines()) == 5
    # Nothing of the machine, the code or the packages.
    assert {path.name for path in files.iterdir()} == {"report.html", "trials.csv"}


@pytest.mark.slow
def test_what_is_logged_is_never_logged_again_and_a_larger_budget_goes_on(begin_study):
    record = begin_study(trials=4)
    finish_trials(record.ledger, [0.5, 2.0])
    log()
    assert "0 trials logged now, 2 in all" in log().stdout
    assert len(runs()) == 1
    assert not (runs()[0].parent / "files" / "report.html").exists()
    finish_trials(record.ledger, [0.75, 0.3])
    log()
    begin_study(trials=5)
    finish_trials(record.ledger, [4.0])
    log()
    log()
    assert logged() == [0, 1, 2, 3, 4]
    assert [row["order"] for row in rows()] == [0, 1, 2, 3, 4]
    assert [row["best/score"] for row in rows()] == [0.5, 0.5, 0.5, 0.3, 0.3]
    assert len(runs()) == 3
    # Folders of one run that `wandb sync` appends to each other: marked so, with steps from 0.
    assert all(run.resume for run in records("run"))
    assert [row["_step"] for row in rows()] == [0, 1, 0, 1, 0]
    reported = [path for path in runs() if "report.html" in read_run(path).files]
    assert reported == runs()[1:]


@pytest.mark.slow
def test_a_run_of_its_own_only_if_asked(begin_study):
    record = begin_study(trials=4)
    finish_trials(record.ledger, [0.5, 2.0])
    log("small", "--project", "first")
    refused = log("small", "--project", "second", code=3)
    assert "is logged to project 'first', not 'second'" in refused.stderr
    log("small", "--project", "second", "--anew")
    assert logged() == [0, 1, 0, 1]
    # Folders of the same second are in no order.
    ids = {(run.run_id, run.project) for run in records("run")}
    assert ids == {(run_id(record), "first"), (run_id(record, 1), "second")}
    assert "0 trials logged now, 2 in all" in log().stdout


KILLED = """
import os, signal, sys, time
import wandb
from hpo.cli import main

real, calls = wandb.Run.log, [0]

def log(self, *arguments, **options):
    if calls[0] == int(sys.argv[2]):
        time.sleep(float(sys.argv[3]))
        os.kill(os.getpid(), signal.SIGKILL)
    calls[0] += 1
    return real(self, *arguments, **options)

wandb.Run.log = log
main(["wandb", sys.argv[1]])
"""


@pytest.mark.slow
def test_kill_9_between_two_rows_loses_and_repeats_nothing(begin_study):
    record = begin_study(trials=20)
    finish_trials(record.ledger, [0.1 * k + 0.1 for k in range(12)])
    # The first three have reached the disk when the process dies, then two that have not.
    for rows_before, wait_s in ((3, 1.6), (2, 0.0)):
        arguments = ["small", str(rows_before), str(wait_s)]
        died = subprocess.run([sys.executable, "-c", KILLED, *arguments], timeout=60)
        assert died.returncode == -signal.SIGKILL
    assert logged()[:3] == [0, 1, 2]
    finish_trials(record.ledger, [0.05])
    said = log()
    assert "the last session was cut off" in said.stderr
    assert logged() == list(range(13))
    assert [row["order"] for row in rows()] == list(range(13))
    assert rows()[-1]["best/score"] == 0.05
    sessions = [event for event in record.ledger.events() if event["kind"] == EventKind.WANDB]
    assert [number for session in sessions for number in session["trials"]] == list(range(13))


@pytest.mark.slow
def test_the_librarys_own_service_may_die_too(begin_study):
    record = begin_study(trials=9)
    finish_trials(record.ledger, [0.5, 2.0])
    watch = psutil.Popen(
        command("wandb", "small", "--watch", "--interval", "0.2"), stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: len(logged()) == 2)
    service = next(child for child in watch.children(recursive=True) if "core" in child.name())
    service.kill()
    finish_trials(record.ledger, [1.0])
    said = watch.communicate(timeout=60)[1]
    assert watch.returncode == 2
    assert "error: Weights & Biases: it broke" in said
    assert "Traceback" not in said
    log()
    assert logged() == [0, 1, 2]


@pytest.mark.slow
def test_what_a_dead_session_logged_is_not_guessed(begin_study):
    record = begin_study(trials=6)
    finish_trials(record.ledger, [0.5, 2.0])
    subprocess.run([sys.executable, "-c", KILLED, "small", "1", "1.6"], timeout=60)
    path = runs()[0]
    whole = path.read_bytes()
    path.unlink()
    refused = log(code=3)
    assert f"what it logged is in {path.resolve()}, which cannot be read here" in refused.stderr
    path.write_bytes(whole)
    log()
    assert logged() == [0, 1]


@pytest.mark.slow
def test_a_watching_process_is_killed_and_another_takes_over_while_the_study_runs(hpo):
    path = write_study(trials=12, delay_s=0.4)
    run = subprocess.Popen(command("run", path, "--workers", "2"), stderr=subprocess.DEVNULL)
    wait_until(lambda: finished_trials() >= 1)
    watch = command("wandb", "x", "--watch", "--interval", "0.2")
    killed = psutil.Popen(watch, stderr=subprocess.DEVNULL)
    wait_until(lambda: len(logged()) >= 1)
    killed.kill()
    killed.wait()
    second = subprocess.Popen(watch, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    wait_until(lambda: len(runs()) == 2)
    refused = log("x", code=3)
    assert "another process logs this study: 'x' is logged by process" in refused.stderr
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    assert run.wait(timeout=60) == 0
    assert "12 in all" in out
    assert sorted(logged()) == list(range(12))
    assert [row["order"] for row in rows()] == list(range(12))
    assert "report.html" in read_run(runs()[-1]).files


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_watching_process_can_be_asked_to_leave(begin_study, number):
    record = begin_study(trials=9)
    finish_trials(record.ledger, [0.5, 2.0])
    watch = subprocess.Popen(
        command("wandb", "small", "--watch", "--interval", "0.2"),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until(lambda: len(logged()) == 2)
    finish_trials(record.ledger, [1.0])
    # As a terminal does: to the process and to whatever it has started.
    os.killpg(watch.pid, number)
    assert "go on with: hpo wandb small" in watch.communicate(timeout=30)[1]
    assert watch.returncode == 130
    finish_trials(record.ledger, [1.5])
    log()
    assert logged() == [0, 1, 2, 3]


def test_a_session_of_another_machine_is_waited_for_and_cannot_go_on_when_replaced(begin_study):
    record = begin_study()
    book = Logbook(record)
    far, _ = book.open("offline", None, None, anew=False)
    far.host, far.boot = "elsewhere", "another"
    book.save(far)
    with pytest.raises(ConflictError, match=r"on elsewhere; if it is dead, try again in \d+ s"):
        book.open("offline", None, None, anew=False)
    book.release(far)
    finish_trials(record.ledger, [0.5])
    assert replay(record).run().total == 1
    with pytest.raises(ConflictError, match="another process has taken over"):
        book.save(far)


def test_only_the_server_knows_what_a_dead_online_session_sent(begin_study, monkeypatch):
    record = begin_study(trials=9)
    finish_trials(record.ledger, [0.5, 2.0, 3.0])
    book = Logbook(record)
    dead, _ = book.open("online", None, None, anew=False)
    dead.host, dead.file, dead.first_step, dead.trials = "elsewhere", "gone", 0, [0, 1, 2]
    book.save(dead)
    book.release(dead)
    assert "call this command once with --mode online" in log(code=3).stderr

    class Server:
        step = 2

    monkeypatch.setattr(Replay, "_open_run", lambda self: Server)
    target = RunTarget("online", None, None, False, Path("reports"))
    online = Replay(record, target, say=lambda line: None)
    online._session, earlier = book.open("online", None, None, anew=False)
    online._settle(earlier)
    assert online._before == [0, 1]


@pytest.mark.slow
def test_a_trial_that_comes_late_is_logged_late_and_nothing_moves(begin_study):
    record = begin_study(trials=9)
    late = record.ledger.claim("w0")
    record.ledger.save_params(late, {"alpha": 1.0}, SPACE)
    finish_trials(record.ledger, [0.5, 2.0])
    replay(record).run()
    record.ledger.finish(late, {"score": 0.1})
    replay(record).run()
    assert logged() == [1, 2, 0]


def test_trials_from_outside_are_logged_and_hide_none_that_come_later(begin_study):
    record = begin_study(trials=3)
    finish_trials(record.ledger, [0.5])
    study = record.optuna_study()
    study.tell(study.ask(), 0.25)
    study.tell(study.ask(), state=TrialState.FAIL)
    replay(record).run()
    finish_trials(record.ledger, [2.0, 3.0])
    replay(record).run()
    assert logged() == [0, 1, 2, 3, 4]
    assert (summary()["outside"], summary()["best/trial"]) == (1, 1)


def test_undefined_scores_stay_undefined(begin_study):
    record = begin_study()
    claim = record.ledger.claim("w1")
    record.ledger.save_params(claim, {"alpha": 1.0}, SPACE)
    record.ledger.save(claim, {0: {"score": 1.0, "r2_val": float("nan")}})
    record.ledger.finish(claim, {"score": 1.0, "other": float("inf")})
    trial = record.optuna_study().get_trials(states=(TrialState.COMPLETE,))[0]
    row = make_row(trial, 0, None)
    assert row["parts/0/r2_val"] != row["parts/0/r2_val"]
    assert row["scores/other"] != row["scores/other"]


def test_modes_and_keys(begin_study, monkeypatch):
    record = begin_study(trials=4)
    finish_trials(record.ledger, [0.5])
    assert "--mode online: needs an API key" in log("small", "--mode", "online", code=2).stderr
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert "nothing is logged" in log().stderr
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    assert "must be online, offline or disabled, got 'sometimes'" in log(code=2).stderr
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", "elsewhere")
    Path("elsewhere").mkdir()
    assert "WANDB_MODE=offline; upload with: wandb sync elsewhere/wandb/" in log().stderr
    assert not record.ledger.events()[0]["entity"]


@pytest.mark.slow
def test_a_server_that_is_not_there_fails_no_study(hpo, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
    done = hpo("run", write_study(trials=3), "--workers", "2")
    assert "report: " in done.stdout
    assert "Weights & Biases: " in done.stderr
    said = hpo("wandb", "x", code=2)
    assert "error: Weights & Biases at http://127.0.0.1:9 cannot be used" in said.stderr
    assert said.stderr.count("\n") == 1
    monkeypatch.setenv("WANDB_API_KEY", "bogus")
    assert "WANDB_API_KEY invalid" in hpo("wandb", "x", code=2).stderr
    # Nothing remains of it: the trials can be logged offline at any time.
    log("x", "--mode", "offline")
    assert sorted(logged()) == [0, 1, 2]


@pytest.mark.slow
def test_run_logs_beside_itself_where_there_is_a_key(hpo, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_MODE", "offline")
    done = hpo("run", write_study(trials=6), "--workers", "2")
    assert "Weights & Biases" not in done.stderr
    assert sorted(logged()) == list(range(6))
    assert "6 in all" in Path("logs/x/wandb.log").read_text()
    assert "report.html" in read_run(runs()[-1]).files
