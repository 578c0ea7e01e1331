"""What users' objectives do to their process: an exact budget, and nobody left behind."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from pathlib import Path

import psutil
import pytest
from optuna.trial import FrozenTrial, TrialState

from hpo.records import Access, Counts
from hpo.storage.backends import open_storage
from hpo.storage.events import EventKind
from hpo.study.record import StudyRecord, find
from tests.support.chaos.books import computed_again, read_journal
from tests.support.faults import DEATH, FAILS, FAULTS, LEASE_S, LEAVES, LIMIT, NOTHING
from tests.support.studies import ROOT, command

# Some more than there are faults, so that every fault finds a trial.
BUDGET = 2 * len(FAULTS) + 20
STUDY = """
name = "faults"
trials = %(budget)d
lease_s = %(lease_s)g
checkpoint_s = 0
max_deaths = 3
max_failures = 60
[limits]
part_s = 12.0
output_mb = 20.0
memory_gb = 1.5
[objective]
name = "tests.support.faults:Faulty"
params = { journal = "%(journal)s" }
[space]
alpha = { type = "float", low = 0.0, high = 10.0 }
"""


def left_behind(mark: str) -> list[str]:
    """Programs of the study that are there although it has ended."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("FAULTS_OF") == mark:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def outcome_of(trial: FrozenTrial, events: dict[EventKind, Counter[int]]) -> str:
    """What came of a trial that met a fault."""
    deaths, limits = events[EventKind.DEATH][trial.number], events[EventKind.LIMIT][trial.number]
    if (deaths, limits) == (0, 0):
        return NOTHING if trial.state is TrialState.COMPLETE else FAILS
    if (deaths, limits, trial.state) == (1, 0, TrialState.COMPLETE):
        return DEATH
    return LIMIT if (deaths, limits, trial.state) == (0, 1, TrialState.FAIL) else "else"


def check_faults(record: StudyRecord, folder: Path) -> None:
    """Assert that every fault came to what it has to."""
    ledger = record.ledger
    events = {
        kind: Counter(event["trial"] for event in ledger.events(kind))
        for kind in (EventKind.DEATH, EventKind.LIMIT)
    }
    trials = record.storage.get_all_trials(record.study_id, deepcopy=False)
    by_alpha = {repr(trial.params["alpha"]): trial for trial in trials if trial.params}
    came, told = {}, {}
    for name in FAULTS:
        mark = folder / "faults" / name
        assert mark.is_file(), f"never done: {name}"
        trial = by_alpha[mark.read_text()]
        came[name] = outcome_of(trial, events)
        told[name] = trial.user_attrs.get("failure")
        print(f"{name}: {came[name]}, {told[name] or ''}")
    expected = {
        name: {LEAVES: NOTHING}.get(outcome, outcome) for name, (outcome, _) in FAULTS.items()
    }
    different = {name: (came[name], told[name]) for name in FAULTS if came[name] != expected[name]}
    assert different == {}
    assert computed_again(read_journal(folder / "journal.txt")) == []
    counts = ledger.counts()
    refused = sum(outcome in (FAILS, LIMIT) for outcome in expected.values())
    assert counts == Counts(BUDGET, finished=BUDGET, failed=refused)
    assert sum(events[EventKind.DEATH].values()) == sum(o == DEATH for o in expected.values())


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_whatever_an_objective_does_the_budget_is_exact_and_nobody_is_left(
    kind, request, hpo, tmp_path
):
    url = "sqlite:///hpo.db" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    Path("faults").mkdir()
    journal = tmp_path / "journal.txt"
    study = STUDY % {"budget": BUDGET, "lease_s": LEASE_S, "journal": journal}
    Path("faults.toml").write_text(study)
    mark = str(tmp_path)
    run = subprocess.run(
        command("run", "faults.toml", "--workers", "6"),
        env=os.environ | {"HPO_STORAGE": url, "FAULTS_OF": mark, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    print(run.stderr[-3000:])
    storage = open_storage(url, Access.READ)
    try:
        check_faults(find(storage, "faults"), tmp_path)
    finally:
        storage.engine.dispose()
    assert run.returncode == 0, run.stderr
    assert left_behind(mark) == []
