"""Functions and programs that hang, crash, swell or hold on: what is said, and an exact budget."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from optuna.trial import TrialState

from hpo.records import Access, Counts
from hpo.storage.backends import open_storage
from hpo.storage.events import EventKind
from hpo.study.record import find
from tests.support.chaos import trouble
from tests.support.chaos.processes import MARK, wait_until_gone

BUDGET = 8
STUDY = f"""
trials = {BUDGET}
lease_s = {trouble.LEASE_S}
max_deaths = 2
[limits]
attempt_s = 12.0
memory_gb = 1.0
[objective]
"""
FUNCTION = """
function = "trouble.py:objective"
"""
PROGRAM = r"""
command = ["python3", "trouble.py"]
score = { regex = 'x = (\S+)' }
[space]
x = { type = "float", low = 0.0, high = 1.0 }
"""
TIME = r"limits\.attempt_s = 12 exceeded: \d+\.\d s"
MEMORY = r"limits\.memory_gb = 1 exceeded: \d\.\d\d GB"
CRASHES = {
    FUNCTION: "2 workers died on it; the last: killed by SIGSEGV",
    PROGRAM: "program: 'python3 trouble.py' was killed by SIGSEGV; there was no output",
}


@pytest.mark.parametrize("kind", [FUNCTION, PROGRAM], ids=["function", "program"])
def test_whatever_a_trial_does_the_budget_is_exact_and_it_is_said(hpo, kind, monkeypatch):
    monkeypatch.setenv(MARK, str(Path.cwd()))
    Path("trouble.py").write_text(Path(trouble.__file__).read_text())
    Path("x.toml").write_text(STUDY + kind)
    said = hpo("run", "x.toml", "--workers", "4").stderr
    # Nobody is left: neither what hung, nor what did not listen.
    assert wait_until_gone(str(Path.cwd()), 5.0) == []
    reasons = {1: TIME, 2: TIME, 3: re.escape(CRASHES[kind]), 4: MEMORY}
    opened = open_storage("sqlite:///hpo.db", Access.READ)
    record = find(opened, "x")
    trials = opened.get_all_trials(record.study_id)
    counts, deaths = record.ledger.counts(), record.ledger.events(EventKind.DEATH)
    opened.engine.dispose()
    assert counts == Counts(BUDGET, finished=BUDGET, failed=len(reasons))
    states = Counter(trial.state for trial in trials)
    assert states == {TrialState.COMPLETE: BUDGET, TrialState.FAIL: len(reasons)}
    assert [trial.number for trial in trials] == list(range(BUDGET + len(reasons)))
    for number, reason in reasons.items():
        failure = trials[number].user_attrs["failure"]
        assert re.fullmatch(reason, failure), failure
        assert f"trial {number} failed: {failure}" in said
    # The one that held the lock of Python lost no lease.
    assert trials[5].state is TrialState.COMPLETE
    assert [death["trial"] for death in deaths] == [3, 3] * (kind == FUNCTION)
    shown = hpo("status", "x").stdout
    assert "2 attempts exceeded limits.attempt_s = 12" in shown
    assert "1 attempt exceeded limits.memory_gb = 1" in shown
    for log in Path("logs/x").glob("*.log"):
        assert "Traceback" not in log.read_text()
