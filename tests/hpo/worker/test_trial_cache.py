"""What samplers learn from is what the storage holds, however it is read."""

import math
import random
import sys

import optuna
import pytest
from optuna.trial import TrialState

from hpo.records import WorkerRun
from hpo.spec.space import distributions
from hpo.worker.sampler import draw, trial_seed
from hpo.worker.trial_cache import N_BEST, TrialHistory
from hpo.worker.worker import Worker
from tests.support.trials import draw_by_tpe, show_failed

SPACE = {
    "x": {"type": "float", "low": 0.0, "high": 1.0},
    "rate": {"type": "float", "low": 1e-3, "high": 1.0, "log": True},
    "depth": {"type": "int", "low": 1, "high": 9, "step": 2},
    "kind": {"type": "categorical", "choices": ["a", "b", True]},
}


MAXIMISED = {"objective": {"metric": "r2"}}


@pytest.fixture
def record(begin_study):
    return begin_study(space=SPACE, trials=4000, max_failures=1000)


def run_trials(record, history, n, source, workers=4):
    """Let workers draw and tell in any order; some trials fail, some go on."""
    space, sampler = distributions(record.spec.space), record.spec.sampler
    held = {}
    told = 0
    while told < n:
        worker = f"w{source.randrange(workers)}"
        if worker not in held:
            claim = held[worker] = record.ledger.claim(worker)
            if claim.params is None and source.random() < 0.9:
                params = draw(history, claim.number, space, sampler, 0)
                record.ledger.save_params(claim, params, space)
            continue
        claim = held.pop(worker)
        drawn = record.optuna_study().get_trials()[claim.number].params
        if source.random() < 0.1:
            record.ledger.fail(claim, "refused")
        elif not drawn or source.random() < 0.1:
            record.ledger.release(claim)
        else:
            record.ledger.finish(claim, {"score": source.random()})
            told += 1


def as_optuna_has_them(trials):
    return [
        (t.number, t.state, t.values, t.params, t.distributions, t.intermediate_values)
        for t in trials
    ]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_it_holds_what_the_storage_holds(record, seed):
    followed = TrialHistory(record.storage, record.study_id, 500)
    run_trials(record, followed, 40, random.Random(seed))
    for history in (followed, TrialHistory(record.storage, record.study_id, 500)):
        history.update()
        seen = history.study.get_trials()
        stored = record.optuna_study().get_trials()
        assert as_optuna_has_them(seen) == as_optuna_has_them(show_failed(stored))
        assert {trial.state for trial in stored} >= {TrialState.COMPLETE, TrialState.FAIL}


@pytest.mark.slow
def test_tpe_draws_what_plain_optuna_draws_of_the_same_trials(record):
    history = TrialHistory(record.storage, record.study_id, 500)
    run_trials(record, history, 60, random.Random(1))
    space, sampler = distributions(record.spec.space), record.spec.sampler
    for worker in ("new-1", "new-2"):
        claim = record.ledger.claim(worker)
        drawn = draw(history, claim.number, space, sampler, 7)
        stored = record.optuna_study().get_trials()
        others = [trial for trial in stored if trial.number != claim.number]
        assert drawn == draw_by_tpe(others, space, trial_seed(7, claim.number))


@pytest.mark.slow
def test_a_worker_learns_from_every_trial_before(begin_study):
    record = begin_study(
        trials=40,
        objective={"name": "tests.support.objectives:Parabola"},
        space=SPACE | {"alpha": {"type": "float", "low": 0.0, "high": 10.0}},
        table=None,
        cv=None,
        estimator=None,
    )
    Worker(record, record.open_objective()[1], "w").run(WorkerRun("host", 1))
    trials = record.optuna_study().get_trials()
    space = distributions(record.spec.space)
    for trial in trials:
        seed = trial_seed(record.spec.seed, trial.number)
        assert draw_by_tpe(trials[: trial.number], space, seed) == trial.params
    assert len(trials) == 40


@pytest.mark.slow
def test_a_long_history_is_the_best_trials_and_the_latest(record):
    history = TrialHistory(record.storage, record.study_id, 250)
    values = [random.Random(n).random() for n in range(300)]
    space = distributions(record.spec.space)
    for value in values:
        claim = record.ledger.claim("w")
        record.ledger.save_params(claim, {name: at_low(space[name]) for name in space}, space)
        record.ledger.finish(claim, {"score": value})
    claim = record.ledger.claim("w")
    history.update()
    seen = {trial.number for trial in history.study.get_trials()}
    latest = set(range(300 - (250 - N_BEST), 301))
    best = sorted(range(300), key=values.__getitem__)[:N_BEST]
    assert claim.number == 300
    assert seen == latest | set(best)
    assert set(best) - latest


@pytest.mark.slow
def test_without_a_limit_it_is_what_optuna_has(storage):
    study = optuna.create_study(
        study_name="plain", storage=storage, directions=["minimize", "maximize"]
    )
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    history = TrialHistory(storage, study._study_id, None, name="plain")
    source, asked = random.Random(3), []
    for turn in range(60):
        trial = study.ask()
        trial.suggest_float("x", 0.0, 1.0)
        trial.suggest_categorical("kind", ["a", None, 3])
        study._storage.set_trial_system_attr(trial._trial_id, "noted", [turn, "x"])
        asked.append(trial)
        for one in asked:
            for constraint in ("c", "d")[: source.randrange(3)]:
                if constraint not in one.constraints:
                    one.set_constraint(constraint, source.random() - 0.5)
        if len(asked) > 4:
            ended = asked.pop(source.randrange(len(asked)))
            state = source.choice([TrialState.COMPLETE, TrialState.FAIL])
            values = [source.random(), math.inf] if state is TrialState.COMPLETE else None
            study.tell(ended, values, state)
        if turn % 3 == 0:
            history.update()
    study._storage.set_study_system_attr(study._study_id, "kept", {"a": 1})
    for seen in (history, TrialHistory(storage, study._study_id, None)):
        seen.update()
        mine, theirs = seen.study.get_trials(), study.get_trials()
        assert as_optuna_has_them(mine) == as_optuna_has_them(theirs)
        assert [t.system_attrs for t in mine] == [t.system_attrs for t in theirs]
        assert [t.constraints for t in mine] == [t.constraints for t in theirs]
        assert seen.study.directions == study.directions
        assert [t.number for t in seen.study.best_trials] == [t.number for t in study.best_trials]
        kept = seen.study._storage.get_study_system_attrs(seen.study._study_id)
        assert kept == storage.get_study_system_attrs(study._study_id)


def told(record, states):
    """Let a study have trials: a number is a score, None a failure without parameters."""
    space = distributions(record.spec.space)
    for state in states:
        claim = record.ledger.claim("w")
        if state is not None:
            record.ledger.save_params(claim, {name: at_low(space[name]) for name in space}, space)
        if state in (None, "failed"):
            record.ledger.fail(claim, "refused")
        elif state == "pruned":
            record.ledger.finish(claim, {}, {0: {"score": 1.0}}, pruned="worse")
        else:
            record.ledger.finish(claim, {"score": state})


def seen_by_samplers(record):
    history = TrialHistory(record.storage, record.study_id, 250)
    history.update()
    return [(t.state, t.value) for t in history.study.get_trials() if t.state.is_finished()]


def test_a_failure_is_worse_than_all_scores_and_finite(record):
    told(record, ["failed", 2.0, None, "pruned", -1.0, "failed"])
    bad = math.nextafter(2.0, math.inf)
    assert seen_by_samplers(record) == [
        (TrialState.COMPLETE, bad),
        (TrialState.COMPLETE, 2.0),
        (TrialState.FAIL, None),
        (TrialState.PRUNED, None),
        (TrialState.COMPLETE, -1.0),
        (TrialState.COMPLETE, bad),
    ]
    told(record, [sys.float_info.max])
    assert seen_by_samplers(record)[0] == (TrialState.COMPLETE, sys.float_info.max)


def test_a_failure_is_worse_than_all_scores_that_are_maximised(begin_study):
    record = begin_study(space=SPACE, trials=9, **MAXIMISED)
    told(record, [2.0, "failed", -1.0])
    assert seen_by_samplers(record)[1] == (TrialState.COMPLETE, math.nextafter(-1.0, -math.inf))


def test_failures_say_nothing_before_the_first_score(record):
    told(record, ["failed", "failed", "pruned"])
    assert [state for state, _ in seen_by_samplers(record)].count(TrialState.FAIL) == 2


def test_no_failure_is_among_the_good_trials_however_many_there_are(record):
    told(record, [1.0, *(["failed"] * 30), 2.0, "pruned"])
    shown = [state for state, _ in seen_by_samplers(record)]
    # A tenth of what TPE sees is the two complete ones.
    assert shown.count(TrialState.COMPLETE) == 2 + 17
    assert [n for n, state in enumerate(shown) if state is TrialState.FAIL] == [*range(1, 14)]
    told(record, [3.0] * 23)
    assert all(state is not TrialState.FAIL for state, _ in seen_by_samplers(record))


@pytest.mark.slow
def test_one_worker_after_another_draws_what_one_worker_draws(begin_study):
    drawn: dict[str, list[float]] = {}
    for name in ("one", "many"):
        record = begin_study(name=name, trials=100, max_failures=100, space={"x": SPACE["x"]})
        space, sampler = distributions(record.spec.space), record.spec.sampler
        history, drawn[name] = TrialHistory(record.storage, record.study_id, 250), []
        for _ in range(60):
            if name == "many":  # the one before was killed
                history = TrialHistory(record.storage, record.study_id, 250)
            claim = record.ledger.claim("w")
            params = draw(history, claim.number, space, sampler, 3)
            record.ledger.save_params(claim, params, space)
            drawn[name].append(params["x"])
            if params["x"] < 0.3:
                record.ledger.fail(claim, "refused")
            else:
                record.ledger.finish(claim, {"score": params["x"]})
    assert drawn["one"] == drawn["many"]
    assert any(x < 0.3 for x in drawn["one"][10:])


def at_low(distribution):
    return distribution.choices[0] if hasattr(distribution, "choices") else distribution.low
