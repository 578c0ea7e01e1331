"""Functions that are given a trial: what they may do with it, and what becomes of it."""

from __future__ import annotations

import math
import signal
import threading
import time
import warnings

import optuna
import pytest
from optuna.trial import TrialState

from hpo.errors import FailedStudyError
from hpo.objectives.function import FunctionObjective
from hpo.records import Access, Answer, WorkerRun
from hpo.simulation.scenario import DurationTrace
from hpo.storage.backends import open_storage
from hpo.study.creation import begin
from hpo.study.record import Source
from hpo.worker.sampler import make_sampler
from hpo.worker.worker import Worker
from tests.support.samplers import need_package
from tests.support.studies import make_spec

HERE = WorkerRun("here", 1)


@pytest.fixture
def study(url):
    """Begin a study of a function, and let one worker work on it."""
    opened = []

    def run(function, **changes):
        record = record_of(url, **changes)
        opened.append(record.storage)
        Worker(record, FunctionObjective(function), "w").run(HERE)
        return record

    yield run
    for storage in opened:
        storage.engine.dispose()


def record_of(url, **changes):
    without = {"table": None, "cv": None, "estimator": None, "space": None}
    function = {"objective": {"function": "tests.support.functions.plain:quadratic"}}
    spec = make_spec(**(function | without | {"trials": 1} | changes))
    return begin(open_storage(url, Access.CREATE), spec, Source("x.toml", (), None), None)


def trials_of(record):
    return record.storage.get_all_trials(record.study_id)


def test_what_a_function_tells_is_what_optuna_stores(study):
    def objective(trial):
        assert trial.number == len(trial.study.trials) - 1
        x = trial.suggest_float("x", 1e-3, 1, log=True)
        n = trial.suggest_int("n", 0, 10, step=5)
        kind = trial.suggest_categorical("kind", ["a", None, 1.5])
        assert (trial.suggest_float("x", 1e-3, 1, log=True), trial.params["n"]) == (x, n)
        for step, value in ((0, 1.0), (3, math.nan), (7, math.inf)):
            trial.report(value, step)
        trial.set_user_attr("list", [1, {"deep": kind}])
        trial.set_user_attr("list", [2])
        trial.set_constraint("c", -1.0)
        assert trial.user_attrs == {"list": [2]}
        assert trial.datetime_start is not None
        return x

    record = study(objective, trials=3)
    for trial in trials_of(record):
        assert trial.state is TrialState.COMPLETE
        assert trial.value == trial.params["x"]
        assert list(trial.params) == ["x", "n", "kind"]
        assert trial.user_attrs["list"] == [2]
        assert trial.intermediate_values.keys() == {0, 3, 7}
        assert math.isnan(trial.intermediate_values[3])
        assert trial.intermediate_values[7] == math.inf
        assert [*trial.system_attrs.values()] != []


def several(trial):
    """A space that depends on what is drawn, in no time."""
    x, y = trial.suggest_float("x", -5, 5), trial.suggest_float("y", 1e-3, 1, log=True)
    kind = trial.suggest_categorical("kind", ["a", "b"])
    n = trial.suggest_int("n", 1, 5) if kind == "a" else 0
    return x**2 + y + n


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize(
    ("spec", "package"),
    [
        ({"name": "tpe"}, None),
        ({"name": "TPESampler", "params": {"multivariate": True, "group": True}}, None),
        ({"name": "CmaEsSampler", "params": {"n_startup_trials": 4}}, "cmaes"),
        ({"name": "GPSampler", "params": {"n_startup_trials": 20}}, "torch"),
        ({"name": "NSGAIISampler", "params": {"population_size": 5}}, None),
        ({"name": "QMCSampler"}, None),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_draws_are_those_of_plain_optuna(study, spec, package):
    need_package(package)
    record = study(several, sampler=spec, seed=5, trials=30)
    plain = optuna.create_study(study_name="small")
    for number in range(30):
        plain.sampler = make_sampler(record.spec.sampler, 5, {}, number)
        plain.optimize(several, n_trials=1)
    drawn = [trial.params for trial in trials_of(record)]
    assert drawn == [trial.params for trial in plain.trials]


def test_pruned_failed_and_undefined_are_told_as_optuna_tells_them(study):
    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        match trial.number:
            case 0:
                trial.report(0.25, 2)
                raise optuna.TrialPruned
            case 1:
                raise optuna.TrialPruned("too slow")
            case 2:
                raise ValueError("no such phase")
            case 3:
                return math.nan
            case 4:
                return None
            case 5:
                return "text"
            case 6:
                return [1.0, 2.0]
            case 7:
                raise SystemExit(3)
        return x

    record = study(objective, trials=4)
    found = trials_of(record)
    assert [trial.state for trial in found[:2]] == [TrialState.PRUNED] * 2
    assert found[0].value == 0.25
    assert found[0].user_attrs["pruned"] == "at step 2"
    assert found[1].user_attrs["pruned"] == "too slow"
    reasons = [trial.user_attrs["failure"] for trial in found[2:8]]
    assert reasons == [
        "objective: ValueError: no such phase",
        "objective: The value nan is not acceptable",
        "objective: must return a number, returned None",
        "objective: must return a number, returned 'text'",
        "objective: The number of the values 2 did not match the number of the objectives 1",
        "objective: sys.exit(3)",
    ]
    assert [trial.state for trial in found[8:]] == [TrialState.COMPLETE] * 2
    assert record.ledger.counts().finished == 4


def test_too_many_failures_end_the_study(study):
    def objective(trial):
        raise ValueError("no")

    with pytest.raises(FailedStudyError, match="objective: ValueError: no"):
        study(objective, trials=4)


def test_a_trial_that_is_taken_over_goes_on_with_what_was_told(url):
    record = record_of(url, trials=2)
    told = []

    def first(trial):
        told.append((trial.number, trial.suggest_float("x", 0, 1), trial.suggest_int("n", 1, 9)))
        trial.report(0.5, 0)
        trial.set_user_attr("seen", True)
        signal.raise_signal(signal.SIGTERM)

    assert Worker(record, FunctionObjective(first), "w1").run(HERE) == "stopped: SIGTERM"
    (trial,) = trials_of(record)
    assert trial.state is TrialState.WAITING
    assert trial.params == {"x": told[0][1], "n": told[0][2]}

    def second(trial):
        x, n = trial.suggest_float("x", 0, 1), trial.suggest_int("n", 1, 9)
        if trial.number == 0:
            assert (0, x, n) == told[0]
            assert trial.user_attrs == {"seen": True}
            with warnings.catch_warnings(record=True) as said:
                trial.report(0.9, 0)
            assert said == []
            trial.report(0.7, 1)
        return x

    outcome = Worker(record, FunctionObjective(second), "w2").run(HERE)
    assert outcome == Answer.DONE.value
    first_trial, other = trials_of(record)
    assert first_trial.intermediate_values == {0: 0.5, 1: 0.7}
    assert first_trial.value == told[0][1]
    assert other.params != first_trial.params
    record.storage.engine.dispose()


@pytest.mark.parametrize(("kept", "checkpoint_s"), [("params", 600.0), ("user_attrs", 0.2)])
def test_what_was_told_is_stored_soon_though_the_function_tells_nothing_more(
    url, kept, checkpoint_s
):
    """What was drawn in any case: samplers of other workers keep away from it."""
    record = record_of(url, checkpoint_s=checkpoint_s)
    seen: list[tuple[str, float]] = []

    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        trial.set_user_attr("note", x)
        other = open_storage(url, Access.READ)
        deadline = time.monotonic() + 30.0
        while not seen and time.monotonic() < deadline:
            time.sleep(0.05)
            seen.extend(getattr(other.get_trial(trial._trial_id), kept).items())
        other.remove_session()
        other.engine.dispose()
        return x

    Worker(record, FunctionObjective(objective), "w").run(HERE)
    (trial,) = trials_of(record)
    assert seen == [({"params": "x", "user_attrs": "note"}[kept], trial.params["x"])]
    assert not [t for t in threading.enumerate() if t.name == "hpo-keeper"]
    record.storage.engine.dispose()


def test_a_function_that_was_taken_for_dead_tells_nothing(url):
    record = record_of(url, checkpoint_s=0.0)

    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        if not taken:
            taken.append(x)
            record.ledger.reap("w1", "taken for dead")
            trial.set_user_attr("late", 1)
        return x

    taken: list[float] = []
    assert Worker(record, FunctionObjective(objective), "w1").run(HERE) == Answer.DISMISSED.value
    (trial,) = trials_of(record)
    assert trial.state is TrialState.WAITING
    assert "late" not in trial.user_attrs
    Worker(record, FunctionObjective(objective), "w2").run(HERE)
    (trial,) = trials_of(record)
    assert (trial.state, trial.value) == (TrialState.COMPLETE, taken[0])
    record.storage.engine.dispose()


def test_trial_study_is_read_and_nothing_else(study):
    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        study = trial.study
        assert study.study_name == "small"
        assert study.direction.name == "MINIMIZE"
        if trial.number == 2:
            assert [t.state.name for t in study.trials] == ["COMPLETE", "FAIL", "RUNNING"]
            assert study.best_trial.number == 0
            study.set_user_attr("note", "kept")
            for wrong in (study.ask, lambda: study.enqueue_trial({"x": 0.5})):
                with pytest.raises(RuntimeError, match="within the budget"):
                    wrong()
            with pytest.raises(RuntimeError, match="its own trial alone"):
                study.tell(0, 1.0, skip_if_finished=False)
        if trial.number == 1:
            raise ValueError
        return x

    record = study(objective, trials=2)
    assert record.storage.get_study_user_attrs(record.study_id) == {"note": "kept"}


def test_a_function_may_stop_its_study(study):
    def objective(trial):
        if trial.number == 2:
            trial.study.stop()
        return trial.suggest_float("x", 0, 1)

    record = study(objective, trials=10)
    assert record.ledger.counts().finished == 3
    assert record.ledger.stopped() == "gently"


def test_a_parameter_with_another_range_of_choices_is_refused_as_by_optuna(study):
    def objective(trial):
        return trial.suggest_categorical("n", [1, 2] if trial.number == 0 else [1, 2, 3])

    with pytest.raises(FailedStudyError, match="does not support dynamic value space"):
        study(objective, trials=2, max_failures=2)


def test_durations_of_a_function_are_those_of_whole_trials(study):
    trace = DurationTrace.from_study(study(lambda trial: trial.suggest_float("x", 0, 1), trials=3))
    assert (trace.n_parts, len(trace.rows)) == (1, 3)
    assert trace.mean_part_s > 0.0


@pytest.mark.parametrize("name", ["worker", "failure", "pruned", "wall_s"])
def test_names_of_the_engines_own_attributes_are_refused(study, name):
    def objective(trial):
        with pytest.raises(ValueError, match=f"'{name}'"):
            trial.set_user_attr(name, 1)
        with pytest.raises(TypeError, match="JSON"):
            trial.set_user_attr("x", object())
        return 1.0

    study(objective)
