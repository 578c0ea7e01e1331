"""What a study begins with: defaults of its estimator, points of its file, known studies."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from hpo.errors import SpecError
from hpo.spec.loading import validate
from hpo.study.points.first import first_points
from tests.support.studies import make_spec


def default_spec(estimator, **space):
    return make_spec(estimator=estimator, space=space, start_with_defaults=True)


def ints(low, high, **more):
    return {"type": "int", "low": low, "high": high, **more}


@pytest.mark.parametrize(
    ("name", "parameter", "default"),
    [
        ("hist_gradient_boosting", "max_leaf_nodes", 31),
        ("random_forest", "n_estimators", 100),
        ("lightgbm", "num_leaves", 31),
        ("lightgbm_ranker", "num_leaves", 31),
        ("lightgbm_ranker", "grades", 10),
        ("k_neighbors", "n_neighbors", 5),
        ("sklearn.ensemble:GradientBoostingRegressor", "max_depth", 3),
    ],
)
def test_the_defaults_are_the_estimators_own(name, parameter, default):
    found = first_points(default_spec({"name": name}, **{parameter: ints(1, 200)}))
    assert found == ([{parameter: default}], [])


def test_defaults_of_parts_are_named_by_part():
    estimator = {
        "name": "ensemble",
        "members": {"a": {"name": "random_forest"}, "b": {"name": "hist_gradient_boosting"}},
    }
    space = {"a.n_estimators": ints(10, 200), "b.max_iter": ints(10, 190, step=45)}
    assert first_points(default_spec(estimator, **space)).points == [
        {"a.n_estimators": 100, "b.max_iter": 100}
    ]


def test_defaults_of_steps_of_what_is_within_and_of_families():
    forest = {"name": "RandomForestRegressor"}
    steps = [{"name": "PCA", "step": "reduce", "params": {"n_components": 2}}, forest]
    reduce = ["passthrough", {"name": "PCA", "params": {"n_components": 2}}, "StandardScaler"]
    space = {
        "reduce": {"type": "categorical", "choices": reduce},
        "randomforestregressor__min_samples_leaf": ints(1, 9),
        "seen": {"type": "families", "choices": [["a"], ["a", "b"]]},
    }
    (point,), notes = first_points(default_spec({"steps": steps}, **space))
    assert point == {
        "reduce": '{"name": "PCA", "params": {"n_components": 2}}',
        "randomforestregressor__min_samples_leaf": 1,
        "seen": '["a", "b"]',
    }
    assert not notes
    within = {"name": "TransformedTargetRegressor", "params": {"regressor": {"name": "Ridge"}}}
    alpha = {"type": "float", "low": 0.1, "high": 9.0}
    (point,), _ = first_points(default_spec(within, regressor__alpha=alpha))
    assert point == {"regressor__alpha": 1.0}


def test_what_is_not_in_the_space_is_drawn_and_said():
    spec = default_spec(
        {"name": "hist_gradient_boosting"},
        max_depth=ints(2, 9),
        max_leaf_nodes=ints(40, 90),
        max_iter={"type": "staged", "high": 200},
        max_bins=ints(10, 255),
        max_features={"type": "categorical", "choices": [0.3, 1.0]},
        l2_regularization={"type": "float", "low": 1e-3, "high": 1.0, "log": True},
    )
    points, notes = first_points(spec)
    assert points == [{"max_bins": 255, "max_features": 1.0}]
    assert notes == [
        "start_with_defaults: max_depth is drawn, as its default None is not in [space]",
        "start_with_defaults: max_leaf_nodes is drawn, as its default 31 is not in [space]",
        "start_with_defaults: l2_regularization is drawn, as its default 0.0 is not in [space]",
    ]
    with pytest.raises(SpecError, match="no default is in"):
        first_points(default_spec({"name": "random_forest"}, max_depth=ints(2, 9)))


def test_defaults_come_before_the_points_of_the_file_and_once():
    spec = make_spec(start_with_defaults=True, enqueue=[{"alpha": 2.0}])
    assert first_points(spec).points == [{"alpha": 1.0}, {"alpha": 2.0}]
    assert first_points(spec, make_spec()).points == [{"alpha": 1.0}, {"alpha": 2.0}]
    assert first_points(spec, spec).points == [{"alpha": 2.0}]


def test_defaults_need_an_estimator():
    raw = {
        "name": "x",
        "trials": 3,
        "start_with_defaults": True,
        "objective": {"function": "tests.support.functions.plain:quadratic"},
    }
    with pytest.raises(SpecError, match=r"start_with_defaults needs an \[estimator\]"):
        validate(raw, "x.toml")


@pytest.fixture
def other(tmp_path):
    """A study of Optuna alone: x is best at 3, y and kind are of no use."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = f"sqlite:///{tmp_path / 'other.db'}"
    study = optuna.create_study(study_name="other", storage=url, direction="maximize")
    for x, y, kind in (
        (9.0, 1, "a"),
        (3.0, 2, None),
        (3.0, 2, None),
        (2.5, 90, "b"),
        (12.0, 1, "a"),
        (3.6, 3, "b"),
    ):
        study.enqueue_trial({"x": x, "y": y, "kind": kind})
    study.optimize(objective, n_trials=6)
    study._storage.remove_session()
    return url


def objective(trial):
    x = trial.suggest_float("x", 0, 20)
    trial.suggest_int("y", 1, 100), trial.suggest_categorical("kind", ["a", "b", None])
    return -abs(x - 3)


def warm_spec(*entries, space=None, **changes):
    x = {"type": "float", "low": 0.0, "high": 10.0}
    parts = dict.fromkeys(("table", "cv", "estimator"))
    return make_spec(
        **parts,
        space=space or {"x": x, "y": ints(1, 5)},
        warm_start=[*entries],
        **{"objective": {"name": "tests.support.objectives:Parabola"}} | changes,
    )


def test_the_best_trials_of_another_study_come_best_first_and_once(other, tmp_path):
    before = (tmp_path / "other.db").read_bytes()
    spec = warm_spec(f"{other}/other", enqueue=[{"y": 4}])
    points, notes = first_points(spec, None, "sqlite:///none.db")
    found = [{"y": 4}, {"x": 3.0, "y": 2}, {"x": 2.5}, {"x": 3.6, "y": 3}, {"x": 9.0, "y": 1}]
    assert points == [*found, {"y": 1}]
    where = f"warm_start '{other}/other': "
    assert notes == [
        f"{where}5 points",
        f"{where}left out, as not in [space]: kind",
        f"{where}y is drawn in 1 point, as it was outside of [space]",
        f"{where}x is drawn in 1 point, as it was outside of [space]",
    ]
    assert (tmp_path / "other.db").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.db"]
    few = warm_spec({"study": f"{other}/other", "trials": 2})
    assert first_points(few, None, "sqlite:///none.db").points == [{"x": 3.0, "y": 2}, {"x": 2.5}]
    assert first_points(spec).points == [{"y": 4}]
    assert first_points(spec, few, other).points == points
    assert first_points(spec, spec, other) == ([{"y": 4}], [])


def test_of_several_objectives_it_is_the_front_that_comes_first(other):
    several = optuna.create_study(
        study_name="several", storage=other, directions=["minimize", "maximize"]
    )
    for x, values in ((1.0, [0.0, 1.0]), (2.0, [1.0, 1.0]), (3.0, [1.0, 2.0])):
        several.add_trial(
            create_trial(
                values=values, params={"x": x}, distributions={"x": FloatDistribution(0, 9)}
            )
        )
    points = first_points(warm_spec("several"), None, other).points
    assert points == [{"x": 1.0}, {"x": 3.0}]


def test_a_function_is_given_all_parameters_of_the_other_study(other):
    spec = make_spec(
        **dict.fromkeys(("table", "cv", "estimator", "space")),
        objective={"function": "tests.support.functions.plain:quadratic"},
        warm_start=["other"],
    )
    assert first_points(spec, None, other).points[:2] == [
        {"x": 3.0, "y": 2},
        {"x": 2.5, "y": 90, "kind": "b"},
    ]


@pytest.mark.parametrize(
    ("study", "said"),
    [
        ("{url}/othre", "holds no study 'othre'; did you mean 'other'?"),
        ("{url}x/other", "no such file"),
        ("{url}/empty", "none of its trials has finished"),
    ],
)
def test_what_cannot_be_begun_with_is_refused(other, study, said):
    optuna.create_study(study_name="empty", storage=other)
    spec = warm_spec(study.format(url=other))
    with pytest.raises(SpecError, match="warm_start '") as caught:
        first_points(spec, None, "sqlite:///none.db")
    assert said in str(caught.value)


def test_another_space_with_nothing_in_common_is_refused(other):
    for space in ({"z": ints(1, 5)}, {"y": ints(95, 99)}):
        with pytest.raises(SpecError, match=r"none of its parameters \(kind, x, y\) has a value"):
            first_points(warm_spec("other", space=space), None, other)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("small", "cannot begin with itself"),
        ("postgresql://me:secret@host/db/other", "a password does not belong in a study file"),
        ("sqlite:///other.db/", "study must be STORAGE/NAME or NAME"),
        ("sqlite:///other", "study must be STORAGE/NAME or NAME"),
        ({"study": "x", "trials": 0}, "warm_start.0.trials: "),
        ({"studi": "x"}, "unknown key; did you mean 'study'"),
    ],
)
def test_entries_are_checked(entry, said):
    with pytest.raises(SpecError) as caught:
        warm_spec(entry)
    assert said in str(caught.value)


def test_a_nested_step_begins_with_no_study_that_may_have_seen_its_test_rows(other):
    cv = {"scheme": "interleaved", "folds": 3, "outer": 1}
    points, notes = first_points(make_spec(cv=cv, warm_start=["other"]), None, other)
    assert (points, len(notes)) == ([], 1)


@pytest.mark.slow
def test_check_and_run_say_what_a_study_begins_with(hpo, other):
    Path("x.toml").write_text(
        f'trials = 4\nwarm_start = ["{other}/other"]\n[objective]\ncommand = ["echo", "{{x}}"]\n'
        'score = {regex = "^([0-9.]+)"}\n[space]\nx = {type = "float", low = 0.0, high = 3.0}'
    )
    assert "/other': 2 points" in hpo("check", "x.toml").stdout
    assert "2 points enqueued" in hpo("run", "x.toml", "--workers", "2").stderr
    Path(other.removeprefix("sqlite:///")).unlink()
    assert "enqueued" not in hpo("run", "x.toml", "--trials", "5").stderr
    trials = optuna.load_study(study_name="x", storage="sqlite:///hpo.db").trials
    assert [trial.params["x"] for trial in trials[:2]] == [3.0, 2.5]
    assert len(trials) == 5
    Path("y.toml").write_text(Path("x.toml").read_text().replace(f"{other}/other", "x"))
    assert "warm_start 'x': 5 points" in hpo("run", "y.toml", "--trials", "5").stderr
    assert "no such file" in hpo("check", "y.toml", "--storage", "sqlite:///no.db", code=2).stderr
