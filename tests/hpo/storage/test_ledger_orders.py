"""Ledgers of every kind under any order of calls."""

from __future__ import annotations

import contextlib
import math
import random
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from optuna.trial import TrialState

from hpo.errors import FailedStudyError, LostLeaseError
from hpo.records import Answer, Beat, Claim, OnLimit, WorkerRun
from tests.support.ledgers import ALL_KINDS, ENDED, N_PARTS, SPACE, find_kind, make_sqlite_bench


class LedgerMachine(RuleBasedStateMachine):
    """Workers claim, score, die, come back from the dead; the ledger keeps its word."""

    make_bench = staticmethod(make_sqlite_bench)

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.bench = self.make_bench(
            Path(self.folder.name), trials=4, max_deaths=2, max_failures=3, max_retry=1
        )
        self.ledger = self.bench.ledger
        self.live: dict[int, Claim] = {}
        self.lost: list[Claim] = []
        self.told: list[Claim] = []
        self.refused: Counter[int] = Counter()
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
            self.ledger.save(claim, {part: {"score": float(part)}})
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
        state, held = self.bench.places()[claim.trial_id]
        again = self.refused[claim.trial_id] < self.ledger.max_retry
        assert (state, held) == (("open", False) if again else ("failed", True))
        self.refused[claim.trial_id] += 1

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
        assert self.ledger.set_budget(budget).taken == [claim.number for claim in beyond]
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
    if isinstance(answer, Beat):
        return answer.stop, sorted(answer.dismissed), answer.counts
    return replace(answer, trial_id=-1) if isinstance(answer, Claim) else answer


def any_call(source: random.Random) -> tuple[str, str, tuple[Any, ...]]:
    """A method, whom it concerns (a worker, a claim or all), and its other arguments."""
    scores = {"score": source.random(), "r2": math.nan}
    trial, n_retries = source.randrange(4), source.randrange(3)
    calls: list[tuple[str, str, tuple[Any, ...]]] = [
        *[("worker", "claim", ())] * 3,
        ("worker", "register", (WorkerRun("host", 1),)),
        ("worker", "deregister", ("done",)),
        ("workers", "beat", ()),
        ("worker", "exceed", ("too long", trial, source.choice(list(OnLimit)), n_retries)),
        ("worker", "reap", ("killed",)),
        *[("claim", "save", ({source.randrange(N_PARTS): scores},))] * 2,
        ("claim", "save_params", ({"alpha": scores["score"]}, SPACE)),
        ("claim", "finish", (scores,)),
        ("claim", "finish", (scores, {}, "worse than most")),
        ("claim", "fail", ("refused",)),
        ("claim", "release", ()),
        ("claim", "release", ({}, "preempted")),
        ("all", "set_budget", (source.randrange(3, 12),)),
        ("all", "stop", (source.choice([None, None, "gently", "now"]),)),
    ]
    return source.choice(calls)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", [kind for kind in ALL_KINDS if kind != "sqlite"])
def test_all_ledgers_answer_the_same_calls_alike(kind, seed, tmp_path, request):
    benches = [
        find_kind(each, request)(
            tmp_path, trials=5, max_failures=4, max_deaths=3, max_attempts=4, max_retry=seed % 3
        )
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
            if whom == "workers":
                subject = ([worker, "w0"],)
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
    kinds = {event["kind"] for event in events[0]}
    assert {"budget", "stop"} < kinds <= {"budget", "death", "limit", "retry", "stop"}
    assert len({repr(bench.ledger.failures()) for bench in benches}) == 1
    for bench in benches:
        bench.close()


# Databases take their time; what an order of calls can come to does not depend on them much.
EXAMPLES = {"memory": 100, "sqlite": 25, "postgresql": 12}


@pytest.mark.slow
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
