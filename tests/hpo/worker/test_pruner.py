"""Trials that are ended early: when, whoever decides, and what the study says of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from optuna.trial import TrialState

from hpo.errors import SpecError
from hpo.records import WALL_KEY, Access, Answer, Claim, WorkerRun
from hpo.report.study_page import write_report
from hpo.simulation.engine import simulate
from hpo.simulation.scenario import Cluster, DurationTrace
from hpo.spec.search import PruningSpec
from hpo.storage.backends import open_storage
from hpo.storage.schema import CLAIMS
from hpo.study.record import find
from hpo.study.status import take_status
from hpo.study.trials import score
from hpo.tracking.rows import make_row
from hpo.worker.pruner import CompleteParts, Pruner, Rule, make_pruner
from hpo.worker.worker import Worker
from tests.support.studies import make_spec, write_study

RULE = Rule(percentile=75.0, after=1, startup_trials=4, maximises=False)
COMPLETE = np.array([[1.0, 5.0, 0.0], [2.0, 2.0, 0.0], [3.0, 3.0, 0.0], [4.0, 0.0, 0.0]])
PRUNING = {"startup_trials": 3, "percentile": 60}
SPACE = {"alpha": {"type": "float", "low": 0.0, "high": 10.0}}


@pytest.mark.parametrize(
    ("parts", "ended"),
    [
        ([3.2], False),
        ([3.3], True),  # the 75th percentile of 1, 2, 3, 4 is 3.25
        ([3.25], False),
        ([9.0, -2.9], True),  # means after two parts: 3, 2, 3, 2; the 75th percentile is 3
        ([9.0, -3.0], False),
        ([9.0, 9.0, 9.0], False),  # nothing is left to be saved
        ([], False),
    ],
)
def test_a_trial_ends_where_its_mean_is_worse_than_most(parts, ended):
    assert bool(RULE.judge(parts, COMPLETE)) == ended
    mirrored = Rule(75.0, 1, 4, maximises=True)
    assert bool(mirrored.judge([-part for part in parts], -COMPLETE)) == ended


def test_the_reason_has_the_numbers():
    assert RULE.judge([3.5], COMPLETE) == (
        "after 1 of 3 parts the mean score 3.5 is above 3.25, percentile 75 of 4 complete trials"
    )


def test_nothing_ends_before_its_time():
    assert RULE.judge([99.0], COMPLETE[:3]) == ""
    assert Rule(75.0, 2, 4, maximises=False).judge([99.0], COMPLETE) == ""
    assert Rule(75.0, 2, 4, maximises=False).judge([99.0, 99.0], COMPLETE)


def test_the_complete_trials_are_read_once_for_each_trial():
    reads = []

    def read():
        reads.append(1)
        return COMPLETE

    pruner = Pruner(RULE, read)
    claim = Claim(1, 1, 1, "w", {}, ())
    assert pruner(claim, [{"score": 1.0}]) == ""
    assert pruner(claim, [{"score": 1.0}, {"score": 99.0}])
    assert len(reads) == 1
    pruner(Claim(1, 1, 2, "other", {}, ()), [{"score": 1.0}])
    assert len(reads) == 2


def test_cross_validation_is_pruned_unless_the_file_says_no():
    own = {"objective": {"name": "tests.support.objectives:Parabola"}} | dict.fromkeys(
        ("table", "cv", "estimator")
    )
    assert make_spec().pruned_by == PruningSpec(percentile=75.0, after=1, startup_trials=10)
    assert make_spec(pruning=True).pruned_by == PruningSpec()
    assert make_spec(pruning=False).pruned_by is None
    asked = {"percentile": 50, "after": 2}
    assert make_spec(pruning=asked).pruned_by == PruningSpec(percentile=50.0, after=2)
    assert make_spec(**own).pruned_by is None
    assert make_spec(**own, pruning=True).pruned_by == PruningSpec()


def test_what_cannot_be_pruned_by_is_refused():
    with pytest.raises(SpecError, match=r"pruning\.percentile: .*less than 100"):
        make_spec(pruning={"percentile": 100})
    with pytest.raises(SpecError, match=r"pruning\.percentil: unknown key; .*'percentile'"):
        make_spec(pruning={"percentil": 50})
    with pytest.raises(SpecError, match=r"pruning.*: input should be a valid boolean, got 'no'"):
        make_spec(pruning="no")


@pytest.fixture
def parabola(begin_study):
    def begin_with(trials=20, **changes):
        without = dict.fromkeys(("table", "cv", "estimator"))
        own = {"objective": {"name": "tests.support.objectives:Parabola"}, "space": SPACE}
        return begin_study(**(without | own | {"trials": trials, "pruning": PRUNING} | changes))

    return begin_with


def work(record, worker_id="w"):
    _, objective = record.open_objective()
    return Worker(record, objective, worker_id).run(WorkerRun("host", 1))


def test_a_study_spends_its_budget_on_complete_and_pruned_trials(parabola, tmp_path):
    record = parabola()
    assert work(record) == Answer.DONE.value
    counts = record.ledger.counts()
    trials = record.optuna_study().get_trials(deepcopy=False)
    pruned = [trial for trial in trials if trial.state is TrialState.PRUNED]
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    assert (counts.finished, counts.pruned, counts.free) == (20, len(pruned), 0)
    assert len(trials) == len(pruned) + len(complete) == 20
    assert all(trial.number >= 3 for trial in pruned)
    # What was ended was worse than the best, and the rule says the same of it afterwards.
    scores = [list(trial.intermediate_values.values()) for trial in complete]
    for trial in pruned:
        assert trial.value is None
        assert len(trial.intermediate_values) == 1
        earlier = [s for s, t in zip(scores, complete, strict=True) if t.number < trial.number]
        rule = Rule(60.0, 1, 3, maximises=False)
        reason = rule.judge(list(trial.intermediate_values.values()), np.array(earlier))
        assert trial.user_attrs["pruned"] == reason
    for trial in complete:
        assert "pruned" not in trial.user_attrs
    status = take_status(record)
    assert status.state == "finished"
    assert status.best_trial == min(complete, key=score).number
    assert status.per_hour is not None
    page = write_report(record, tmp_path / "reports").read_text()
    saved = 2 * len(pruned)
    assert f"{len(pruned)} trials ended early ({len(pruned)} after part 1)" in page
    assert f"saved {saved} of 60 parts" in page
    assert f"The best of 20 trials ({len(pruned)} of them ended early)" in page
    row = make_row(pruned[0], 0, None)
    assert (row["state"], row["reason"]) == ("pruned", pruned[0].user_attrs["pruned"])
    assert not any(key.startswith("scores/") for key in row)


def test_without_pruning_every_trial_has_all_parts(parabola):
    record = parabola(pruning=False)
    work(record)
    assert record.ledger.counts().pruned == 0
    assert record.ledger.progress() == 60


@pytest.mark.parametrize("stored", [1, 2])
def test_whoever_takes_a_trial_over_decides_by_what_is_stored(parabola, stored):
    record = parabola(trials=5, pruning=PRUNING | {"percentile": 50})
    ledger = record.ledger
    claims = [ledger.claim(f"w{number}") for number in range(5)]
    for number, claim in enumerate(claims):
        ledger.save_params(claim, {"alpha": 2.0}, {"alpha": make_distribution()})
        for part in range(3 if number < 3 else stored):
            ledger.save(claim, {part: {"score": float(number), WALL_KEY: 0.5}})
    for number in range(3):
        ledger.finish(claims[number], {"score": float(number), WALL_KEY: 1.5})
    for claim in claims[3:]:
        ledger.reap(claim.worker_id, "killed by SIGKILL")
    work(record)
    trials = record.optuna_study().get_trials(deepcopy=False)
    # Their means are 3 and 4, the median of the others is 1: no part more is computed.
    for trial in trials[3:]:
        assert trial.state is TrialState.PRUNED
        assert len(trial.intermediate_values) == stored
        assert trial.user_attrs[WALL_KEY] == 0.5 * stored
    counts = ledger.counts()
    assert (counts.finished, counts.pruned) == (5, 2)


def make_distribution():
    from optuna.distributions import FloatDistribution

    return FloatDistribution(0.0, 10.0)


def test_parts_are_read_once_and_none_is_missed(parabola):
    record = parabola(trials=30)
    ledger, source = record.ledger, np.random.default_rng(0)
    reader = CompleteParts(record, 3)
    held = {}
    for turn in range(60):
        claim = ledger.claim(f"w{turn}")
        if isinstance(claim, Claim):
            for part in range(3):
                ledger.save(claim, {part: {"score": float(source.random())}})
            held[turn] = claim
        # One of those that wait, not the oldest: they come to their ends in any order.
        if held and (turn % 3 or turn > 40):
            chosen = held.pop(sorted(held)[int(source.integers(len(held)))])
            ledger.finish(chosen, {"score": 0.0}, pruned="worse than most" if turn % 4 == 0 else "")
        whole = sorted(CompleteParts(record, 3).read().tolist())
        assert sorted(reader.read().tolist()) == whole
        assert len(whole) == ledger.counts().finished - ledger.counts().pruned
    assert ledger.counts().done


def test_an_objective_of_one_part_has_nothing_to_prune(parabola):
    record = parabola()
    _, objective = record.open_objective()
    assert make_pruner(record, objective, {}) is not None
    objective.parts = ("all",)
    assert make_pruner(record, objective, {}) is None


@pytest.mark.slow
def test_two_workers_keep_the_budget_and_say_what_they_saved(hpo):
    study = Path(write_study(trials=24, delay_s=0.0))
    study.write_text(study.read_text().replace("[space]", "[pruning]\nstartup_trials = 4\n[space]"))
    done = hpo("run", str(study), "--workers", "2")
    assert "24 of 24 trials" in done.stdout
    assert "of them ended early" in done.stdout
    hpo("export", "x", "--format", "csv")
    frame = pd.read_csv("x.csv")
    pruned = frame[frame["state"] == "PRUNED"]
    assert 0 < len(pruned) <= 20
    assert len(frame) == 24
    assert pruned["score"].isna().all()
    assert pruned["pruned"].str.startswith("after ").all()
    status = json.loads(hpo("status", "x", "--json").stdout)
    assert status["counts"]["pruned"] == len(pruned)
    logged = hpo("logs", "x", "--trial", str(pruned["number"].iloc[0])).stdout.splitlines()
    assert "pruned, after " in logged[-1]
    # The books are copied as they are.
    hpo("copy", "sqlite:///hpo.db", "sqlite:///copy.db")
    record = find(open_storage("sqlite:///copy.db", Access.WORK), "x")
    assert record.ledger.counts().pruned == len(pruned)
    record.storage.engine.dispose()


def test_a_simulation_prunes_as_the_study_did(parabola):
    record = parabola()
    work(record)
    counts = record.ledger.counts()
    table = DurationTrace.from_study(record)
    assert len(table.rows) == 20
    assert table.n_parts == 3
    assert sum(len(row) < 3 for row in table.rows) == counts.pruned
    rows = tuple(tuple(dict(part, wall_s=5.0) for part in row) for row in table.rows)
    result = simulate(Cluster(workers=4, trials=40), DurationTrace(rows))
    assert (result.finished, result.pruned) == (40, 2 * counts.pruned)
    assert (result.overshoot, result.lost, result.told_twice, result.parts_repeated) == (0,) * 4
    assert result.parts_scored == 2 * sum(map(len, rows))


def test_samplers_learn_from_pruned_trials(parabola):
    record = parabola(trials=60)
    work(record)
    trials = record.optuna_study().get_trials(deepcopy=False)
    distances = np.array([abs(trial.params["alpha"] - 1.0) for trial in trials])
    assert np.median(distances[30:]) < 0.5 * np.median(distances[:10])
    with record.storage.read() as c:
        states = {row.state for row in c.execute(CLAIMS.select())}
    assert states == {"finished", "pruned"}
