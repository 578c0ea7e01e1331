"""Attempts without progress, on every kind of ledger; and leases when clocks are set or sleep."""

from __future__ import annotations

import itertools
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from optuna.trial import TrialState

from hpo.errors import LostLeaseError
from hpo.records import INTERRUPTED, Answer, Claim, OnLimit, WorkerRun
from hpo.storage import budget, workers
from hpo.storage.events import EventKind
from hpo.study.status import take_status
from hpo.system.processes import awake_s
from tests.support.ledgers import ALL_KINDS, SPACE, Bench, MemoryBench, SqlBench, find_kind

PART = {"score": 1.0, "wall_s": 1.0}
COUNTED = ["SIGTERM", "SIGUSR2", "the time limit is near", "killed by SIGKILL"]
NOT_COUNTED = [INTERRUPTED, Answer.STOPPED.value]


@pytest.fixture
def make(request, tmp_path):
    benches: list[Bench] = []

    def make_bench(kind: str, **changes: Any) -> Any:
        settings = {"trials": 4, "max_failures": 10, "max_deaths": 50} | changes
        benches.append(find_kind(kind, request)(tmp_path, **settings))
        return benches[-1]

    yield make_bench
    for bench in benches:
        bench.close()


def claim(bench: Any, worker: str = "w") -> Claim:
    taken = bench.ledger.claim(worker)
    assert isinstance(taken, Claim), taken
    return taken


def end(bench: Any, held: Claim, how: str, parts: dict[int, dict[str, float]]) -> None:
    """End an attempt: by whoever leaves, or by whoever saw its worker die."""
    if how.startswith("killed"):
        if parts:
            bench.ledger.save(held, parts)
        bench.ledger.reap(held.worker_id, how)
    else:
        bench.ledger.release(held, parts, how)


def state_of(bench: Any, number: int) -> TrialState:
    states: dict[int, TrialState] = {trial.number: trial.state for trial in bench.trials()}
    return states[number]


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("how", COUNTED)
def test_a_trial_fails_after_so_many_attempts_in_a_row_without_a_part(kind, how, make):
    bench = make(kind, max_attempts=3)
    for n in range(3):
        held = claim(bench, f"w{n}")
        assert held.number == 0
        end(bench, held, how, {})
    assert state_of(bench, 0) is TrialState.FAIL
    assert bench.ledger.failures() == [
        (0, f"3 attempts in a row stored no part; the last: {how}"),
    ]
    assert claim(bench, "w9").number == 1
    with pytest.raises(LostLeaseError):
        bench.ledger.finish(held, {"score": 0.0})


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("how", NOT_COUNTED)
def test_who_ends_the_study_says_nothing_of_its_trials(kind, how, make):
    bench = make(kind, max_attempts=2)
    for n in range(8):
        held = claim(bench, f"w{n}")
        assert held.number == 0
        end(bench, held, how, {})
    assert state_of(bench, 0) is TrialState.WAITING
    assert bench.ledger.failures() == []


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("how", COUNTED)
def test_a_stored_part_begins_the_count_anew(kind, how, make):
    bench = make(kind, max_attempts=3)
    for n, parts in enumerate(({}, {}, {0: PART}, {}, {}, {1: PART}, {}, {})):
        end(bench, claim(bench, f"w{n}"), how, parts)
        assert state_of(bench, 0) is TrialState.WAITING, n
    end(bench, claim(bench, "last"), how, {})
    assert state_of(bench, 0) is TrialState.FAIL


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("how", NOT_COUNTED)
def test_an_interruption_neither_counts_nor_begins_the_count_anew(kind, how, make):
    bench = make(kind, max_attempts=2)
    for n, why in enumerate(("SIGTERM", how, how)):
        end(bench, claim(bench, f"w{n}"), why, {})
    assert state_of(bench, 0) is TrialState.WAITING
    end(bench, claim(bench, "last"), "SIGUSR2", {})
    assert state_of(bench, 0) is TrialState.FAIL


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_trial_that_is_refused_is_tried_again_with_what_is_stored_of_it(kind, make):
    bench = make(kind, max_retry=2, max_attempts=1)
    held = claim(bench)
    bench.ledger.save_params(held, {"alpha": 0.5}, SPACE)
    for n in range(2):
        for _ in range(2):  # The answer was lost.
            bench.ledger.fail(held, f"ValueError: {n}", {n: PART})
        assert state_of(bench, 0) is TrialState.WAITING
        assert bench.ledger.counts().failed == 0
        late, held = held, claim(bench)
        with pytest.raises(LostLeaseError):
            bench.ledger.fail(late, "too late")
        assert (held.number, held.params, len(held.parts)) == (0, {"alpha": 0.5}, n + 1)
        assert bench.ledger.claim(held.worker_id) == held
    for _ in range(2):
        bench.ledger.fail(held, "ValueError: 2")
    assert bench.ledger.failures() == [(0, "3 attempts failed; the last: ValueError: 2")]
    assert bench.ledger.counts().failed == 1
    told = [(e["trial"], e["attempt"], e["reason"]) for e in bench.ledger.events(EventKind.RETRY)]
    assert told == [(0, 1, "ValueError: 0"), (0, 2, "ValueError: 1")]
    bench.ledger.finish(claim(bench), {"score": 1.0})
    assert state_of(bench, 1) is TrialState.COMPLETE


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_deaths_and_limits_between_them_forget_no_retry(kind, make):
    bench = make(kind, max_retry=1)
    bench.ledger.fail(claim(bench), "ValueError")
    bench.ledger.release(claim(bench), {}, "preempted")
    bench.ledger.reap(claim(bench).worker_id, "killed")
    bench.ledger.exceed(claim(bench, "w2").worker_id, "too long", 0, OnLimit.RETRY, 5)
    bench.ledger.fail(claim(bench, "w3"), "ValueError")
    assert state_of(bench, 0) is TrialState.FAIL


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_status_shows_attempts_without_progress_until_there_is_some(kind, make):
    bench = make(kind, max_attempts=9)

    def shown() -> dict[int, tuple[int, str]]:
        status = take_status(bench.record)
        return {n: (a.without_progress, a.reason) for n, a in status.attempts.items()}

    assert shown() == {}
    for n, how in enumerate(("SIGTERM", "SIGUSR2", "killed by SIGKILL")):
        end(bench, claim(bench, f"w{n}"), how, {})
        assert shown() == {0: (n + 1, how)}
    held = claim(bench, "w4")
    assert shown() == {0: (3, "killed by SIGKILL")}
    bench.ledger.save_params(held, {"alpha": 0.5}, SPACE)
    bench.ledger.save(held, {0: PART})
    assert shown() == {}
    end(bench, held, "SIGTERM", {})
    assert shown() == {}
    end(bench, claim(bench, "w5"), "SIGTERM", {})
    assert shown() == {0: (1, "SIGTERM")}
    bench.ledger.finish(claim(bench, "w6"), {"score": 1.0}, {1: PART, 2: PART})
    assert shown() == {}


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize(
    ("then", "retries", "states"),
    [
        (OnLimit.FAIL, 0, [TrialState.FAIL]),
        (OnLimit.PRUNE, 0, [TrialState.PRUNED]),
        (OnLimit.RETRY, 1, [TrialState.WAITING, TrialState.FAIL]),
        (OnLimit.RETRY, 3, [TrialState.WAITING] * 3 + [TrialState.FAIL]),
    ],
)
@pytest.mark.parametrize("parts", [0, 1])
def test_a_limit_ends_the_trial_that_exceeded_it_as_asked(kind, then, retries, states, parts, make):
    bench = make(kind, max_attempts=20)
    for n, state in enumerate(states):
        held = claim(bench, f"w{n}")
        # A part more each time: progress is no reason to exceed limits for ever.
        bench.ledger.save(held, {n: PART} if parts else {})
        for _ in range(2):  # as if the first answer had been lost
            bench.ledger.exceed(f"w{n}", "limits.x", held.number, then, retries)
        assert state_of(bench, 0) is state
    counts = bench.ledger.counts()
    assert (counts.held, counts.pruned) == (0, int(then is OnLimit.PRUNE))
    assert len(bench.ledger.events(EventKind.LIMIT)) == len(states)
    assert bench.ledger.events(EventKind.DEATH) == []


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("then", list(OnLimit))
def test_the_next_trial_of_a_worker_does_not_pay_for_the_one_before(kind, then, make):
    bench = make(kind, max_attempts=1)
    first = claim(bench, "w")
    bench.ledger.finish(first, {"score": 1.0})
    second = claim(bench, "w")
    bench.ledger.exceed("w", "limits.x", first.number, then, 1)
    assert state_of(bench, second.number) is TrialState.WAITING
    assert bench.ledger.events(EventKind.LIMIT) == []
    assert claim(bench, "v").number == second.number
    assert bench.ledger.failures() == []


# Clocks -----------------------------------------------------------------------------------------


class Clock:
    """The clock of a ledger, which is set to another time."""

    def __init__(self, bench: SqlBench | MemoryBench) -> None:
        self.bench, self.ahead_s = bench, 0.0
        if isinstance(bench, SqlBench):
            self.truth = bench.storage.now_sql

    def add(self, seconds: float) -> None:
        self.ahead_s += seconds
        if isinstance(self.bench, SqlBench):
            self.bench.storage.now_sql = self.truth + self.ahead_s
        else:
            self.bench.now += seconds


def run_of(kind: str, make: Callable[[str], Any]) -> tuple[Any, Clock, float]:
    """A ledger with leases of a minute, two workers that hold a trial each, and the clock."""
    bench = make(kind)
    bench.restart(ago_s=1e6)
    clock = Clock(bench)
    for worker in ("a", "b"):
        bench.ledger.register(worker, WorkerRun("host", 1))
        claim(bench, worker)
    bench.ledger.register("c", WorkerRun("host", 1))
    return bench, clock, bench.ledger.lease_s


@pytest.fixture(params=["sqlite", "postgresql"])
def clocked(request, make):
    """A ledger in a database, whose clock may be set back as well."""
    return run_of(request.param, make)


@pytest.fixture(params=ALL_KINDS)
def ticking(request, make):
    """A ledger of any kind, whose clock goes on."""
    return run_of(request.param, make)


def deaths(bench: Any) -> list[str]:
    return [event["worker"] for event in bench.ledger.events(EventKind.DEATH)]


def test_who_gives_no_sign_is_dead_and_nobody_else(ticking):
    bench, clock, lease_s = ticking
    for _ in range(3):
        clock.add(0.4 * lease_s)
        bench.ledger.beat(["b", "c"])
    assert claim(bench, "c").number == 0
    assert deaths(bench) == ["a"]


@pytest.mark.parametrize("jump", [-1000.0, -10.0, -1.5, 1.5, 10.0, 1000.0])
def test_a_clock_that_is_set_kills_nobody_and_the_dead_are_still_found(clocked, jump):
    bench, clock, lease_s = clocked
    bench.ledger.note_outage()  # an earlier one, by the clock of then
    clock.add(2.0 * lease_s)
    bench.ledger.beat(["a", "b", "c"])
    clock.add(jump * lease_s)
    # Before any launcher has told it, whoever claims has missed as much as all others.
    assert claim(bench, "c").number == 2
    bench.ledger.finish(bench.ledger.claim("c"), {"score": 1.0})
    # The launcher of c sees the jump first; a and b have not been renewed yet.
    bench.ledger.note_outage()
    bench.ledger.beat(["c"])
    claim(bench, "c")
    assert deaths(bench) == []
    # b is alive; a has died with its launcher, and is found two leases later at the latest.
    for _ in range(9):
        bench.ledger.beat(["b", "c"])
        clock.add(0.4 * lease_s)
    bench.ledger.beat(["b", "c"])
    bench.ledger.finish(bench.ledger.claim("c"), {"score": 1.0})
    assert claim(bench, "c").number == 0
    assert deaths(bench) == ["a"]


def test_a_lease_that_all_have_missed_is_nobodys_death(clocked):
    bench, clock, lease_s = clocked
    # The machine slept for two leases: workers wake before or after their launcher.
    clock.add(2.0 * lease_s)
    claim(bench, "c")
    bench.ledger.note_outage()
    bench.ledger.beat(["c"])
    bench.ledger.finish(bench.ledger.claim("c"), {"score": 1.0})
    claim(bench, "c")
    assert deaths(bench) == []
    assert bench.ledger.beat(["a", "b", "c"]).dismissed == frozenset()


def test_who_was_halted_while_others_went_on_has_lost_its_trial_and_goes_on_with_another(clocked):
    bench, clock, lease_s = clocked
    halted = bench.ledger.claim("a")
    for _ in range(5):
        clock.add(0.4 * lease_s)
        bench.ledger.beat(["b", "c"])
    taken = claim(bench, "c")
    assert taken.trial_id == halted.trial_id
    # It is back before its launcher.
    with pytest.raises(LostLeaseError):
        bench.ledger.finish(halted, {"score": 0.0})
    # Nor is it taken for dead again before its launcher has had the time of a lease.
    clock.add(lease_s)
    assert claim(bench, "a").number == 2
    bench.ledger.beat(["b", "c"])
    clock.add(0.8 * lease_s)
    bench.ledger.beat(["b", "c"])
    bench.ledger.finish(taken, {"score": 1.0})
    claim(bench, "c")
    assert deaths(bench) == ["a"]


def test_who_was_not_heard_lately_itself_judges_nobody(ticking):
    bench, clock, lease_s = ticking
    clock.add(0.45 * lease_s)
    bench.ledger.beat(["c"])
    # From here on the database is locked, or the launcher of all does not come to its turn.
    clock.add(0.6 * lease_s)
    for _ in range(2):  # A claim is no sign of its launcher's either.
        bench.ledger.finish(claim(bench, "c"), {"score": 1.0})
    assert deaths(bench) == []
    bench.ledger.beat(["b", "c"])
    assert claim(bench, "c").number == 0
    assert deaths(bench) == ["a"]


WRITES: dict[str, Callable[[Any, Claim], object]] = {
    "beat": lambda ledger, _: ledger.beat(["c"]),
    "claim": lambda ledger, _: ledger.claim("c"),
    "register": lambda ledger, _: ledger.register("d", WorkerRun("host", 1)),
    "save": lambda ledger, held: ledger.save(held, {0: PART}),
    "finish": lambda ledger, held: ledger.finish(held, {"score": 1.0}),
    "release": lambda ledger, held: ledger.release(held),
}


@pytest.mark.parametrize("name", WRITES)
def test_of_two_launchers_that_waited_the_luckier_one_does_not_judge_the_other(
    name, clocked, monkeypatch
):
    bench, clock, lease_s = clocked
    held = bench.ledger.claim("a")
    # The launcher of b waits from here on, and whoever writes is let in after a while.
    clock.add(0.7 * lease_s)
    waited = itertools.count(0.0, 0.7 * lease_s).__next__
    with monkeypatch.context() as patched:
        for module in (budget, workers):
            patched.setattr(module, "awake_s", waited)
        WRITES[name](bench.ledger, held)
    bench.ledger.beat(["a", "c"])
    clock.add(0.35 * lease_s)
    if name != "claim":
        claim(bench, "c")
    assert deaths(bench) == []
    assert len(bench.ledger.events(EventKind.OUTAGE)) == 1
    # It is let in at last; then it dies.
    bench.ledger.beat(["a", "b", "c"])
    for _ in range(3):
        clock.add(0.4 * lease_s)
        bench.ledger.beat(["a", "c"])
    bench.ledger.finish(bench.ledger.claim("c"), {"score": 1.0})
    assert claim(bench, "c").number == 1
    assert deaths(bench) == ["b"]


@pytest.mark.parametrize("name", WRITES)
def test_whoever_waits_for_a_locked_file_tells_so(name, make, tmp_path, monkeypatch):
    bench = make("sqlite")
    held = claim(bench, "a")
    began = threading.Event()
    late_s = 0.2

    def begin() -> float:
        began.set()
        return awake_s()

    for module in (budget, workers):
        monkeypatch.setattr(module, "awake_s", begin)
    monkeypatch.setattr(budget, "_LATE", late_s / bench.ledger.lease_s)
    other = sqlite3.connect(tmp_path / "hpo.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")

    def hold() -> None:
        began.wait()
        time.sleep(1.5 * late_s)
        other.execute("ROLLBACK")

    thread = threading.Thread(target=hold)
    thread.start()
    WRITES[name](bench.ledger, held)
    thread.join()
    other.close()
    assert bench.ledger.events(EventKind.OUTAGE)
