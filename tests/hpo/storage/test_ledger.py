"""The ledger's invariants, under any order of claims, deaths, late tells and time.

The contract runs over every kind of ledger in tests/ledgers.py.
"""

from __future__ import annotations

import contextlib
import math
import random
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState

from hpo.errors import FailedStudyError, LostLeaseError, StorageError
from hpo.records import Answer, Claim, ResolvedTrial, WorkerRun
from hpo.storage.events import EventKind
from tests.support.ledgers import ALL_KINDS, ENDED, Bench, Seen, find_kind, make_sqlite_bench

N_PARTS = 3
SPACE = {"alpha": FloatDistribution(0.0, 1.0)}


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
    ledger.save_parts(claim, {0: {"score": 1.5, "rmse_val": 2.0}})
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
    ledger.save_parts(first, {0: {"score": 9.0}})
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
        ledger.save_parts(claim, {part: {"score": 1.0 + part, "r2": 0.5, "curve": "kept"}})
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
    ledger.save_parts(claim, {0: {"score": 1.5}})
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
        lambda: ledger.save_parts(claim, {0: {"score": 0.0}}),
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
    ledger.renew("w1")
    assert ledger.claim("w2").number == 1


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
    ledger.save_parts(claim, {0: {"score": 1.0, "r2_val": float("nan")}})
    assert trial_of(bench, claim).user_attrs["part 0"] == {"score": 1.0, "r2_val": None}


def test_calls_whose_answer_was_lost_come_to_the_same_when_repeated(ledger):
    claim = ledger.claim("w1")
    assert ledger.claim("w1") == claim
    for _ in range(2):
        ledger.save_params(claim, {"alpha": 0.25}, SPACE)
    for _ in range(2):
        ledger.save_parts(claim, {0: {"score": 1.5}})
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
    ledger.save_parts(claims[1], {0: {"score": 0.5}})
    assert ledger.set_budget(2) == [2]
    with pytest.raises(LostLeaseError):
        ledger.finish(claims[1], {"score": 0.0})
    assert ledger.claim("w2") is Answer.WAIT
    ledger.finish(claims[0], {"score": 0.0})
    assert ledger.claim("w2") is Answer.DONE
    assert trial_of(bench, claims[1]).state is TrialState.WAITING
    assert ledger.set_budget(3) == []
    again = ledger.claim("w2")
    assert (again.number, again.parts) == (2, ({"score": 0.5},))
    budgets = [(e["before"], e["after"]) for e in ledger.events(EventKind.BUDGET)]
    assert budgets == [(3, 2), (2, 3)]


def test_a_study_that_was_stopped_hands_out_nothing_until_it_may_go_on(ledger):
    claim = ledger.claim("w1")
    ledger.stop("gently")
    assert ledger.claim("w2") is Answer.STOPPED
    assert ledger.renew("w1") is None
    ledger.save_parts(claim, {0: {"score": 0.5}})
    ledger.stop("now")
    assert ledger.renew("w1") is Answer.STOPPED
    ledger.release(claim)
    ledger.stop(None)
    assert ledger.claim("w2").parts == ({"score": 0.5},)


def test_a_worker_that_was_reaped_is_told_to_leave(ledger):
    ledger.register("w1", WorkerRun("host", 1))
    ledger.claim("w1")
    assert ledger.renew("w1") is None
    assert ledger.reap("w1", "its job is over: NODE_FAIL")
    assert ledger.renew("w1") is Answer.DISMISSED
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


class LedgerMachine(RuleBasedStateMachine):
    """Workers claim, score, die, come back from the dead; the ledger keeps its word."""

    make_bench = staticmethod(make_sqlite_bench)

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.bench = self.make_bench(Path(self.folder.name), trials=4, max_deaths=2, max_failures=3)
        self.ledger = self.bench.ledger
        self.live: dict[int, Claim] = {}
        self.lost: list[Claim] = []
        self.told: list[Claim] = []
        self.scored: dict[int, int] = {}
        self.finished: dict[int, float | None] = {}  # None: pruned
        self.budget = 4
        self.next_worker = 0

    def teardown(self) -> None:
        self.bench.close()
        self.folder.cleanup()

    def pick(self, data) -> Claim:
        claim: Claim = data.draw(
            st.sampled_from(sorted(self.live.values(), key=lambda c: c.number))
        )
        return claim

    @rule()
    def claim(self) -> None:
        self.next_worker += 1
        try:
            claim = self.ledger.claim(f"w{self.next_worker}")
        except FailedStudyError:
            assert self.ledger.counts().failed > self.ledger.max_failures
            return
        if isinstance(claim, Claim):
            assert claim.trial_id not in self.live, "held by two workers"
            assert claim.trial_id not in self.finished, "finished and handed out again"
            assert len(claim.parts) == self.scored.get(claim.trial_id, 0), "a part score was lost"
            self.live[claim.trial_id] = claim
        elif claim is Answer.DONE:
            assert len(self.finished) >= self.budget

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def score_part(self, data) -> None:
        claim = self.pick(data)
        part = self.scored.get(claim.trial_id, 0)
        if part < N_PARTS:
            self.ledger.save_parts(claim, {part: {"score": float(part)}})
            self.scored[claim.trial_id] = part + 1

    @precondition(lambda self: self.live)
    @rule(data=st.data(), score=st.floats(-1e6, 1e6))
    def finish(self, data, score) -> None:
        claim = self.pick(data)
        self.ledger.finish(claim, {"score": score})
        self.finished[claim.trial_id] = score
        self.told.append(claim)
        self.lost.append(self.live.pop(claim.trial_id))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def prune(self, data) -> None:
        claim = self.pick(data)
        self.ledger.finish(claim, {"wall_s": 1.0}, pruned="worse than most")
        self.finished[claim.trial_id] = None
        self.told.append(claim)
        self.lost.append(self.live.pop(claim.trial_id))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def fail(self, data) -> None:
        claim = self.pick(data)
        self.ledger.fail(claim, "refused")
        self.lost.append(self.live.pop(claim.trial_id))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def release(self, data) -> None:
        claim = self.pick(data)
        self.ledger.release(claim)
        self.lost.append(self.live.pop(claim.trial_id))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def die_and_be_reaped(self, data) -> None:
        claim = self.pick(data)
        self.ledger.reap(claim.worker_id, "killed")
        self.lost.append(self.live.pop(claim.trial_id))

    @precondition(lambda self: self.live)
    @rule()
    def all_leases_run_out_and_somebody_claims(self) -> None:
        self.bench.let_leases_run_out()
        self.lost.extend(self.live.values())
        self.live.clear()
        self.claim()

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def claim_again_after_a_lost_answer(self, data) -> None:
        claim = self.pick(data)
        again = self.ledger.claim(claim.worker_id)
        assert (again.trial_id, again.attempt) == (claim.trial_id, claim.attempt)

    @rule(budget=st.integers(1, 7))
    def change_the_budget(self, budget) -> None:
        room = max(0, budget - len(self.finished))
        beyond = sorted(self.live.values(), key=lambda claim: claim.number)[room:]
        assert self.ledger.set_budget(budget) == [claim.number for claim in beyond]
        self.budget = budget
        for claim in beyond:
            self.lost.append(self.live.pop(claim.trial_id))

    @precondition(lambda self: self.lost)
    @rule(data=st.data())
    def zombie_tells(self, data) -> None:
        zombie = data.draw(st.sampled_from(self.lost))
        # Told twice by the one who told it first: no error, and no other score either.
        pruned = data.draw(st.booleans())
        again = zombie in self.told and pruned == (self.finished[zombie.trial_id] is None)
        with contextlib.nullcontext() if again else pytest.raises(LostLeaseError):
            self.ledger.finish(zombie, {"score": -1e9}, pruned="too late" if pruned else "")

    @invariant()
    def the_books_agree(self) -> None:
        counts = self.ledger.counts()
        assert counts.budget == self.budget
        assert counts.finished == len(self.finished)
        assert counts.pruned == sum(score is None for score in self.finished.values())
        assert counts.held == 0 or counts.finished + counts.held <= self.budget
        assert counts.held == len(self.live)
        places = self.bench.places()
        trials = self.bench.trials()
        assert {trial.trial_id for trial in trials} == places.keys(), "a trial without a unit"
        assert [trial.number for trial in trials] == list(range(len(trials)))
        for trial in trials:
            state, held = places[trial.trial_id]
            opened = TrialState.RUNNING if held else TrialState.WAITING
            assert trial.state is {"open": opened, **ENDED}[state]
            score = self.finished.get(trial.trial_id)
            assert trial.values == (None if score is None else [score])


def outcome_of(call, arguments) -> Any:
    """What a call comes to, as far as all ledgers have to agree; ids of trials are their own."""
    try:
        answer = call(*arguments)
    except (FailedStudyError, LostLeaseError) as exc:
        return repr(exc)
    return replace(answer, trial_id=-1) if isinstance(answer, Claim) else answer


def any_call(source: random.Random) -> tuple[str, str, tuple[Any, ...]]:
    """A method, whom it concerns (a worker, a claim or all), and its other arguments."""
    scores = {"score": source.random(), "r2": math.nan}
    calls: list[tuple[str, str, tuple[Any, ...]]] = [
        *[("worker", "claim", ())] * 3,
        ("worker", "register", (WorkerRun("host", 1),)),
        ("worker", "deregister", ("done",)),
        ("worker", "renew", ()),
        ("worker", "reap", ("killed",)),
        *[("claim", "save_parts", ({source.randrange(N_PARTS): scores},))] * 2,
        ("claim", "save_params", ({"alpha": scores["score"]}, SPACE)),
        ("claim", "finish", (scores,)),
        ("claim", "finish", (scores, {}, "worse than most")),
        ("claim", "fail", ("refused",)),
        ("claim", "release", ()),
        ("all", "set_budget", (source.randrange(3, 12),)),
        ("all", "stop", (source.choice([None, None, "gently", "now"]),)),
    ]
    return source.choice(calls)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", [kind for kind in ALL_KINDS if kind != "sqlite"])
def test_all_ledgers_answer_the_same_calls_alike(kind, seed, tmp_path, request):
    benches = [
        find_kind(each, request)(tmp_path, trials=5, max_failures=4, max_deaths=2)
        for each in ("sqlite", kind)
    ]
    source = random.Random(seed)
    claims: list[list[Claim]] = [[] for _ in benches]  # the same claims, one list per ledger
    for _ in range(150):
        if source.random() < 0.05:
            for bench in benches:
                bench.let_leases_run_out()
        whom, name, arguments = any_call(source)
        worker, chosen = f"w{source.randrange(8)}", source.random()
        said = []
        for bench, mine in zip(benches, claims, strict=True):
            subject: tuple[Any, ...] = (worker,) if whom == "worker" else ()
            if whom == "claim":
                if not mine:
                    continue
                subject = (mine[int(chosen * len(mine))],)
            said.append(outcome_of(getattr(bench.ledger, name), (*subject, *arguments)))
            if name == "claim" and isinstance(said[-1], Claim):
                mine.append(bench.ledger.claim(worker))
        assert len({repr(answer) for answer in said}) <= 1, name
        assert len({bench.ledger.counts() for bench in benches}) == 1
    events = [[event | {"at": None} for event in bench.ledger.events()] for bench in benches]
    assert all(other == events[0] for other in events)
    assert {event["kind"] for event in events[0]} == {"budget", "death", "stop"}
    assert len({repr(bench.ledger.failures()) for bench in benches}) == 1
    for bench in benches:
        bench.close()


# Databases take their time; what an order of calls can come to does not depend on them much.
EXAMPLES = {"memory": 100, "sqlite": 25, "postgresql": 12}


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_the_ledger_keeps_its_word_in_any_order_of_calls(kind, request):
    class Machine(LedgerMachine):
        make_bench = staticmethod(find_kind(kind, request))

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES[kind],
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
