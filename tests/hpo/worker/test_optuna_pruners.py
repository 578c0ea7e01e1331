"""Pruners of Optuna by name: the decisions of plain Optuna, whichever worker asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optuna
import pytest
from optuna import pruners
from optuna.distributions import FloatDistribution
from optuna.pruners import BasePruner
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from hpo.errors import SpecError
from hpo.records import WALL_KEY, Answer, Claim, WorkerRun
from hpo.spec.loading import canonical, validate
from hpo.spec.objectives import Direction
from hpo.spec.search import PrunerSpec, SamplerSpec
from hpo.worker.pruner import OptunaPruner, Pruner, make_optuna_pruner, make_pruner
from hpo.worker.sampler import draw, trial_seed
from hpo.worker.trial_cache import TrialHistory
from hpo.worker.worker import Worker
from tests.support.ledgers import begin_without_table
from tests.support.studies import make_spec

N_TRIALS, N_PARTS = 40, 6
OWN = {"objective": {"name": "tests.support.objectives:Parabola"}} | dict.fromkeys(
    ("table", "cv", "estimator")
)
SPACE = {"alpha": {"type": "float", "low": 0.0, "high": 10.0}}
CASES: dict[str, tuple[dict[str, Any], Callable[[], BasePruner]]] = {
    "median": (
        {"name": "MedianPruner", "params": {"n_startup_trials": 5}},
        lambda: pruners.MedianPruner(n_startup_trials=5),
    ),
    "percentile": (
        {"name": "PercentilePruner", "params": {"percentile": 40.0, "n_warmup_steps": 1}},
        lambda: pruners.PercentilePruner(40.0, n_warmup_steps=1),
    ),
    "hyperband": (
        {"name": "HyperbandPruner", "params": {"max_resource": 6, "reduction_factor": 2}},
        lambda: pruners.HyperbandPruner(max_resource=6, reduction_factor=2),
    ),
    "successive halving": (
        {"name": "SuccessiveHalvingPruner", "params": {"reduction_factor": 2}},
        lambda: pruners.SuccessiveHalvingPruner(reduction_factor=2),
    ),
    "wilcoxon": (
        {"name": "WilcoxonPruner", "params": {"p_threshold": 0.2}},
        lambda: pruners.WilcoxonPruner(p_threshold=0.2),
    ),
    "patient": (
        {
            "name": "PatientPruner",
            "params": {"wrapped_pruner": {"name": "MedianPruner"}, "patience": 1},
        },
        lambda: pruners.PatientPruner(pruners.MedianPruner(), patience=1),
    ),
    "threshold": (
        {"name": "ThresholdPruner", "params": {"upper": 0.8}},
        lambda: pruners.ThresholdPruner(upper=0.8),
    ),
    "none": ({"name": "NopPruner"}, pruners.NopPruner),
}


class Parts:
    """What the pruner asks of an objective."""

    parts: tuple[str, ...] = tuple("abcdef")
    direction: Direction = "minimize"


def scores_of_parts():
    source = np.random.default_rng(7)
    return source.normal(source.uniform(0.0, 1.5, (N_TRIALS, 1)), 0.3, (N_TRIALS, N_PARTS))


@pytest.fixture
def begin(tmp_path):
    begun = []

    def begin_case(case, url=None):
        url = f"sqlite:///{tmp_path / 'hpo.db'}" if url is None else url
        changes = {"trials": N_TRIALS, "space": SPACE, "pruner": CASES[case][0]}
        record = begin_without_table(url, name="s", **changes)
        begun.append(record)
        return record

    yield begin_case
    for record in begun:
        record.storage.engine.dispose()


class Hand:
    """One worker of a study, with a pruner of its own."""

    def __init__(self, record, worker_id):
        self.worker_id, self.ledger = worker_id, record.ledger
        pruner = make_pruner(record, Parts(), self.ledger.notes)
        assert pruner is not None
        self.prune = pruner


def judge_here(record):
    """Return after how many parts each trial ended, and in which state."""
    table, hands = scores_of_parts(), [Hand(record, f"w{n}") for n in range(2)]
    ended = []
    for number in range(N_TRIALS):
        hand = hands[number % 2]
        claim = hand.ledger.claim(hand.worker_id)
        assert isinstance(claim, Claim)
        assert claim.number == number
        hand.ledger.save_params(claim, {"alpha": 1.0}, make_space())
        reason = ""
        parts: list[Mapping[str, float]] = []
        unsaved: dict[int, Mapping[str, float]] = {}
        for part in range(N_PARTS):
            if parts and (reason := hand.prune(claim, parts)):
                break
            if part == 2 and number % 5 == 0:
                # Another one takes it over where it was left.
                hand.ledger.release(claim, unsaved)
                hand, unsaved = Hand(record, f"taker-{number}"), {}
                claim = hand.ledger.claim(hand.worker_id)
                assert isinstance(claim, Claim)
                parts = list(claim.parts)
            parts.append({"score": float(table[number, part]), WALL_KEY: 0.0})
            unsaved[part] = parts[-1]
            if number % 3 == 0:
                hand.ledger.save(claim, unsaved)
                unsaved = {}
        total = float(np.mean([part["score"] for part in parts]))
        scores = {} if reason else {"score": total}
        hand.ledger.finish(claim, scores, unsaved, reason)
        ended.append((len(parts), bool(reason)))
    return ended


def judge_plainly(case):
    table, ended = scores_of_parts(), []
    study = optuna.create_study(study_name="s", pruner=CASES[case][1]())
    for number in range(N_TRIALS):
        trial, pruned = study.ask(), False
        for n_parts in range(1, N_PARTS + 1):
            scores = table[number, :n_parts]
            if case == "wilcoxon":
                trial.report(scores[-1], n_parts - 1)
            else:
                trial.report(np.mean(scores), n_parts)
            # Of a trial that has all its parts nothing is left to be saved.
            pruned = n_parts < N_PARTS and trial.should_prune()
            if pruned:
                break
        if pruned:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, float(np.mean(table[number])))
        ended.append((n_parts, pruned))
    return ended


def make_space():
    return {"alpha": FloatDistribution(0.0, 10.0)}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("case", CASES)
def test_decisions_are_those_of_plain_optuna(case, begin):
    ended = judge_here(begin(case))
    assert ended == judge_plainly(case)
    assert any(pruned for _, pruned in ended) == (case != "none")


@pytest.mark.slow
def test_a_sampler_learns_from_trials_of_the_same_bracket(begin):
    sampler = SamplerSpec(name="TPESampler", params={"n_startup_trials": 3})
    record, table = begin("hyperband"), scores_of_parts()
    hand, space = Hand(record, "w"), make_space()
    assert isinstance(hand.prune, OptunaPruner)
    history = TrialHistory(record.storage, record.study_id, 500, name="s")
    study = optuna.create_study(study_name="s", pruner=CASES["hyperband"][1]())
    for number in range(N_TRIALS):
        claim = hand.ledger.claim("w")
        params = draw(history, number, space, sampler, 1, hand.prune.pruner)
        hand.ledger.save_params(claim, params, space)
        study.sampler = TPESampler(seed=trial_seed(1, number), n_startup_trials=3)
        trial = study.ask(dict(space))
        assert trial.params == params
        parts = [{"score": float(score), WALL_KEY: 0.0} for score in table[number, :2]]
        reason = hand.prune(claim, parts[:1])
        trial.report(table[number, 0], 1)
        assert trial.should_prune() == bool(reason)
        if reason:
            hand.ledger.finish(claim, {}, {0: parts[0]}, reason)
            study.tell(trial, state=TrialState.PRUNED)
        else:
            # Values of their parameters, so that there is something to learn.
            hand.ledger.finish(claim, {"score": params["alpha"]}, dict(enumerate(parts)))
            trial.report(np.mean(table[number, :2]), 2)
            study.tell(trial, params["alpha"])


@pytest.mark.slow
def test_decisions_are_the_same_on_postgresql(begin, postgres_url):
    record = begin("successive halving", postgres_url)
    assert judge_here(record) == judge_plainly("successive halving")


def test_the_state_of_successive_halving_is_stored_with_the_trial(begin):
    record = begin("successive halving")
    judge_here(record)
    trials = record.optuna_study().get_trials()
    assert all("completed_rung_0" in t.system_attrs for t in trials if t.number > 0)


def test_a_study_has_one_or_the_other(begin):
    record = begin("median")
    assert record.spec.pruned_by is None
    assert isinstance(make_pruner(record, Parts(), {}), OptunaPruner)
    assert canonical(validate(record.spec.model_dump(mode="json"), "x")) == canonical(record.spec)
    with pytest.raises(SpecError, match=r"\[pruner\] and \[pruning\] exclude each other"):
        make_spec(pruner={"name": "MedianPruner"}, pruning=True)
    make_spec(pruner={"name": "MedianPruner"}, pruning=False)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "MedianPrune"}, r"\[pruner\] name: unknown 'MedianPrune'; did you mean 'Median"),
        (
            {"name": "MedianPruner", "params": {"startup_trials": 3}},
            r"params.startup_trials: MedianPruner has no such parameter; did you mean 'n_startup_",
        ),
        ({"name": "PercentilePruner"}, r"\[pruner\]: PercentilePruner: needs params.percentile"),
        (
            {"name": "PercentilePruner", "params": {"percentile": 140}},
            r"\[pruner\]: PercentilePruner: Percentile must be between 0 and 100",
        ),
        (
            {"name": "PatientPruner", "params": {"wrapped_pruner": {"nam": "x"}, "patience": 1}},
            r"\[pruner.params.wrapped_pruner\] nam: unknown key",
        ),
        (
            {"name": "MedianPruner", "params": {"n_startup_trials": "few"}},
            r"\[pruner\]: MedianPruner: ",
        ),
    ],
)
def test_what_cannot_be_is_refused(begin_study, spec, message):
    with pytest.raises(SpecError, match=message):
        begin_study(**OWN, pruner=spec, space=SPACE)


@pytest.mark.slow
def test_a_worker_prunes_by_it(begin_study):
    pruner = {"name": "MedianPruner", "params": {"n_startup_trials": 4}}
    record = begin_study(**OWN, pruner=pruner, space=SPACE, trials=20)
    assert Worker(record, record.open_objective()[1], "w").run(WorkerRun("host", 1)) == (
        Answer.DONE.value
    )
    counts = record.ledger.counts()
    assert (counts.finished, counts.free) == (20, 0)
    assert counts.pruned > 0
    trials = record.optuna_study().get_trials(deepcopy=False)
    reasons = [t.user_attrs["pruned"] for t in trials if t.state is TrialState.PRUNED]
    assert len(reasons) == counts.pruned
    assert all("was not good enough for MedianPruner" in reason for reason in reasons)


def test_an_objective_of_one_part_is_not_pruned(begin):
    class One(Parts):
        parts = ("all",)

    assert make_pruner(begin("median"), One(), {}) is None


def test_our_own_rule_stays_the_default(begin_study):
    record = begin_study(**OWN, pruning=True, space=SPACE)
    assert isinstance(make_pruner(record, Parts(), {}), Pruner)
    spec = PrunerSpec(name="MedianPruner")
    assert isinstance(make_optuna_pruner(spec), pruners.MedianPruner)
