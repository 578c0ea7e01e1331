"""Samplers of Optuna by name: the same draws as in plain Optuna, whichever worker draws."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna import samplers
from optuna.samplers import BaseSampler, nsgaii
from optuna.testing import pytest_samplers
from optuna.trial import TrialState

from hpo.errors import LostLeaseError
from hpo.spec.search import SamplerSpec
from hpo.spec.space import distributions
from hpo.storage.schema import SYSTEM_ATTRIBUTES, TRIAL_SYSTEM_ATTRIBUTES
from hpo.worker.sampler import draw, make_sampler, trial_seed
from hpo.worker.trial_cache import TrialHistory
from tests.support.ledgers import begin_without_table
from tests.support.samplers import GRID, SPACE, need_package

SEED, N_TRIALS = 5, 30


def points() -> dict[str, list[Any]]:
    xs = [round(-0.3 + 0.1 * at, 12) for at in range(9)]
    return {"x": xs, "n": [1, 3, 5, 7, 9], "kind": ["a", True]}


def random_of(number):
    return samplers.RandomSampler(seed=trial_seed(SEED, number))


# What a study file says, and what somebody writes in plain Optuna for a trial.
CASES: dict[str, tuple[dict[str, Any], Callable[[int, int], BaseSampler]]] = {
    "tpe, grouped": (
        {"name": "TPESampler", "params": {"multivariate": True, "group": True}},
        lambda seed, _: samplers.TPESampler(seed=seed, multivariate=True, group=True),
    ),
    "tpe, dimension by dimension": (
        {"name": "TPESampler", "params": {"multivariate": False, "n_startup_trials": 4}},
        lambda seed, _: samplers.TPESampler(seed=seed, multivariate=False, n_startup_trials=4),
    ),
    "random": ({"name": "RandomSampler"}, lambda seed, _: samplers.RandomSampler(seed=seed)),
    "cma-es": (
        {"name": "CmaEsSampler", "params": {"n_startup_trials": 3, "popsize": 4}},
        lambda seed, _: samplers.CmaEsSampler(seed=seed, n_startup_trials=3, popsize=4),
    ),
    "cma-es with margin": (
        {"name": "CmaEsSampler", "params": {"with_margin": True, "popsize": 4}},
        lambda seed, _: samplers.CmaEsSampler(seed=seed, with_margin=True, popsize=4),
    ),
    "gp": (
        {"name": "GPSampler", "params": {"n_startup_trials": 20}},
        lambda seed, _: samplers.GPSampler(seed=seed, n_startup_trials=20),
    ),
    "qmc": (
        {"name": "QMCSampler", "params": {"qmc_type": "halton", "scramble": True}},
        lambda _, number: samplers.QMCSampler(
            qmc_type="halton",
            scramble=True,
            seed=SEED,
            independent_sampler=random_of(number),
        ),
    ),
    "grid": (
        {"name": "GridSampler"},
        lambda _, __: samplers.GridSampler(points(), seed=SEED),
    ),
    "brute force": (
        {"name": "BruteForceSampler"},
        lambda seed, _: samplers.BruteForceSampler(seed=seed),
    ),
    "nsga-ii": (
        {
            "name": "NSGAIISampler",
            "params": {
                "population_size": 4,
                "crossover": {"name": "BLXAlphaCrossover", "params": {"alpha": 0.4}},
            },
        },
        lambda seed, _: samplers.NSGAIISampler(
            seed=seed, population_size=4, crossover=nsgaii.BLXAlphaCrossover(0.4)
        ),
    ),
    "nsga-iii": (
        {"name": "NSGAIIISampler", "params": {"population_size": 4}},
        lambda seed, _: samplers.NSGAIIISampler(seed=seed, population_size=4),
    ),
    "partly fixed": (
        {
            "name": "PartialFixedSampler",
            "params": {"fixed_params": {"n": 3}, "base_sampler": {"name": "TPESampler"}},
        },
        lambda seed, _: samplers.PartialFixedSampler({"n": 3}, samplers.TPESampler(seed=seed)),
    ),
    "of one's own": (
        {"name": "tests.support.samplers:Nearby", "params": {"width": 0.5}},
        lambda seed, _: importlib.import_module("tests.support.samplers").Nearby(0.5, seed=seed),
    ),
}
FINITE = ("grid", "brute force")
PACKAGES = {"cma-es": "cmaes", "cma-es with margin": "cmaes", "gp": "torch"}


def loss(params):
    kind = {"a": 0.0, "b": 0.3, True: 0.1}[params["kind"]]
    return (params["x"] - 0.4) ** 2 + abs(math.log(params.get("y", 0.1))) + params["n"] / 9 + kind


def outcome(case, number):
    """Return whether a trial fails; TPE alone is shown failures as bad trials."""
    fails = number % 7 == 3 and "tpe" not in case and case != "partly fixed"
    return TrialState.FAIL if fails else TrialState.COMPLETE


@pytest.fixture
def begin(request, tmp_path):
    """Begin the study of a case, on SQLite unless told otherwise."""
    begun = []

    def begin_case(case, url=None, **changes):
        fields = {
            "name": "s",
            "space": GRID if case in FINITE else SPACE,
            "trials": N_TRIALS + 8,
            "max_failures": 99,
            "sampler": CASES[case][0],
            "seed": SEED,
        }
        url = f"sqlite:///{tmp_path / 'hpo.db'}" if url is None else url
        record = begin_without_table(url, **(fields | changes))
        begun.append(record)
        return record

    yield begin_case
    for record in begun:
        record.storage.engine.dispose()


class Hand:
    """What one worker of a study holds of it."""

    def __init__(self, record, worker_id):
        self.record, self.worker_id, self.ledger = record, worker_id, record.ledger
        self.space = distributions(record.spec.space)
        sampler = record.spec.sampler
        self.history = TrialHistory(
            record.storage, record.study_id, sampler.history, name="s", notes=self.ledger.notes
        )

    def draw(self):
        """Claim a trial, and store what was drawn for it."""
        claim = self.ledger.claim(self.worker_id)
        spec = self.record.spec
        params = draw(self.history, claim.number, self.space, spec.sampler, spec.seed)
        self.ledger.save_params(claim, params, self.space)
        return claim, params

    def tell(self, claim, params, state):
        if state is TrialState.FAIL:
            self.ledger.fail(claim, "refused")
        else:
            self.ledger.finish(claim, {"score": loss(params)})


def draw_here(record, case):
    """Draw by two workers at a time, of which one is replaced by a new one after each trial."""
    old, found = Hand(record, "old"), []
    for turn in range(N_TRIALS // 2):
        hands = (old, Hand(record, f"new-{turn}"))
        drawn = [hand.draw() for hand in hands]
        for hand, (claim, params) in zip(hands, drawn, strict=True):
            found.append(params)
            hand.tell(claim, params, outcome(case, claim.number))
    return found


def draw_plainly(case, space):
    """Draw the same in plain Optuna, in memory."""
    study, found = optuna.create_study(study_name="s", sampler=samplers.RandomSampler()), []
    for turn in range(N_TRIALS // 2):
        asked = []
        for number in (2 * turn, 2 * turn + 1):
            study.sampler = CASES[case][1](trial_seed(SEED, number), number)
            asked.append(study.ask(dict(space)))
        for trial in asked:
            found.append(trial.params)
            state = outcome(case, trial.number)
            study.tell(trial, loss(trial.params) if state is TrialState.COMPLETE else None, state)
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("case", CASES)
def test_draws_are_those_of_plain_optuna(case, begin):
    need_package(PACKAGES.get(case))
    record = begin(case)
    drawn = draw_here(record, case)
    assert drawn == draw_plainly(case, distributions(record.spec.space))
    assert len({tuple(params.values()) for params in drawn}) > N_TRIALS // 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("case", ["nsga-ii", "qmc", "cma-es"])
def test_draws_are_the_same_on_postgresql(case, begin, postgres_url):
    need_package(PACKAGES.get(case))
    record = begin(case, postgres_url)
    assert draw_here(record, case) == draw_plainly(case, distributions(record.spec.space))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("case", ["cma-es", "nsga-ii", "grid"])
def test_plain_optuna_goes_on_from_what_is_stored(case, begin):
    need_package(PACKAGES.get(case))
    record = begin(case)
    draw_here(record, case)
    stored = record.optuna_study().get_trials()
    plain = optuna.create_study(study_name="s")
    plain.add_trials(stored)
    assert any(trial.system_attrs for trial in stored)
    attributes = record.storage.get_study_system_attrs(record.study_id)
    for key, value in attributes.items():
        # Optuna names the parents of a generation by ids.
        if ":parent:" in key:
            numbers = {trial._trial_id: trial.number for trial in stored}
            value = [plain.get_trials()[numbers[at]]._trial_id for at in value]
        plain._storage.set_study_system_attr(plain._study_id, key, value)
    plain.sampler = CASES[case][1](trial_seed(SEED, N_TRIALS), N_TRIALS)
    _, params = Hand(record, "next").draw()
    assert plain.ask(distributions(record.spec.space)).params == params


# What is stored, and when ------------------------------------------------------------------------


def attributes_of(record, trial_id):
    with record.storage.read() as c:
        table = TRIAL_SYSTEM_ATTRIBUTES
        rows = c.execute(table.select().where(table.c.trial_id == trial_id))
        return {row.key: row.value_json for row in rows}


def test_notes_come_with_the_parameters_or_not_at_all(begin):
    record = begin("grid")
    hand = Hand(record, "w")
    claim = hand.ledger.claim("w")
    params = draw(hand.history, claim.number, hand.space, record.spec.sampler, SEED)
    assert attributes_of(record, claim.trial_id) == {}
    assert hand.ledger.notes[claim.trial_id]["grid_id"] == 0
    hand.ledger.save_params(claim, params, hand.space)
    assert attributes_of(record, claim.trial_id)["grid_id"] == "0"
    assert hand.ledger.notes == {}


def test_a_worker_that_was_taken_for_dead_notes_nothing(begin):
    record = begin("grid")
    late, other = Hand(record, "late"), Hand(record, "other")
    claim = late.ledger.claim("late")
    params = draw(late.history, claim.number, late.space, record.spec.sampler, SEED)
    late.ledger.notes[claim.trial_id]["grid_id"] = 7
    other.ledger.reap("late", "no sign of life")
    taken, _ = other.draw()
    assert taken.trial_id == claim.trial_id
    with pytest.raises(LostLeaseError):
        late.ledger.save_params(claim, params, late.space)
    assert attributes_of(record, claim.trial_id)["grid_id"] == "0"
    # Nor later, when the trial comes back to it.
    other.ledger.release(taken)
    late.worker_id = "late-2"
    again = late.ledger.claim("late-2")
    assert again.trial_id == claim.trial_id
    late.ledger.finish(again, {"score": 1.0})
    assert attributes_of(record, claim.trial_id)["grid_id"] == "0"


def test_tpe_notes_nothing_and_reads_no_more_than_before(begin):
    record = begin("random", sampler={"name": "tpe"})
    hand = Hand(record, "w")
    statements = []
    sa.event.listen(
        record.storage.engine, "before_cursor_execute", lambda *call: statements.append(call[2])
    )
    counts = []
    for _ in range(14):
        before = len(statements)
        claim, params = hand.draw()
        counts.append(len(statements) - before)
        hand.tell(claim, params, TrialState.COMPLETE)
    # What has changed, and the parameters of the trial before.
    assert len(set(counts[2:])) == 1
    assert not any("system_attributes" in s and "INSERT" in s for s in statements)
    assert sum("FROM trial_system_attributes" in s.split("count")[0] for s in statements) == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_no_point_of_a_sequence_is_handed_out_twice(kind, begin, request, tmp_path):
    url = request.getfixturevalue("postgres_url") if kind == "postgresql" else None
    space = {name: SPACE[name] for name in ("x", "n")}
    spec = {"name": "QMCSampler", "params": {"scramble": True}}
    record = begin("qmc", url, trials=90, sampler=spec, space=space)
    first = Hand(record, "first")
    claim, _ = first.draw()
    first.ledger.finish(claim, {"score": 0.0})
    hands = [Hand(record, f"w{number}") for number in range(8)]

    def run(hand):
        drawn = []
        for _ in range(8):
            claim, params = hand.draw()
            hand.ledger.finish(claim, {"score": 0.0})
            drawn.append(params["x"])
        return drawn

    with ThreadPoolExecutor(len(hands)) as pool:
        found = [x for drawn in pool.map(run, hands) for x in drawn]
    assert len(set(found)) == len(found) == 64
    with record.storage.read() as c:
        rows = c.execute(SYSTEM_ATTRIBUTES.select()).all()
    (counter,) = [int(row.value_json) for row in rows if row.key.startswith("qmc:")]
    # Whoever came too late has stored nothing, so no point was left out either.
    assert counter == 63


# Optuna's own tests of samplers, over those that are made here ----------------------------------


def maker(spec):
    def make():
        numbers = iter(range(10**6))
        return make_sampler(SamplerSpec.model_validate(spec), SEED, {}, next(numbers))

    return make


QUIET = pytest.mark.filterwarnings("ignore")


@QUIET
@pytest.mark.slow
class TestBasics(pytest_samplers.BasicSamplerTestCase):
    @pytest.fixture(params=["TPESampler", "QMCSampler", "NSGAIISampler", "NSGAIIISampler"])
    def sampler(self, request):
        return maker({"name": request.param})


@QUIET
@pytest.mark.slow
class TestBasicsOfCmaEs(pytest_samplers.BasicSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        need_package("cmaes")
        return maker({"name": "CmaEsSampler"})


@QUIET
@pytest.mark.slow
class TestOneObjective(pytest_samplers.SingleOnlySamplerTestCase):
    @pytest.fixture
    def sampler(self):
        need_package("cmaes")
        return maker({"name": "CmaEsSampler"})


@QUIET
@pytest.mark.slow
class TestSeveralObjectives(pytest_samplers.MultiObjectiveSamplerTestCase):
    @pytest.fixture(params=["TPESampler", "NSGAIISampler", "NSGAIIISampler"])
    def sampler(self, request):
        return maker({"name": request.param})


# From one end to the other -----------------------------------------------------------------------

STUDY = """
trials = 24
lease_s = 5.0
checkpoint_s = 0
[objective]
name = "tests.support.objectives:Parabola"
[space]
alpha = { type = "float", low = 0.0, high = 10.0 }
beta = { type = "float", low = 0.0, high = 1.0 }
[sampler]
name = "CmaEsSampler"
params = { n_startup_trials = 4, popsize = 4 }
[pruner]
name = "MedianPruner"
params = { n_startup_trials = 4 }
"""


@pytest.mark.slow
def test_two_workers_finish_exactly_the_budget(hpo):
    need_package("cmaes")
    Path("x.toml").write_text(STUDY)
    hpo("check", "x.toml")
    done = hpo("run", "x.toml", "--workers", "2")
    assert "24 of 24 trials" in done.stdout
    status = json.loads(hpo("status", "x", "--json").stdout)
    assert status["counts"]["finished"] == 24
    assert status["counts"]["pruned"] > 0
    trials = optuna.load_study(study_name="x", storage="sqlite:///hpo.db").get_trials()
    assert len(trials) == 24
    generations = {trial.system_attrs.get("cma:generation") for trial in trials}
    assert len(generations - {None}) > 1
    wrong = hpo("check", "x.toml", "--set", "sampler.name=CmaEsSample", code=2)
    assert "did you mean 'CmaEsSampler'" in wrong.stderr
