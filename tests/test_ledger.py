"""The ledger's invariants, under any order of claims, deaths, late tells and time."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from hpo.errors import FailedStudyError, LostLeaseError
from hpo.ledger import Answer, Claim, Ledger
from hpo.storage import CLAIMS, open_storage
from hpo.study import Source, begin
from tests.conftest import make_spec

N_PARTS = 3
SPACE = {"alpha": FloatDistribution(0.0, 1.0)}


def begin_without_table(folder: Path, **changes):
    """A study whose objective is never called."""
    spec = make_spec(
        objective={"name": "tests.objectives:Parabola"},
        table=None,
        cv=None,
        estimator=None,
        **changes,
    )
    storage = open_storage(f"sqlite:///{folder / 'hpo.db'}", create=True)
    return begin(storage, spec, Source(str(folder / "x.toml"), (), None), None)


@pytest.fixture
def ledger(tmp_path):
    record = begin_without_table(tmp_path, trials=3, max_failures=1, max_deaths=2)
    yield record.ledger
    record.storage.engine.dispose()


def let_leases_run_out(ledger: Ledger) -> None:
    with ledger.storage.write() as c:
        c.execute(CLAIMS.update().values(lease_until=0.0))


def trial_of(ledger: Ledger, claim: Claim):
    return ledger.storage.get_trial(claim.trial_id)


def test_a_trial_goes_its_way(ledger):
    claim = ledger.claim("w1")
    assert (claim.number, claim.params, claim.parts) == (0, None, ())
    ledger.save_params(claim, {"alpha": 0.25}, SPACE)
    ledger.save_part(claim, 0, {"score": 1.5, "rmse_val": 2.0})
    ledger.finish(claim, {"score": 1.5, "rmse_val": 2.0})
    trial = trial_of(ledger, claim)
    assert trial.state is TrialState.COMPLETE
    assert trial.params == {"alpha": 0.25}
    assert trial.values == [1.5]
    assert trial.intermediate_values == {0: 1.5}
    assert trial.user_attrs["part 0"] == {"score": 1.5, "rmse_val": 2.0}
    assert trial.user_attrs["rmse_val"] == 2.0
    assert trial.user_attrs["worker"] == "w1"
    assert ledger.counts().finished == 1


def test_the_budget_is_claimed_exactly(ledger):
    claims = [ledger.claim(f"w{i}") for i in range(3)]
    assert [claim.number for claim in claims] == [0, 1, 2]
    assert ledger.claim("w3") is Answer.WAIT
    for claim in claims:
        ledger.finish(claim, {"score": 0.0})
    assert ledger.claim("w3") is Answer.DONE


def test_a_trial_given_back_goes_on_with_its_parameters_at_its_next_part(ledger):
    claim = ledger.claim("w1")
    ledger.save_params(claim, {"alpha": 0.25}, SPACE)
    ledger.save_part(claim, 0, {"score": 1.5})
    ledger.give_back(claim)
    assert trial_of(ledger, claim).state is TrialState.WAITING
    again = ledger.claim("w2")
    assert again.trial_id == claim.trial_id
    assert again.params == {"alpha": 0.25}
    assert again.parts == ({"score": 1.5},)
    assert trial_of(ledger, claim).state is TrialState.RUNNING


def test_a_dead_workers_trial_is_taken_over_and_the_zombie_is_fenced_off(ledger):
    claim = ledger.claim("zombie")
    let_leases_run_out(ledger)
    again = ledger.claim("w2")
    assert again.trial_id == claim.trial_id
    assert again.attempt > claim.attempt
    for act in (
        lambda: ledger.save_params(claim, {"alpha": 0.5}, SPACE),
        lambda: ledger.save_part(claim, 0, {"score": 0.0}),
        lambda: ledger.finish(claim, {"score": 0.0}),
        lambda: ledger.fail(claim, "too late"),
        lambda: ledger.give_back(claim),
    ):
        with pytest.raises(LostLeaseError):
            act()
    ledger.finish(again, {"score": 7.0})
    assert trial_of(ledger, again).values == [7.0]
    with pytest.raises(LostLeaseError):
        ledger.finish(again, {"score": 8.0})


def test_a_renewed_lease_is_not_reaped(ledger):
    ledger.enter("w1", "host", 1)
    ledger.claim("w1")
    let_leases_run_out(ledger)
    ledger.renew("w1")
    assert ledger.claim("w2").number == 1


def test_a_buried_workers_trial_is_free_at_once(ledger):
    ledger.enter("w1", "host", 1)
    claim = ledger.claim("w1")
    ledger.bury("w1", "killed by SIGKILL")
    assert ledger.claim("w2").trial_id == claim.trial_id
    death = next(event for event in ledger.events() if event["kind"] == "death")
    assert (death["trial"], death["worker"], death["reason"]) == (0, "w1", "killed by SIGKILL")


def test_a_trial_that_kills_its_workers_fails_and_another_takes_its_unit(ledger):
    first = ledger.claim("w1")
    ledger.bury("w1", "killed by SIGKILL")
    ledger.claim("w2")
    ledger.bury("w2", "killed by SIGSEGV")
    trial = trial_of(ledger, first)
    assert trial.state is TrialState.FAIL
    assert trial.user_attrs["failure"] == "2 workers died on it; the last: killed by SIGSEGV"
    claims = [ledger.claim("w3") for _ in range(3)]
    assert [claim.number for claim in claims] == [1, 2, 3]


def test_failed_trials_do_not_count_but_too_many_stop_the_study(ledger):
    ledger.fail(ledger.claim("w1"), "ValueError: alpha")
    ledger.fail(ledger.claim("w1"), "ValueError: beta")
    assert ledger.counts().failed == 2
    with pytest.raises(FailedStudyError, match=r"2 trials failed.*trial 1: ValueError: beta"):
        ledger.claim("w1")


def test_a_score_that_is_not_finite_is_stored_as_nothing(ledger):
    claim = ledger.claim("w1")
    ledger.save_part(claim, 0, {"score": 1.0, "r2_val": float("nan")})
    assert trial_of(ledger, claim).user_attrs["part 0"] == {"score": 1.0, "r2_val": None}


def test_threads_that_claim_at_once_share_the_budget(tmp_path):
    record = begin_without_table(tmp_path, trials=24)
    ledger, numbers = record.ledger, []

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
    record.storage.engine.dispose()


class LedgerMachine(RuleBasedStateMachine):
    """Workers claim, score, die, come back from the dead; the ledger keeps its word."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.record = begin_without_table(
            Path(self.folder.name), trials=4, max_deaths=2, max_failures=3
        )
        self.ledger = self.record.ledger
        self.live: dict[int, Claim] = {}
        self.lost: list[Claim] = []
        self.scored: dict[int, int] = {}
        self.finished: dict[int, float] = {}
        self.stopped = False
        self.next_worker = 0

    def teardown(self) -> None:
        self.record.storage.remove_session()
        self.record.storage.engine.dispose()
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
            self.stopped = True
            return
        if isinstance(claim, Claim):
            assert claim.trial_id not in self.live, "held by two workers"
            assert claim.trial_id not in self.finished, "finished and handed out again"
            assert len(claim.parts) == self.scored.get(claim.trial_id, 0), "a part score was lost"
            self.live[claim.trial_id] = claim
        elif claim is Answer.DONE:
            assert len(self.finished) == 4

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def score_part(self, data) -> None:
        claim = self.pick(data)
        part = self.scored.get(claim.trial_id, 0)
        if part < N_PARTS:
            self.ledger.save_part(claim, part, {"score": float(part)})
            self.scored[claim.trial_id] = part + 1

    @precondition(lambda self: self.live)
    @rule(data=st.data(), score=st.floats(-1e6, 1e6))
    def finish(self, data, score) -> None:
        claim = self.pick(data)
        self.ledger.finish(claim, {"score": score})
        self.finished[claim.trial_id] = score
        self.lost.append(self.live.pop(claim.trial_id))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def fail(self, data) -> None:
        claim = self.pick(data)
        self.ledger.fail(claim, "refused")
        self.lost.append(self.live.pop(claim.trial_id))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def give_back(self, data) -> None:
        claim = self.pick(data)
        self.ledger.give_back(claim)
        self.lost.append(self.live.pop(claim.trial_id))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def die_and_be_buried(self, data) -> None:
        claim = self.pick(data)
        self.ledger.bury(claim.worker_id, "killed")
        self.lost.append(self.live.pop(claim.trial_id))

    @precondition(lambda self: self.live)
    @rule()
    def all_leases_run_out_and_somebody_claims(self) -> None:
        let_leases_run_out(self.ledger)
        self.lost.extend(self.live.values())
        self.live.clear()
        self.claim()

    @precondition(lambda self: self.lost)
    @rule(data=st.data())
    def zombie_tells(self, data) -> None:
        zombie = data.draw(st.sampled_from(self.lost))
        with pytest.raises(LostLeaseError):
            self.ledger.finish(zombie, {"score": -1e9})

    @invariant()
    def the_books_agree(self) -> None:
        counts = self.ledger.counts()
        assert counts.finished == len(self.finished) <= counts.budget
        assert counts.finished + counts.held + counts.free <= counts.budget
        assert counts.held == len(self.live)
        with self.ledger.storage.read() as c:
            places = {row.trial_id: row for row in c.execute(sa.select(CLAIMS)).all()}
        trials = self.ledger.storage.get_all_trials(self.ledger.study_id, deepcopy=False)
        assert {trial._trial_id for trial in trials} == places.keys(), "a trial without a unit"
        assert [trial.number for trial in trials] == list(range(len(trials)))
        for trial in trials:
            row = places[trial._trial_id]
            held = row.state == "open" and row.worker_id is not None
            expected = {
                "finished": TrialState.COMPLETE,
                "failed": TrialState.FAIL,
                "open": TrialState.RUNNING if held else TrialState.WAITING,
            }[row.state]
            assert trial.state is expected
            if trial._trial_id in self.finished:
                assert trial.values == [self.finished[trial._trial_id]]


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
