"""Whoever follows a study sees what somebody sees who reads it anew, whatever happens to it."""

from __future__ import annotations

import functools
import gc
import math
import random
import time

import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.search_space import intersection_search_space
from optuna.trial import TrialState, create_trial

from hpo.records import Claim, ResolvedTrial
from hpo.spec.search import SamplerSpec
from hpo.spec.space import distributions
from hpo.storage.best import read_best_ids
from hpo.storage.schema import TRIALS
from hpo.storage.trial_reader import read_changes, read_position
from hpo.worker.pruner import CompleteParts
from hpo.worker.sampler import draw, trial_seed
from hpo.worker.trial_cache import N_BEST, TrialHistory
from tests.support.ledgers import begin_without_table
from tests.support.trials import draw_by_tpe, show_failed

SPACE = {
    "x": {"type": "float", "low": 0.0, "high": 1.0},
    "depth": {"type": "int", "low": 1, "high": 9, "step": 2},
    "kind": {"type": "categorical", "choices": ["a", "b", True]},
}
N_PARTS = 3
# Five latest trials and the best ones: most of a study of this file's length is not seen.
SMALL, LARGE = N_BEST + 5, 500
BUDGET = 1000


class Follower:
    """A study with workers of its own and of plain Optuna, and readers that follow it."""

    def __init__(self, url, name, source):
        self.record = begin_without_table(
            url,
            name=name,
            space=SPACE,
            trials=BUDGET,
            max_failures=BUDGET,
            max_deaths=2,
            lease_s=3600.0,
        )
        self.ledger, self.source = self.record.ledger, source
        self.space = distributions(self.record.spec.space)
        self.histories = {limit: self.make_history(limit) for limit in (SMALL, LARGE)}
        self.parts = CompleteParts(self.record, N_PARTS)
        self.foreign = self.record.optuna_study()
        self.foreign.sampler = RandomSampler(seed=source.randrange(2**32))
        self.held: list[Claim] = []
        self.saved: dict[int, int] = {}
        self.asked: list[optuna.Trial] = []
        self.n_workers = 0
        self.happened: set[str] = set()
        # The oldest trial of all, which somebody holds to the end.
        self.oldest = self.ledger.claim("oldest")

    def make_history(self, limit):
        return TrialHistory(self.record.storage, self.record.study_id, limit)

    # What can happen to it ----------------------------------------------------------------------

    def claim(self):
        self.n_workers += 1
        claim = self.ledger.claim(f"w{self.n_workers}")
        if isinstance(claim, Claim):
            self.held.append(claim)
            if claim.params is None and self.source.random() < 0.8:
                params = {name: self.pick_value(at) for name, at in self.space.items()}
                self.ledger.save_params(claim, params, self.space)

    def pick_value(self, distribution):
        if hasattr(distribution, "choices"):
            return self.source.choice(distribution.choices)
        if isinstance(distribution, FloatDistribution):
            return self.source.random()
        return self.source.randrange(1, 10, 2)

    def take(self):
        """Take one of the trials in hand: they come to their ends in any order."""
        return self.held.pop(self.source.randrange(len(self.held))) if self.held else None

    def next_parts(self, claim, n):
        first = self.saved.get(claim.trial_id, 0)
        self.saved[claim.trial_id] = last = min(first + n, N_PARTS)
        return {part: {"score": self.source.random()} for part in range(first, last)}

    def finish(self):
        if (claim := self.take()) and claim.trial_id in self.drawn():
            # Few values, so that many are equal.
            score = {"score": self.source.randrange(8) / 8}
            parts, settled = self.next_parts(claim, N_PARTS), None
            if self.source.random() < 0.3:
                found = [{"score": self.source.random()} for _ in range(N_PARTS)]
                settled = ResolvedTrial({"max_iter": 7}, {"max_iter": IntDistribution(1, 9)}, found)
            self.ledger.finish(claim, score, parts, settled=settled)

    def prune(self):
        if (claim := self.take()) and claim.trial_id in self.drawn():
            parts = self.next_parts(claim, 1)
            self.ledger.finish(claim, {"wall_s": 1.0}, parts, pruned="worse")

    def drawn(self):
        trials = self.record.optuna_study().get_trials(deepcopy=False)
        return {trial._trial_id for trial in trials if trial.params}

    def fail(self):
        if claim := self.take():
            self.ledger.fail(claim, "refused", self.next_parts(claim, 1))

    def release(self):
        if claim := self.take():
            self.ledger.release(claim, self.next_parts(claim, 1))

    def die(self):
        if claim := self.take():
            self.ledger.reap(claim.worker_id, "killed")

    def lower_budget(self):
        counts = self.ledger.counts()
        self.ledger.set_budget(counts.finished + self.source.randrange(1, 3))
        # Whose trial was taken away cannot tell of it any more.
        free = {t.number for t in self.foreign.get_trials() if t.state is TrialState.WAITING}
        self.held = [claim for claim in self.held if claim.number not in free]
        self.ledger.set_budget(BUDGET)

    def ask(self):
        if self.ledger.counts().free:
            return  # plain Optuna would take it
        trial = self.foreign.ask()
        self.asked.append(trial)
        # One parameter after another: the others may come later, or never.
        trial.suggest_float("x", 0.0, self.source.choice([1.0, 1.0, 1.0, 2.0]))

    def suggest(self):
        if self.asked:
            self.source.choice(self.asked).suggest_int("depth", 1, 9, step=2)

    def tell(self):
        if self.asked:
            trial = self.asked.pop(self.source.randrange(len(self.asked)))
            end = self.source.choice([TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
            if end is TrialState.COMPLETE:
                self.foreign.tell(trial, self.source.choice([0.25, math.inf, -math.inf]))
            else:
                trial.report(0.5, 3)
                self.foreign.tell(trial, state=end)

    def add(self):
        space: dict[str, BaseDistribution] = dict.fromkeys(
            ("x", "extra"), FloatDistribution(0.0, 1.0)
        )
        added = create_trial(value=0.5, params={"x": 0.5, "extra": 0.5}, distributions=space)
        self.foreign.add_trial(added)

    def enqueue(self):
        self.foreign.enqueue_trial({"x": 0.125})

    OWN = ("claim",) * 8 + ("finish",) * 7 + ("prune", "fail", "release", "die", "lower_budget")
    FOREIGN = ("ask", "suggest", "tell", "add", "enqueue")

    def step(self, kinds):
        kind = self.source.choice(kinds)
        self.happened.add(kind)
        getattr(self, kind)()

    # What is seen of it -------------------------------------------------------------------------

    def views(self):
        """Yield what each reader sees, and what is stored."""
        # Not by a study of Optuna's, which forgets one of two trials of the same number.
        trials = self.record.storage.get_all_trials(self.record.study_id, deepcopy=False)
        for limit, followed in self.histories.items():
            visible = visible_trials(trials, limit)
            spaces = intersection_search_space(visible, include_pruned=True)
            for history in (followed, self.make_history(limit)):
                history.update()
                seen = history.study.get_trials(deepcopy=False)
                yield as_samplers_need_them(seen), as_samplers_need_them(show_failed(visible))
                yield history.common_space(), spaces
        finished = [
            [trial.intermediate_values[part] for part in range(N_PARTS)]
            for trial in trials
            if trial.state is TrialState.COMPLETE and len(trial.intermediate_values) == N_PARTS
        ]
        for parts in (self.parts, CompleteParts(self.record, N_PARTS)):
            yield sorted(parts.read().tolist()), sorted(finished)


def visible_trials(trials, limit):
    """Return the best and the latest trials that have ended, and all others, as it is written."""
    trials = sorted(trials, key=lambda trial: (trial.number, trial._trial_id))
    ended = [trial for trial in trials if trial.state.is_finished()]
    if len(ended) > limit:
        latest = ended[N_BEST - limit :]
        complete = (trial for trial in ended if trial.state is TrialState.COMPLETE)
        best = sorted(complete, key=lambda trial: trial.value)[:N_BEST]
        ended = [trial for trial in best if trial not in latest] + latest
    going_on = [trial for trial in trials if not trial.state.is_finished()]
    return sorted(ended + going_on, key=lambda trial: (trial.number, trial._trial_id))


def as_samplers_need_them(trials):
    return [
        (
            t.number,
            t.state,
            t.values,
            t.params,
            t.distributions,
            t.intermediate_values if t.state is TrialState.PRUNED else {},
        )
        for t in trials
    ]


@pytest.fixture
def follow_at():
    """Begin studies in a database, and follow them."""
    opened = []

    def begin(url, name, source):
        opened.append(Follower(url, name, source))
        return opened[-1]

    yield begin
    for follower in opened:
        follower.record.storage.remove_session()
        follower.record.storage.engine.dispose()


@pytest.fixture
def follow(follow_at, url):
    """Begin studies side by side in one database of each kind, and follow them."""
    return functools.partial(follow_at, url)


@pytest.fixture
def read_anew(monkeypatch):
    """Count how often a follower was told to read everything anew."""
    count = []

    def read(c, study_id, position):
        found = read_changes(c, study_id, position)
        count.extend([1] if found is None else [])
        return found

    for module in ("hpo.worker.trial_cache", "hpo.worker.pruner"):
        monkeypatch.setattr(f"{module}.read_changes", read)
    return count


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_follower_sees_what_a_newcomer_sees(follow, read_anew, seed):
    source = random.Random(seed)
    studies = [follow("one", source), follow("two", source)]
    for _ in range(90):
        study = source.choice(studies)
        for _ in range(source.randrange(1, 11)):
            study.step(kinds(study))
        for seen, stored in study.views():
            assert seen == stored
    for study in studies:
        assert study.happened == {*study.OWN, *study.FOREIGN}
        trials = study.foreign.get_trials(deepcopy=False)
        assert {trial.state for trial in trials} == set(TrialState)
        assert trials[0].state is TrialState.RUNNING
        assert sum(trial.state.is_finished() for trial in trials) > SMALL
    assert not read_anew, "nothing appeared late"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_trial_that_appears_late_is_seen(postgres_url, follow_at, read_anew, seed):
    source = random.Random(seed)
    study = follow_at(postgres_url, "one", source)
    engine = sa.create_engine(study.record.storage.engine.url)
    for turn in range(4):
        for _ in range(20):
            study.step(study.OWN)
        assert all(seen == stored for seen, stored in study.views())
        n_before = len(read_anew)
        with engine.connect() as late:
            # Without the lock that Optuna and the ledger take, and with the number of another one.
            number = len(study.foreign.get_trials(deepcopy=False))
            row = {"study_id": study.record.study_id, "number": number, "state": "FAIL"}
            late.execute(TRIALS.insert(), row)
            for other in range(study.ledger.counts().free + 1):  # the last one is a new one
                study.ledger.claim(f"meanwhile-{turn}-{other}")
            if turn % 2:  # somebody who comes at this moment
                study.histories[LARGE] = study.make_history(LARGE)
            for _ in range(10):
                study.step(study.OWN)
                assert all(seen == stored for seen, stored in study.views())
            late.commit()
        # The server may have transactions of its own for a moment.
        deadline = time.monotonic() + 60.0
        while not all(seen == stored for seen, stored in study.views()):
            assert time.monotonic() < deadline
        assert len(read_anew) - n_before == len(study.histories) + 1, "each follower once"
    engine.dispose()


@pytest.mark.slow
def test_tpe_draws_what_optuna_draws_from_all_that_is_stored(follow):
    study = follow("one", random.Random(5))
    history, sampler = study.histories[LARGE], study.record.spec.sampler
    for turn in range(25):
        for _ in range(6):
            study.step(kinds(study))
        claim = study.ledger.claim(f"drawing-{turn}")
        if claim.params is not None:
            continue
        drawn = draw(history, claim.number, study.space, sampler, 7)
        stored = study.record.optuna_study().get_trials()
        assert drawn == draw_by_tpe(stored, study.space, trial_seed(7, claim.number))
    assert {"ask", "add", "enqueue", "prune", "fail"} <= study.happened


def kinds(study):
    return study.source.choice([study.OWN, study.OWN, study.FOREIGN])


@pytest.mark.slow
def test_what_changes_is_what_is_open_or_new(follow):
    study = follow("one", random.Random(0))
    ledger, record = study.ledger, study.record
    old = [ledger.claim(f"old-{i}") for i in range(4)]
    for _ in range(40):
        ledger.finish(ledger.claim("w"), {"score": 0.0})
    with record.storage.read() as c:
        position = read_position(c, record.study_id)
    ledger.finish(old.pop(2), {"score": 1.0})
    new = [ledger.claim("w"), ledger.claim("v")]
    ledger.finish(new[0], {"score": 2.0})
    expected = {study.oldest.trial_id: None} | {claim.trial_id: None for claim in old}
    expected |= {old[1].trial_id + 1: None, new[0].trial_id: 2.0, new[1].trial_id: None}
    with record.storage.read() as c:
        first = read_changes(c, record.study_id, position)
        assert first is not None
        changes, position = first
        second = read_changes(c, record.study_id, position)
        assert second is not None
        again, same = second
    open_ids = {study.oldest.trial_id, new[1].trial_id, *(claim.trial_id for claim in old)}
    assert [change.trial_id for change in changes] == sorted(expected)
    assert {change.trial_id for change in again} == position.open_ids == same.open_ids == open_ids


@pytest.mark.slow
@pytest.mark.parametrize("new", [False, True])
def test_a_follower_keeps_what_a_sampler_sees(follow, new):
    study = follow("one", random.Random(0))
    history = study.histories[SMALL]
    n_others = count_trials()
    for _ in range(150):
        claim = study.ledger.claim("w")
        study.ledger.finish(claim, {"score": study.source.random()})
        if not new:
            history.update()
    history.update()
    # The best ones, the latest ones, and the one that goes on.
    assert N_BEST <= count_trials() - n_others <= SMALL + 1


def count_trials():
    gc.collect()
    # Not isinstance, which asks things for their class: some of other packages warn then.
    return sum(issubclass(type(thing), optuna.trial.FrozenTrial) for thing in gc.get_objects())


def test_a_random_sampler_reads_nothing(follow):
    study = follow("one", random.Random(0))
    statements = []
    spec = SamplerSpec(name="random")
    sa.event.listen(
        study.record.storage.engine, "before_cursor_execute", lambda *a: statements.append(a[2])
    )
    drawn = [draw(study.histories[LARGE], n, study.space, spec, 0) for n in range(20)]
    assert len({params["x"] for params in drawn}) == 20
    assert not statements


@pytest.mark.slow
@pytest.mark.parametrize("maximise", [False, True])
def test_the_best_are_found_among_equal_and_infinite_scores(follow, maximise):
    study = follow("one", random.Random(0))
    values = [0.5, math.inf, -1.0, 0.5, -math.inf, 3.0, -1.0, math.inf, 0.0, -math.inf]
    for value in values:
        study.foreign.add_trial(create_trial(value=value))
    study.foreign.add_trial(create_trial(state=TrialState.FAIL))
    trials = [t for t in study.foreign.get_trials() if t.state is TrialState.COMPLETE]
    sign = -1.0 if maximise else 1.0
    expected = sorted(trials, key=lambda trial: (sign * trial.value, trial.number))
    for n in range(len(values) + 2):
        with study.record.storage.read() as c:
            found = read_best_ids(c, study.record.study_id, n, maximise=maximise)
        assert found == [trial._trial_id for trial in expected[:n]]
