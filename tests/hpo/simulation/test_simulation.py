"""Simulated clusters: the books are exact whatever fails, and the figures are what they must be."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpo.cli import main
from hpo.errors import HpoError, LostLeaseError
from hpo.records import WALL_KEY
from hpo.simulation.call_costs import price_calls
from hpo.simulation.engine import simulate
from hpo.simulation.memory_ledger import MemoryLedger
from hpo.simulation.scenario import Cluster, DurationTrace, Faults, Result, Spread
from hpo.study.record import find
from tests.support.ledgers import begin_without_table
from tests.support.studies import ROOT

TABLE = DurationTrace.make(3, 20.0, n_rows=50)
# Trials fail by their own fault alone.
HARDY = {"max_deaths": 1000}


def assert_books_are_exact(result: Result) -> None:
    assert result.overshoot == 0
    assert result.told_twice == 0
    assert result.parts_repeated == 0
    if result.outcome == "finished":
        assert result.finished == result.budget
        assert result.lost == 0


rates = st.sampled_from([0.0, 1.0, 10.0, 40.0])


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(
    workers=st.integers(1, 30),
    trials=st.integers(1, 60),
    lease_s=st.sampled_from([5.0, 60.0, 300.0]),
    max_deaths=st.sampled_from([2, 1000]),
    time_limit_s=st.sampled_from([None, 300.0]),
    store=st.sampled_from([(0.0, 0.0), (0.01, 0.0), (0.005, 0.02)]),
    faults=st.builds(
        Faults,
        kill=rates,
        freeze=rates,
        preemption=rates,
        node=rates,
        outage=st.sampled_from([0.0, 1.0, 4.0]),
        node_size=st.integers(1, 8),
    ),
    seed=st.integers(0, 2**32),
)
def test_no_fault_breaks_the_books(
    workers, trials, lease_s, max_deaths, time_limit_s, store, faults, seed
):
    cluster = Cluster(
        workers,
        trials,
        lease_s,
        max_deaths=max_deaths,
        time_limit_s=time_limit_s,
        store_latency_s=store[0],
        store_service_s=store[1],
        faults=faults,
        draw_s=0.1,
        ramp_s=30.0,
        seed=seed,
    )
    assert_books_are_exact(simulate(cluster, TABLE))


def test_the_audit_sees_a_ledger_that_does_not_fence_zombies_off(monkeypatch):
    fenced = MemoryLedger._fenced

    def lenient(self, claim, **wanted):
        try:
            return fenced(self, claim, **wanted)
        except LostLeaseError:
            return None

    cluster = Cluster(20, 60, faults=Faults(freeze=10.0), **HARDY)
    assert_books_are_exact(simulate(cluster, TABLE))
    monkeypatch.setattr(MemoryLedger, "_fenced", lenient)
    result = simulate(cluster, TABLE)
    assert result.told_twice > 0
    assert result.parts_repeated > 0


def test_a_zombie_is_refused_and_loses_no_more_than_its_part():
    result = simulate(Cluster(20, 200, faults=Faults(freeze=5.0), **HARDY), TABLE)
    assert_books_are_exact(result)
    assert 0 < result.parts_refused <= result.faults["freeze"]
    assert result.parts_unfinished == 0


def test_the_same_seed_gives_the_same_result():
    cluster = Cluster(30, 100, faults=Faults.of_all_kinds(4.0), seed=1, **HARDY)
    assert simulate(cluster, TABLE) == simulate(cluster, TABLE)
    assert simulate(cluster, TABLE) != simulate(replace(cluster, seed=2), TABLE)


@pytest.mark.parametrize(("workers", "trials"), [(1, 4), (7, 28), (7, 30), (10, 3)])
def test_without_faults_the_makespan_is_the_arithmetic(workers, trials):
    table = DurationTrace.make(5, 60.0, spread=0.0)
    rounds = math.ceil(trials / workers)
    result = simulate(Cluster(workers, trials), table)
    assert result.makespan_s == pytest.approx(rounds * 5 * 60.0)
    assert result.utilisation == pytest.approx(trials / (rounds * workers))
    # A trial calls the store seven times, one after the other: the first claim takes one more,
    # as the worker has to enter, and the last one takes one less, as nothing is claimed after it.
    slow = simulate(Cluster(workers, trials, store_latency_s=0.5, draw_s=2.0), table)
    calls = 1 + 1 + 1 + 4 + 1
    expected_s = rounds * (5 * 60.0 + 2.0) + 0.5 * (calls + (rounds - 1) * (calls - 1))
    assert slow.makespan_s == pytest.approx(expected_s)


def test_a_store_that_is_too_slow_shows():
    quick = Cluster(400, 1200, ramp_s=20.0, store_service_s=0.001)
    slow = replace(quick, store_service_s=0.05)
    table = DurationTrace.make(5, 10.0)
    before, after = simulate(quick, table), simulate(slow, table)
    assert before.store_busy < 0.2 < 0.9 < after.store_busy
    assert before.longest_wait_s < 1.0 < 10.0 < after.longest_wait_s
    assert after.calls_per_s.peak <= 1 / 0.05 + 1
    assert after.makespan_s > 1.3 * before.makespan_s
    assert after.utilisation < before.utilisation
    assert_books_are_exact(after)


@pytest.mark.parametrize("lease_s", [30.0, 300.0])
def test_a_dead_workers_trial_runs_again_within_lease_beat_and_poll(lease_s):
    # Half of the workers have nothing to do but to take over.
    faults = Faults(kill=10.0, freeze=2.0)
    restarts = 0
    for seed in range(20):
        result = simulate(Cluster(40, 20, lease_s, faults=faults, seed=seed, **HARDY), TABLE)
        assert_books_are_exact(result)
        if result.restart_s is not None:
            restarts += result.restart_s.n
            assert lease_s / 2 < result.restart_s.median
            assert result.restart_s.max <= result.restart_bound_s
    assert restarts > 20


def test_jobs_that_reach_their_time_limit_give_their_trials_back_and_come_again():
    cluster = Cluster(20, 200, time_limit_s=600.0, stagger_s=120.0, requeue_s=60.0)
    result = simulate(cluster, TABLE)
    assert_books_are_exact(result)
    assert result.faults.keys() == {"time limit"}
    assert result.restart_s is None
    assert result.calls["register"] > cluster.workers
    assert result.calls["claim again"] == result.calls["release"] > 0
    assert result.parts_unfinished <= result.faults["time limit"]


@pytest.mark.parametrize("outage_s", [45.0, 65.0, 300.0])
def test_an_outage_costs_no_trial_however_long_against_the_lease(outage_s):
    faults = Faults(outage=10.0, outage_s=outage_s)
    result = simulate(Cluster(20, 400, 60.0, faults=faults), TABLE)
    assert result.faults["store outage"] > 0
    assert result.longest_wait_s > 0.8 * outage_s
    assert (result.restart_s, result.parts_refused) == (None, 0)
    assert_books_are_exact(result)


def test_a_study_whose_trials_all_die_stops_with_the_reason():
    cluster = Cluster(20, 50, 30.0, max_deaths=1, max_failures=3, faults=Faults(kill=60.0))
    result = simulate(cluster, TABLE)
    assert f"{result.failed} trials failed, max_failures is 3; the last one: " in result.outcome
    assert result.failed > 3
    assert result.finished + result.lost == 50
    assert_books_are_exact(result)


def test_what_does_not_end_is_given_up():
    cluster = Cluster(3, 3, max_failures=10**6, faults=Faults(preemption=2000.0))
    with pytest.raises(HpoError, match=r"0 of 3 trials are finished, and it would not end"):
        simulate(cluster, DurationTrace.make(1, 600.0))
    with pytest.raises(HpoError, match=r"time limit of 100 s leaves -20 s .* raise --time-limit-s"):
        simulate(Cluster(3, 3, time_limit_s=100.0), TABLE)
    with pytest.raises(HpoError, match=r"kill: must be finite and not below 0, got -1"):
        simulate(Cluster(3, 3, faults=Faults(kill=-1)), TABLE)
    with pytest.raises(HpoError, match=r"workers: must be above 0, got 0"):
        simulate(Cluster(0, 3), TABLE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "trials", "lease_s"), [(1_000, 10_000, 60.0), (10_000, 20_000, 300.0)]
)
def test_a_large_cluster_keeps_exact_books(workers, trials, lease_s):
    cluster = Cluster(
        workers,
        trials,
        lease_s,
        ramp_s=60.0,
        store_service_s=0.001,
        faults=Faults.of_all_kinds(0.2),
        **HARDY,
    )
    result = simulate(cluster, DurationTrace.make(5, 60.0))
    assert_books_are_exact(result)
    assert result.outcome == "finished"
    assert result.parts_scored == trials * 5
    assert result.restart_s is not None
    # Everything that was worked for went into the budget, or was lost to a fault.
    hit = sum(result.faults.values())
    assert result.parts_unfinished + result.parts_refused <= hit


def test_quantiles_are_values_that_occurred():
    assert Spread.of([]) is None
    assert Spread.of([3.0]) == Spread(1, 3.0, 3.0, 3.0)
    assert Spread.of(list(range(1, 101))) == Spread(100, 50, 95, 100)


def test_every_call_is_priced_as_one_transaction():
    prices = price_calls()
    assert {price.transactions for price in prices.values()} == {1}
    assert prices["claim without a trial"].statements < prices["claim"].statements
    assert prices["deregister"].statements < prices["register"].statements


# Against the real thing ---------------------------------------------------------------------------

COUNTING_WORKER = """
import collections, json, pathlib, sys
from hpo.records import Access, Claim, WorkerRun
from hpo.storage.backends import open_storage
from hpo.storage.ledger import Ledger
from hpo.study.record import find
from hpo.worker.worker import Worker, new_worker_id

calls = collections.Counter()
def count(name):
    method = getattr(Ledger, name)
    def counted(self, *arguments):
        answer = method(self, *arguments)
        if name != "claim" or isinstance(answer, Claim):
            calls[name] += 1
        return answer
    setattr(Ledger, name, counted)

steps = ("claim", "save_params", "save", "finish", "fail", "release")
for name in ("register", *steps, "deregister"):
    count(name)
record = find(open_storage(sys.argv[1], Access.WORK), "x")
Worker(record, record.open_objective()[1], new_worker_id()).run(WorkerRun("host", 1))
pathlib.Path(sys.argv[2]).write_text(json.dumps(calls))
"""


@pytest.fixture(scope="module")
def finished_study(tmp_path_factory):
    """A study that four real workers have finished, and how often they called its ledger."""
    tmp_path = tmp_path_factory.mktemp("finished")
    url = f"sqlite:///{tmp_path / 'hpo.db'}"
    objective = {"name": "tests.support.objectives:Parabola", "params": {"delay_s": 0.05}}
    record = begin_without_table(url, name="x", trials=16, objective=objective)
    outputs = [tmp_path / f"calls-{i}.json" for i in range(4)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COUNTING_WORKER, url, str(output)],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "PATH": ""},
            stderr=subprocess.PIPE,
            text=True,
        )
        for output in outputs
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, errors
    yield record, sum((Counter(json.loads(output.read_text())) for output in outputs), Counter())
    record.storage.remove_session()
    record.storage.engine.dispose()


@pytest.mark.slow
def test_a_simulation_calls_the_store_as_real_workers_do(finished_study):
    record, real = finished_study
    table = DurationTrace.from_study(find(record.storage, "x"))
    assert len(table.rows) == 16
    assert {len(row) for row in table.rows} == {3}
    assert 0.05 <= table.mean_part_s <= table.longest_part_s
    assert all(math.isfinite(scores["score"]) for row in table.rows for scores in row)
    simulated = simulate(Cluster(4, 16), table).calls
    assert {kind: n for kind, n in simulated.items() if kind in real} == real
    assert simulated.keys() - real.keys() <= {"beat", "claim without a trial"}


def test_the_command_takes_its_durations_from_a_study(finished_study, capsys):
    storage = str(finished_study[0].storage.engine.url)
    options = ["--workers", "8", "--trials", "40", "--storage", storage]
    assert main(["simulate", "--study", "x", *options, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["result"]
    assert (result["finished"], result["parts_scored"]) == (40, 120)
    assert main(["simulate", "--study", "x", "--parts", "5", *options]) == 2
    assert "drop --parts and --part-s" in capsys.readouterr().err
    assert main(["simulate", "--study", "y", *options]) == 2
    assert "holds no study 'y'" in capsys.readouterr().err


def test_a_study_without_finished_trials_cannot_be_simulated(tmp_path):
    record = begin_without_table(f"sqlite:///{tmp_path / 'hpo.db'}", name="x")
    with pytest.raises(HpoError, match="study 'x': no trial has finished"):
        DurationTrace.from_study(record)
    record.storage.remove_session()
    record.storage.engine.dispose()


def test_a_table_has_the_mean_that_was_asked_for():
    table = DurationTrace.make(4, 60.0, seed=5)
    assert table.mean_part_s == pytest.approx(60.0, rel=0.05)
    assert table == DurationTrace.make(4, 60.0, seed=5)
    assert table != DurationTrace.make(4, 60.0, seed=6)
    assert {len(row) for row in table.rows} == {4}
    assert all(scores[WALL_KEY] > 0.0 for row in table.rows for scores in row)


def test_the_command_prints_a_table(capsys):
    arguments = ["simulate", "--workers", "50", "--trials", "200", "--faults", "2", "--seed", "4"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = {line[: lines[0].index("50")].strip(): line for line in lines}
    assert "200 of 200 finished" in shown["trials"]
    assert shown["books"].endswith("0 beyond the budget, 0 lost, 0 told twice")
    assert main([*arguments, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["cluster"]["workers"] == 50
    assert f"{printed['result']['makespan_s']:,.0f} s" in shown["makespan"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--workers", "0", "argument --workers: must be a whole number of at least 1, got '0'"),
        (
            "--faults",
            "-1",
            "argument --faults: must be 0, or a number from 0.001 to 1e+09, got '-1'",
        ),
        ("--part-s", "0", "argument --part-s: must be a number above 0, got '0'"),
        (
            "--lease-s",
            "nan",
            "argument --lease-s: must be 0, or a number from 0.001 to 1e+09, got 'nan'",
        ),
    ],
)
def test_a_value_that_is_not_valid_is_named(option, value, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["simulate", f"{option}={value}"])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
