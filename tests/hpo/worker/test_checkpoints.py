"""When scores of parts are stored: at a checkpoint, with the result, or when a worker leaves."""

from collections.abc import Sequence
from functools import partial

import pytest
from optuna.distributions import FloatDistribution

from hpo.errors import ObjectiveError, StopRequested
from hpo.records import WALL_KEY, Judged, WorkerRun
from hpo.simulation.call_costs import price_calls
from hpo.simulation.memory_ledger import MemoryLedger
from hpo.worker.loop import Draw, ScorePart, run_parts, work

SPACE = {"x": FloatDistribution(0.0, 1.0)}


class Five:
    def __init__(self) -> None:
        self.parts: Sequence[str] = tuple("abcde")

    def combine(self, parts):
        return {"score": sum(part["score"] for part in parts)}

    def judge(self, scores):
        return Judged([scores["score"]])


@pytest.fixture
def ledger():
    ledger = MemoryLedger(1, lease_s=60.0, max_deaths=3, max_failures=1, clock=lambda: 0.0)
    ledger.register("w", WorkerRun("here", 1))
    return ledger


def begin(ledger, checkpoint_s):
    """Start a worker's loop and answer its draw; returns the loop before its first part."""
    steps = work(ledger, "w", partial(run_parts, ledger, Five(), SPACE, checkpoint_s, None), 1.0)
    assert isinstance(steps.send(None), Draw)
    return steps, steps.send({"x": 0.5})


def stored_before_each_part(ledger, checkpoint_s, part_s=4.0):
    steps, step = begin(ledger, checkpoint_s)
    seen = []
    while isinstance(step, ScorePart):
        seen.append(ledger.units[0].stored)
        step = next_step(steps, {"score": 1.0, WALL_KEY: part_s})
    return seen


def next_step(steps, answer):
    try:
        return steps.send(answer)
    except StopIteration as ended:
        return ended.value


@pytest.mark.parametrize(
    ("checkpoint_s", "stored"),
    [(0.0, [0, 1, 2, 3, 4]), (10.0, [0, 0, 0, 3, 3]), (100.0, [0, 0, 0, 0, 0])],
)
def test_scores_are_stored_when_so_much_work_would_be_lost(ledger, checkpoint_s, stored):
    assert stored_before_each_part(ledger, checkpoint_s) == stored
    unit = ledger.units[0]
    assert (unit.state, unit.stored, sorted(unit.parts)) == ("finished", 5, [0, 1, 2, 3, 4])
    assert unit.scores == {"score": 5.0, WALL_KEY: 20.0}


def test_who_leaves_stores_what_is_scored(ledger):
    steps, _ = begin(ledger, 100.0)
    steps.send({"score": 1.0, WALL_KEY: 1.0})
    with pytest.raises(StopRequested):
        steps.throw(StopRequested("SIGTERM"))
    assert (ledger.units[0].stored, ledger.units[0].worker_id) == (1, None)
    again = ledger.claim("v")
    assert [part["score"] for part in again.parts] == [1.0]


def test_a_trial_that_fails_keeps_the_parts_before(ledger):
    steps, _ = begin(ledger, 100.0)
    steps.send({"score": 1.0, WALL_KEY: 1.0})
    assert isinstance(steps.throw(ObjectiveError("no")), Draw)  # of the next trial
    assert (ledger.units[0].state, ledger.units[0].stored) == ("failed", 1)


def test_a_short_trial_is_three_transactions_of_ten_statements():
    prices = [price_calls()[call] for call in ("claim", "save_params", "finish")]
    assert sum(price.transactions for price in prices) == 3
    assert sum(price.statements for price in prices) == 10
