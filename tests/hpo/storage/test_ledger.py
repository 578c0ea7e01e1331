"""What a ledger promises, one example for each promise.

The contract runs over every kind of ledger in tests/support/ledgers.py.
"""

from __future__ import annotations

import math
import threading

import pytest
import sqlalchemy as sa
from optuna.distributions import IntDistribution
from optuna.trial import TrialState

from hpo.errors import FailedStudyError, LostLeaseError, StorageError
from hpo.records import Answer, Claim, ResolvedTrial, WorkerRun
from hpo.storage.events import EventKind
from tests.support.ledgers import ALL_KINDS, SPACE, Bench, Seen, find_kind, make_sqlite_bench


@pytest.fixture(params=ALL_KINDS)
def bench(request, tmp_path):
    """A ledger of each kind."""
    made = find_kind(request.param, request)(tmp_path, trials=3, max_failures=1, max_deaths=2)
    yield made
    made.close()


@pytest.fixture
def ledger(bench):
    return bench.ledger


@pytest.fixture
def sqlite_ledger(tmp_path):
    made = make_sqlite_bench(tmp_path, trials=24)
    yield made.ledger
    made.close()


def trial_of(bench: Bench, claim: Claim) -> Seen:
    return next(trial for trial in bench.trials() if trial.trial_id == claim.trial_id)


def test_a_trial_goes_its_way(ledger, bench):
    claim = ledger.claim("w1")
    assert (claim.number, claim.params, claim.parts) == (0, None, ())
    ledger.save_params(claim, {"alpha": 0.25}, SPACE)
    ledger.save(claim, {0: {"score": 1.5, "rmse_val": 2.0}})
    ledger.finish(claim, {"score": 1.5, "rmse_val": 2.0})
    trial = trial_of(bench, claim)
    assert trial.state is TrialState.COMPLETE
    assert trial.params == {"alpha": 0.25}
    assert trial.values == [1.5]
    assert trial.intermediate_values == {0: 1.5}
    assert trial.user_attrs["part 0"] == {"score": 1.5, "rmse_val": 2.0}
    assert trial.user_attrs["rmse_val"] == 2.0
    assert trial.user_attrs["worker"] == "w1"
    assert ledger.counts().finished == 1


def test_a_pruned_trial_spends_its_unit_and_has_no_score(ledger, bench):
    first, second = ledger.claim("w1"), ledger.claim("w2")
    ledger.save_params(first, {"alpha": 0.25}, SPACE)
    ledger.save(first, {0: {"score": 9.0}})
    for _ in range(2):  # as if the first answer had been lost
        ledger.finish(first, {"wall_s": 2.0}, pruned="worse than most")
    with pytest.raises(LostLeaseError):
        ledger.finish(first, {"score": 1.0})
    trial = trial_of(bench, first)
    assert (trial.state, trial.values) == (TrialState.PRUNED, None)
    assert trial.intermediate_values == {0: 9.0}
    assert trial.user_attrs == {
        "part 0": {"score": 9.0},
        "pruned": "worse than most",
        "wall_s": 2.0,
        "worker": "w1",
    }
    ledger.finish(second, {"score": 1.0})
    with pytest.raises(LostLeaseError):
        ledger.finish(second, {"wall_s": 2.0}, pruned="worse than most")
    counts = ledger.counts()
    assert (counts.finished, counts.pruned, counts.failed) == (2, 1, 0)
    ledger.finish(ledger.claim("w3"), {"score": 1.0})
    assert ledger.claim("w4") is Answer.DONE


def test_a_trial_is_settled_when_it_is_told(ledger, bench):
    claim = ledger.claim("w1")
    ledger.save_params(claim, {"alpha": 0.25}, SPACE)
    for part in range(2):
        ledger.save(claim, {part: {"score": 1.0 + part, "r2": 0.5, "curve": "kept"}})
    parts = [{"score": 3.0, "r2": math.nan}, {"score": 4.0, "r2": 0.5}]
    settled = ResolvedTrial({"max_iter": 20}, {"max_iter": IntDistribution(10, 30, step=10)}, parts)
    assert ledger.claim("w1").parts[0]["curve"] == "kept"
    for _ in range(2):  # as if the first answer had been lost
        ledger.finish(claim, {"score": 3.5}, settled=settled)
    trial = trial_of(bench, claim)
    assert trial.params == {"alpha": 0.25, "max_iter": 20}
    assert trial.intermediate_values == {0: 3.0, 1: 4.0}
    assert trial.user_attrs["part 0"] == {"score": 3.0, "r2": None}
    assert trial.user_attrs["part 1"] == {"score": 4.0, "r2": 0.5}


def test_the_budget_is_claimed_exactly(ledger):
    claims = [ledger.claim(f"w{i}") for i in range(3)]
    assert [claim.number for claim in claims] == [0, 1, 2]
    assert ledger.claim("w3") is Answer.WAIT
    for claim in claims:
        ledger.finish(claim, {"score": 0.0})
    assert ledger.claim("w3") is Answer.DONE


def test_a_trial_given_back_goes_on_with_its_parameters_at_its_next_part(ledger, bench):
    claim = ledger.claim("w1")
    ledger.save_params(claim, {"alpha": 0.25}, SPACE)
    ledger.save(claim, {0: {"score": 1.5}})
    ledger.release(claim)
    assert trial_of(bench, claim).state is TrialState.WAITING
    again = ledger.claim("w2")
    assert again.trial_id == claim.trial_id
    assert again.params == {"alpha": 0.25}
    assert again.parts == ({"score": 1.5},)
    assert trial_of(bench, claim).state is TrialState.RUNNING


def test_a_dead_workers_trial_is_taken_over_and_the_zombie_is_fenced_off(ledger, bench):
    claim = ledger.claim("zombie")
    bench.let_leases_run_out()
    again = ledger.claim("w2")
    assert again.trial_id == claim.trial_id
    assert again.attempt > claim.attempt
    for act in (
        lambda: ledger.save_params(claim, {"alpha": 0.5}, SPACE),
        lambda: ledger.save(claim, {0: {"score": 0.0}}),
        lambda: ledger.finish(claim, {"score": 0.0}),
        lambda: ledger.fail(claim, "too late"),
        lambda: ledger.release(claim),
    ):
        with pytest.raises(LostLeaseError):
            act()
    ledger.finish(again, {"score": 7.0})
    assert trial_of(bench, again).values == [7.0]
    ledger.finish(again, {"score": 8.0})  # as if the first answer had been lost
    assert trial_of(bench, again).values == [7.0]


def test_a_renewed_lease_is_not_reaped(ledger, bench):
    ledger.register("w1", WorkerRun("host", 1))
    ledger.claim("w1")
    bench.let_leases_run_out()
    ledger.beat(["w1"])
    assert ledger.claim("w2").number == 1


def test_a_worker_that_claims_anew_has_a_whole_lease_whatever_its_launcher_does(ledger, bench):
    ledger.register("w1", WorkerRun("host", 1))
    lost = ledger.claim("w1")
    bench.let_leases_run_out()
    ledger.register("w2", WorkerRun("host", 2))
    assert ledger.claim("w2").trial_id == lost.trial_id
    # Its launcher is silent still.
    anew = ledger.claim("w1")
    ledger.register("w3", WorkerRun("host", 3))
    assert ledger.claim("w3").number == 2
    ledger.finish(anew, {"score": 1.0})
    assert len(ledger.events(EventKind.DEATH)) == 1


def test_a_reaped_workers_trial_is_free_at_once(ledger):
    ledger.register("w1", WorkerRun("host", 1))
    claim = ledger.claim("w1")
    ledger.reap("w1", "killed by SIGKILL")
    assert ledger.claim("w2").trial_id == claim.trial_id
    death = next(event for event in ledger.events() if event["kind"] == "death")
    assert (death["trial"], death["worker"], death["reason"]) == (0, "w1", "killed by SIGKILL")


def test_a_trial_that_kills_its_workers_fails_and_another_takes_its_unit(ledger, bench):
    first = ledger.claim("w1")
    ledger.reap("w1", "killed by SIGKILL")
    ledger.claim("w2")
    ledger.reap("w2", "killed by SIGSEGV")
    trial = trial_of(bench, first)
    assert trial.state is TrialState.FAIL
    assert trial.user_attrs["failure"] == "2 workers died on it; the last: killed by SIGSEGV"
    claims = [ledger.claim(f"w{i}") for i in range(3, 6)]
    assert [claim.number for claim in claims] == [1, 2, 3]


def test_failed_trials_do_not_count_but_too_many_stop_the_study(ledger):
    ledger.fail(ledger.claim("w1"), "ValueError: alpha")
    ledger.fail(ledger.claim("w1"), "ValueError: beta")
    assert ledger.counts().failed == 2
    with pytest.raises(FailedStudyError, match=r"2 trials failed.*trial 1: ValueError: beta"):
        ledger.claim("w1")


def test_a_score_that_is_not_finite_is_stored_as_nothing(ledger, bench):
    claim = ledger.claim("w1")
    ledger.save(claim, {0: {"score": 1.0, "r2_val": float("nan")}})
    assert trial_of(bench, claim).user_attrs["part 0"] == {"score": 1.0, "r2_val": None}


def test_calls_whose_answer_was_lost_come_to_the_same_when_repeated(ledger):
    claim = ledger.claim("w1")
    assert ledger.claim("w1") == claim
    for _ in range(2):
        ledger.save_params(claim, {"alpha": 0.25}, SPACE)
    for _ in range(2):
        ledger.save(claim, {0: {"score": 1.5}})
    assert ledger.claim("w1").parts == ({"score": 1.5},)
    for _ in range(2):
        ledger.release(claim)
    assert ledger.counts().free == 1
    again = ledger.claim("w1")
    for _ in range(2):
        ledger.finish(again, {"score": 1.5})
    failing = ledger.claim("w1")
    for _ in range(2):
        ledger.fail(failing, "ValueError: no")
    counts = ledger.counts()
    assert (counts.finished, counts.failed, counts.held, counts.free) == (1, 1, 0, 0)
    for _ in range(2):
        ledger.register("w9", WorkerRun("host", 1))
        ledger.reap("w9", "killed")
    assert ledger.claim("w9") is Answer.DISMISSED


def test_a_lowered_budget_takes_trials_back_and_a_raised_one_goes_on_with_them(ledger, bench):
    done = ledger.claim("w0")
    ledger.finish(done, {"score": 1.0})
    claims = [ledger.claim(f"w{i}") for i in (1, 2)]
    ledger.save(claims[1], {0: {"score": 0.5}})
    assert ledger.set_budget(2).taken == [2]
    with pytest.raises(LostLeaseError):
        ledger.finish(claims[1], {"score": 0.0})
    assert ledger.claim("w2") is Answer.WAIT
    ledger.finish(claims[0], {"score": 0.0})
    assert ledger.claim("w2") is Answer.DONE
    assert trial_of(bench, claims[1]).state is TrialState.WAITING
    assert ledger.set_budget(3).taken == []
    again = ledger.claim("w2")
    assert (again.number, again.parts) == (2, ({"score": 0.5},))
    budgets = [(e["before"], e["after"]) for e in ledger.events(EventKind.BUDGET)]
    assert budgets == [(3, 2), (2, 3)]


def test_a_study_that_was_stopped_hands_out_nothing_until_it_may_go_on(ledger):
    ledger.register("w1", WorkerRun("host", 1))
    claim = ledger.claim("w1")
    ledger.stop("gently")
    assert ledger.claim("w2") is Answer.STOPPED
    assert ledger.beat(["w1"]).stop == "gently"
    ledger.save(claim, {0: {"score": 0.5}})
    ledger.stop("now")
    assert ledger.beat(["w1"]).stop == "now"
    ledger.release(claim)
    ledger.stop(None)
    assert ledger.claim("w2").parts == ({"score": 0.5},)


def test_a_worker_that_was_reaped_is_told_to_leave(ledger):
    ledger.register("w1", WorkerRun("host", 1))
    ledger.claim("w1")
    assert not ledger.beat(["w1"]).dismissed
    assert ledger.reap("w1", "its job is over: NODE_FAIL")
    assert ledger.beat(["w1", "w2"]).dismissed == {"w1", "w2"}
    assert ledger.claim("w1") is Answer.DISMISSED


def test_no_lease_is_over_within_one_lease_of_the_servers_start(ledger, bench):
    claim = ledger.claim("w1")
    bench.let_leases_run_out()
    bench.restart(10.0)
    assert ledger.claim("w2").number == 1
    bench.restart(61.0)
    assert ledger.claim("w3").trial_id == claim.trial_id


def test_a_storage_that_does_not_answer_is_asked_again_for_as_long_as_a_worker_waits(
    sqlite_ledger, monkeypatch
):
    ledger = sqlite_ledger
    real, failures = ledger.storage.write, iter([True, True, False])

    def write():
        if next(failures):
            raise sa.exc.OperationalError("UPDATE", {}, Exception("server closed the connection"))
        return real()

    monkeypatch.setattr(ledger.storage, "write", write)
    with pytest.raises(StorageError, match=r"does not answer: .*server closed the connection"):
        ledger.claim("w1")
    ledger.storage.patience_s = 60.0
    assert isinstance(ledger.claim("w1"), Claim)


def test_threads_that_claim_at_once_share_the_budget(sqlite_ledger):
    ledger, numbers = sqlite_ledger, []

    def work(worker_id: str) -> None:
        while True:
            claim = ledger.claim(worker_id)
            if not isinstance(claim, Claim):
                return
            numbers.append(claim.number)
            ledger.finish(claim, {"score": 0.0})

    threads = [threading.Thread(target=work, args=(f"w{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(24))
