"""Limits of trials and studies: measured from outside, by a given clock and on real runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from hpo.launch.limits import MEASURE_EVERY_S, TrialWatch
from hpo.records import Access
from hpo.spec.limits import LimitsSpec
from hpo.storage.backends import open_storage
from hpo.study.record import find

LOOK_S = 0.25


def look(watched: TrialWatch, from_s: float, until_s: float) -> str:
    """Look as often as a launcher does, and return the last answer."""
    for step in range(1, int((until_s - from_s) / LOOK_S) + 1):
        watched.exceeded(from_s + step * LOOK_S)
    return watched.exceeded(until_s)


TRIAL = {"trial": 0, "attempt": 1, "before_s": 0.0, "log_bytes": 0}


def watch(log: Path = Path("absent.log"), session: int = 0, **limits: Any) -> TrialWatch:
    return TrialWatch(LimitsSpec(**limits), session, "nobody", log)


def replay(watched: TrialWatch, *told: tuple[float, Mapping[str, Any]]) -> None:
    for now_s, message in told:
        watched.note(message, now_s)


@pytest.mark.parametrize("begin_s", [0.0, 1e6])
@pytest.mark.parametrize(
    ("limits", "told", "within_s", "after_s", "said"),
    [
        ({"attempt_s": 5}, [TRIAL], 5.0, 5.1, "limits.attempt_s = 5 exceeded: 5.1 s"),
        ({"trial_s": 5}, [TRIAL], 5.0, 5.1, "limits.trial_s = 5 exceeded: 5.1 s"),
        # What earlier attempts took counts for the trial, not for the attempt.
        ({"trial_s": 5}, [TRIAL | {"before_s": 3.0}], 2.0, 2.2, "limits.trial_s = 5 exceeded: 5.2"),
        ({"attempt_s": 5}, [TRIAL | {"before_s": 9.0}], 5.0, 5.1, "exceeded: 5.1 s"),
        (
            {"part_s": 5},
            [TRIAL, {"part": 2}],
            5.0,
            5.1,
            "limits.part_s = 5 exceeded: 5.1 s, in part 2",
        ),
        # The narrowest is told.
        ({"part_s": 5, "attempt_s": 5}, [TRIAL, {"part": 2}], 5.0, 5.1, "limits.part_s"),
        ({"attempt_s": 5}, [TRIAL, {"part": 1}], 5.0, 5.1, "exceeded: 5.1 s, in part 1"),
    ],
)
def test_time_is_held_to_its_limit(limits, told, within_s, after_s, said, begin_s):
    watched = watch(**limits)
    replay(watched, *((begin_s, message) for message in told))
    assert look(watched, begin_s, begin_s + within_s) == ""
    assert said in look(watched, begin_s + within_s, begin_s + after_s)


@pytest.mark.parametrize("name", ["attempt_s", "trial_s", "part_s"])
def test_time_does_not_pass_while_the_database_is_silent(name):
    limits: dict[str, Any] = {name: 5.0}
    watched = watch(**limits)
    replay(
        watched,
        *((0.0, TRIAL), (0.0, {"part": 0})),
        *((1.0, {"silent": True}), (101.0, {"silent": False})),
        *((102.0, {"silent": True}), (902.0, {"silent": False})),
    )
    assert look(watched, 902.0, 904.9) == ""
    assert f"limits.{name} = 5 exceeded: 5.1 s" in look(watched, 904.9, 905.1)


def test_each_trial_attempt_and_part_begins_anew_and_a_pause_has_none():
    watched = watch(part_s=5, attempt_s=8, trial_s=12)
    for number in range(50):
        now_s = 10.0 * number
        replay(watched, (now_s, TRIAL | {"trial": number}), (now_s, {"part": 0}))
        assert watched.exceeded(now_s + 4.0) == ""
        replay(watched, (now_s + 4.0, {"scored": 0}))
        assert watched.exceeded(now_s + 7.9) == ""
    replay(watched, (500.0, {"idle": True}))
    assert (watched.trial, watched.exceeded(1e9)) == (None, "")


def test_no_trial_exceeds_nothing(tmp_path):
    assert watch(part_s=1, memory_gb=1e-9, output_mb=1e-9).exceeded(1e9) == ""


def test_output_is_that_of_the_trial(tmp_path):
    log = tmp_path / "w.log"
    log.write_bytes(b"x" * 5_000_000)
    watched = watch(log, output_mb=2.0)
    replay(watched, (0.0, TRIAL | {"log_bytes": 5_000_000}))
    with log.open("ab") as stream:
        stream.write(b"y" * 2_000_000)
    assert watched.exceeded(10.0) == ""
    with log.open("ab") as stream:
        stream.write(b"z" * 1_000_000)
    # What prints without end fills a disk soon: it is looked at every time.
    assert (
        watched.exceeded(10.0 + 0.5 * MEASURE_EVERY_S)
        == "limits.output_mb = 2 exceeded: 3 MB printed to its log"
    )
    log.unlink()
    assert watched.exceeded(30.0) == ""


def test_memory_is_that_of_the_worker_and_of_what_it_has_started():
    code = (
        "import subprocess, sys\n"
        "inner = \"x = bytearray(b'1') * (80 << 20); print(flush=True); input()\"\n"
        "subprocess.run([sys.executable, '-c', inner])\n"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert program.stdout is not None
    program.stdout.readline()
    try:
        for limit_gb, exceeded in ((0.5, False), (0.06, True)):
            watched = watch(session=program.pid, memory_gb=limit_gb)
            replay(watched, (0.0, TRIAL))
            said = watched.exceeded(10.0)
            assert said.startswith(f"limits.memory_gb = {limit_gb:g} exceeded: 0.") == exceeded
    finally:
        program.communicate(b"\n")


@pytest.mark.parametrize("limit", ["part_s", "attempt_s", "trial_s"])
@pytest.mark.parametrize("pause_s", [0.0, 60.0, 8 * 3600.0])
def test_the_time_for_which_a_launcher_was_halted_is_not_its_trials(limit, pause_s):
    watched = TrialWatch(LimitsSpec.model_validate({limit: 100.0}), 1, "w", Path("none.log"))
    watched.note({"trial": 0, "attempt": 1, "before_s": 0.0, "log_bytes": 0}, 0.0)
    watched.note({"part": 0}, 0.0)
    assert look(watched, 0.0, 80.0) == ""
    # Its job was suspended, or the machine slept: the trial did not work either.
    later_s = 80.0 + pause_s
    assert look(watched, later_s, later_s + 10.0) == ""
    said = look(watched, later_s + 10.0, later_s + 25.0)
    assert said.startswith(f"limits.{limit} = 100 exceeded: ")


# On real runs -----------------------------------------------------------------------------------

# Each of the first trials does something else: which, says a file that only one can make.
EXCESSES = """
import os, subprocess, sys, time
from pathlib import Path
from tests.support.objectives import Parabola

KINDS = ("part", "memory", "child memory", "output", "attempt")

class Excessive(Parabola):
    def score_part(self, params, part):
        if part == 1:
            kind = self._mine(params["alpha"])
            if kind == "part":
                time.sleep(1000)
            if kind == "memory":
                taken = bytearray(b"1") * (700 << 20)
                time.sleep(1000)
            if kind == "child memory":
                code = "import time; x = bytearray(b'1') * (700 << 20); time.sleep(1000)"
                subprocess.run([sys.executable, "-c", code], start_new_session=True)
            if kind == "output":
                while True:
                    os.write(2, b"x" * 50_000)
                    time.sleep(0.01)
        if self._mine(params["alpha"]) == "attempt":
            time.sleep(1.6)
        return super().score_part(params, part)

    def _mine(self, alpha):
        for kind in KINDS:
            try:
                with open(kind, "x") as stream:
                    stream.write(repr(alpha))
                return kind
            except FileExistsError:
                if Path(kind).read_text() == repr(alpha):
                    return kind
        return None
"""
STUDY = """
trials = 9
lease_s = 5
checkpoint_s = 0
max_failures = 20
[limits]
part_s = 3.0
attempt_s = 4.0
memory_gb = 0.6
output_mb = 3.0
%s
[objective]
name = "excesses:Excessive"
[space]
alpha = { type = "float", low = 0.0, high = 10.0 }
"""
KINDS = ["part", "memory", "child memory", "output", "attempt"]
NAMES = {"part": "part_s", "attempt": "attempt_s", "output": "output_mb"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "state", "times"),
    [
        ("", TrialState.FAIL, 1),
        ('on_exceeded = "prune"', TrialState.PRUNED, 1),
        ('on_exceeded = "retry"\nretries = 1', TrialState.FAIL, 2),
    ],
    ids=["fail", "prune", "retry"],
)
def test_what_exceeds_a_limit_is_ended_told_and_counted(what, state, times, hpo):
    Path("excesses.py").write_text(EXCESSES)
    Path("x.toml").write_text(STUDY % what)
    hpo("run", "x.toml", "--workers", "5")
    storage = open_storage("sqlite:///hpo.db", Access.READ)
    record = find(storage, "x")
    counts = record.ledger.counts()
    trials = {t.params["alpha"]: t for t in storage.get_all_trials(record.study_id) if t.params}
    limits = record.ledger.events()
    storage.engine.dispose()
    ended = Counter(event["trial"] for event in limits if event["kind"] == "limit")
    assert not [event for event in limits if event["kind"] == "death"]
    for kind in KINDS:
        trial = trials[float(Path(kind).read_text())]
        if kind == "attempt" and times > 1:
            # An attempt that goes on with the third part alone is short enough.
            assert (trial.state, ended[trial.number]) == (TrialState.COMPLETE, 1)
            continue
        assert (trial.state, ended[trial.number]) == (state, times), kind
        assert f"limits.{NAMES.get(kind, 'memory_gb')} = " in str(trial.user_attrs), kind
        if times > 1:
            assert "2 attempts exceeded a limit; the last: limits." in trial.user_attrs["failure"]
    n_failed = 0 if state is TrialState.PRUNED else len(KINDS) - (times > 1)
    assert (counts.budget, counts.finished, counts.failed) == (9, 9, n_failed)
    assert counts.pruned == (len(KINDS) if state is TrialState.PRUNED else 0)
    assert sum(trial.state is TrialState.COMPLETE for trial in trials.values()) == 9 - counts.pruned
    said = hpo("status", "x").stdout
    for name in ("part_s", "memory_gb", "output_mb"):
        assert f"exceeded limits.{name}" in said
    told = json.loads(hpo("status", "x", "--json").stdout)
    assert sum(told["exceeded"].values()) == sum(ended.values())
    page = Path("reports/x/report.html").read_text()
    if n_failed:
        assert "limits.part_s" in page


SLOW_END = """
import time
from pathlib import Path
from tests.support.objectives import Slope

class SlowEnd(Slope):
    def combine(self, parts):
        try:
            Path("first").touch(exist_ok=False)
        except FileExistsError:
            pass
        else:
            # Longer than the limit, where nothing interrupts it: it is told in the end.
            time.sleep(3.0)
        return super().combine(parts)
"""


@pytest.mark.slow
def test_a_trial_is_not_held_to_the_time_of_the_one_before(hpo):
    Path("excesses.py").write_text(SLOW_END)
    study = STUDY.replace("attempt_s = 4.0", "attempt_s = 1.0").replace("Excessive", "SlowEnd")
    Path("x.toml").write_text(study % "")
    hpo("run", "x.toml", "--workers", "1")
    status = json.loads(hpo("status", "x", "--json").stdout)
    assert (status["counts"]["finished"], status["counts"]["failed"]) == (9, 0)
    assert status["exceeded"] == {}


GROWING = """
import time
from pathlib import Path
from tests.support.objectives import Slope

class Growing(Slope):
    parts = ("a", "b", "c", "d")
    def score_part(self, params, part):
        time.sleep(0.7)
        if part == 1 and not Path("left").exists():
            Path("left").touch()
            import os, signal
            os.kill(os.getpid(), signal.SIGKILL)
        return {"score": params["alpha"]}
    def combine(self, parts):
        return {"score": sum(part["score"] for part in parts)}
"""


@pytest.mark.slow
def test_the_time_of_a_trial_is_that_of_all_its_attempts(hpo):
    Path("excesses.py").write_text(GROWING)
    study = (STUDY % "").replace("attempt_s = 4.0", "attempt_s = 2.6\ntrial_s = 2.4")
    study = study.replace("Excessive", "Growing").replace("trials = 9", "trials = 1")
    Path("x.toml").write_text(study.replace("max_failures = 20", "max_failures = 0"))
    # Every trial takes 2.8 s in all.
    done = hpo("run", "x.toml", "--workers", "1", code=2)
    assert "limits.trial_s = 2.4 exceeded: 2." in done.stderr
    assert "limits.attempt_s" not in done.stderr


STOPPING = """
name = "x"
trials = 500
lease_s = 5
[limits]
%s
[objective]
name = "tests.support.objectives:%s"
[space]
alpha = { type = "float", low = 0.0, high = 1.0 }
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "higher", "said"),
    [
        ("patience = 5", "patience = 12", "trials without a better one (limits.patience)"),
        ("study_s = 1.5", "study_s = 4.0", "s (limits.study_s = 1.5)"),
    ],
)
def test_a_study_ends_at_its_limit_and_goes_on_with_a_higher_one_unasked(limit, higher, said, hpo):
    objective = "Constant"
    text = STOPPING % (limit, objective)
    if "study_s" in limit:
        text = text.replace(
            'objectives:Constant"', 'objectives:Parabola"\nparams = { delay_s = 0.02 }'
        )
    Path("x.toml").write_text(text)
    done = hpo("run", "x.toml", "--workers", "2")
    assert said in done.stderr
    assert said in hpo("status", "x").stdout
    first = json.loads(hpo("status", "x", "--json").stdout)
    assert said in first["limit"]
    assert 0 < first["counts"]["finished"] < 500
    assert Path("reports/x/report.html").exists()
    Path("x.toml").write_text(text.replace(limit, higher))
    hpo("run", "x.toml", "--workers", "2")
    second = json.loads(hpo("status", "x", "--json").stdout)
    assert first["counts"]["finished"] < second["counts"]["finished"] < 500
    assert not [event for event in events() if event["kind"] == "accepted"]


def events() -> list[dict[str, object]]:
    storage = open_storage("sqlite:///hpo.db", Access.READ)
    try:
        return find(storage, "x").ledger.events()
    finally:
        storage.engine.dispose()
