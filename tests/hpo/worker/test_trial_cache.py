"""What samplers learn from is what the storage holds, however it is read."""

import random

import optuna
import pytest
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from hpo.records import WorkerRun
from hpo.spec.space import distributions
from hpo.worker.sampler import draw, trial_seed
from hpo.worker.trial_cache import N_BEST, TrialHistory
from hpo.worker.worker import Worker

SPACE = {
    "x": {"type": "float", "low": 0.0, "high": 1.0},
    "rate": {"type": "float", "low": 1e-3, "high": 1.0, "log": True},
    "depth": {"type": "int", "low": 1, "high": 9, "step": 2},
    "kind": {"type": "categorical", "choices": ["a", "b", True]},
}


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
        assert as_optuna_has_them(seen) == as_optuna_has_them(stored)
        assert {trial.state for trial in seen} >= {TrialState.COMPLETE, TrialState.FAIL}


@pytest.mark.slow
def test_tpe_draws_what_it_would_draw_from_the_storage_itself(record):
    history = TrialHistory(record.storage, record.study_id, 500)
    run_trials(record, history, 60, random.Random(1))
    space, sampler = distributions(record.spec.space), record.spec.sampler
    for worker in ("new-1", "new-2"):
        claim = record.ledger.claim(worker)
        drawn = draw(history, claim.number, space, sampler, 7)
        study = record.optuna_study()
        study.sampler = TPESampler(seed=trial_seed(7, claim.number), n_startup_trials=10)
        trial = optuna.trial.Trial(study, claim.trial_id)
        expected = {name: trial._suggest(name, at) for name, at in space.items()}
        assert drawn == expected


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
        before = optuna.create_study()
        before.add_trials(trials[: trial.number])
        sampler = TPESampler(seed=trial_seed(record.spec.seed, trial.number), n_startup_trials=10)
        before.sampler = sampler
        assert before.ask(space).params == trial.params
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


def at_low(distribution):
    return distribution.choices[0] if hasattr(distribution, "choices") else distribution.low
