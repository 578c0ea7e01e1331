"""Estimators from sections: names, what is put before, pipelines, what is within, None, lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA

import features.table
from hpo.errors import SpecError
from hpo.estimators import registry
from hpo.estimators.checks import check_estimator, expected_columns
from hpo.estimators.construction import TableNames
from hpo.estimators.defaults import default_params
from hpo.estimators.factory import make_estimator, prepare
from hpo.estimators.registry import REGISTRY, find, lookup, nearest, sklearn_classes
from hpo.objectives.factory import make_objective
from hpo.spec.estimators import EstimatorSpec
from hpo.spec.loading import canonical, validate
from hpo.spec.space import as_choice, distributions
from hpo.spec.writing import write_toml
from hpo.study.points.checking import check_points, read_points
from hpo.study.points.first import first_points
from tests.support.studies import make_spec


def made(given: dict[str, Any] | None = None, **section: Any) -> Any:
    return make_estimator(EstimatorSpec.model_validate(section), given or {}, 5)


def steps_of(model: Any) -> list[str]:
    return [type(step).__name__ for _, step in getattr(model, "steps", [("", model)])]


def test_a_short_name_and_its_class_are_one():
    for name, entry in REGISTRY.items():
        if name == "random_forest_intelex":
            continue  # the class of that name is scikit-learn's
        of_class = lookup(entry.class_name)
        assert of_class is not None
        assert (of_class.factory, of_class.fixed) == (entry.factory, entry.fixed), name


def test_every_class_that_a_module_offers_is_there():
    import importlib

    for name, module in sklearn_classes().items():
        assert hasattr(importlib.import_module(module), name), name


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("random-forest", "random_forest"),
        ("randomforestregressor", "RandomForestRegressor"),
        ("Gradient-Boosting-Regressor", "GradientBoostingRegressor"),
        ("XGBoostRegressor", "XGBRegressor"),
        ("LGBRegressor", "LGBMRegressor"),
        ("Catboost_Regressor", "CatBoostRegressor"),
    ],
)
def test_a_wrong_name_is_told_the_nearest(wrong, meant):
    assert nearest(wrong, [*REGISTRY, *sklearn_classes(), "LGBMRegressor"]) == meant
    with pytest.raises(SpecError, match=f"unknown '{wrong}'; did you mean"):
        find(wrong, "[estimator] name")


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(registry, "find_module", lambda name: None)
    for name, package in (("XGBRegressor", "xgboost"), ("random_forest_intelex", "sklearnex")):
        with pytest.raises(SpecError, match=rf"needs the package {package}.*install 'hpo\["):
            made(name=name)


def test_a_forest_of_an_extra_is_named_in_the_fingerprint(monkeypatch):
    from hpo.study.identity.fingerprint import fingerprint_of_spec

    found = {"sklearnex": ["scikit-learn-intelex"]}
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: found)
    specs = [
        make_spec(estimator={"name": name}, space={}, trials=1)
        for name in ("random_forest", "random_forest_intelex")
    ]
    usual, theirs = (registry.extra_packages(spec.estimator) for spec in specs if spec.estimator)
    assert (usual, theirs) == ((), ("scikit-learn-intelex",))
    parts = [fingerprint_of_spec(spec)["objective"] for spec in specs]
    assert parts[0] != parts[1]


def test_a_forest_of_an_extra_predicts_as_well_as_scikit_learns():
    pytest.importorskip("sklearnex")
    source = np.random.default_rng(0)
    X = source.normal(size=(400, 6))
    y = X[:, 0] + np.sin(3.0 * X[:, 1]) + 0.3 * source.normal(size=400)
    errors = []
    for name in ("random_forest", "random_forest_intelex"):
        models = [made({"n_estimators": 100, "random_state": k}, name=name) for k in range(3)]
        found = [one.fit(X[:300], y[:300]).predict(X[300:]) for one in models]
        errors.append(np.sqrt(np.mean((np.array(found) - y[300:]) ** 2)))
    assert models[0].n_jobs == 1
    assert errors[1] == pytest.approx(errors[0], rel=0.06)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"name": "SVR"}, ["SimpleImputer", "StandardScaler", "SVR"]),
        ({"name": "SVR", "scale": False}, ["SimpleImputer", "SVR"]),
        ({"name": "SVR", "impute": False}, ["StandardScaler", "SVR"]),
        ({"name": "SVR", "impute": False, "scale": False}, ["SVR"]),
        ({"name": "KNeighborsRegressor"}, ["SimpleImputer", "StandardScaler"]),
        ({"name": "k_neighbors"}, ["SimpleImputer", "KNeighborsRegressor"]),
        ({"name": "RandomForestRegressor"}, ["RandomForestRegressor"]),
        ({"name": "RandomForestRegressor", "scale": True}, ["StandardScaler"]),
        ({"name": "GradientBoostingRegressor"}, ["SimpleImputer", "GradientBoostingRegressor"]),
        ({"name": "sklearn.svm:SVR"}, ["SimpleImputer", "StandardScaler", "SVR"]),
        ({"name": "sklearn.svm:SVR", "scale": False}, ["SimpleImputer", "SVR"]),
        (
            {"name": "BaggingRegressor", "params": {"estimator": {"name": "SVR"}}},
            ["SimpleImputer", "StandardScaler", "BaggingRegressor"],
        ),
        ({"steps": [{"name": "PCA"}, {"name": "SVR"}]}, ["PCA", "SVR"]),
        ({"steps": [{"name": "SVR"}], "impute": True}, ["SimpleImputer", "Pipeline"]),
    ],
)
def test_what_is_put_before_is_what_tags_and_kind_ask_for(section, expected):
    found = steps_of(made(**section))
    assert all(name.startswith(want) for name, want in zip(found, expected, strict=False))
    spec = make_spec(estimator=section, space={}, trials=1)
    said = " ".join(prepare(spec, ()).put_before)
    for name in ("SimpleImputer", "StandardScaler"):
        assert (name in said) == (name in found)


BOOSTING = {"name": "hist_gradient_boosting"}


@pytest.mark.parametrize(
    ("section", "many", "few"),
    [
        (BOOSTING, "false", None),
        ({"name": "sklearn.ensemble:HistGradientBoostingRegressor"}, "false", None),
        ({"name": "TransformedTargetRegressor", "params": {"regressor": BOOSTING}}, "false", None),
        ({"steps": [{"name": "PCA"}, BOOSTING]}, "false", None),
        ({**BOOSTING, "params": {"early_stopping": "auto"}}, '"auto"', None),
        ({**BOOSTING, "params": {"early_stopping": True}}, "true", "true"),
        ({"name": "MLPRegressor", "params": {"early_stopping": True}}, "true", "true"),
        ({"name": "MLPRegressor"}, None, None),
        ({"name": "lightgbm"}, None, None),
    ],
)
def test_early_stopping_is_left_to_no_default_and_said_where_it_matters(section, many, few):
    spec = make_spec(estimator=section, space={}, trials=1)
    bound = prepare(spec, ())
    for n_rows, value in ((10_001, many), (10_000, few)):
        said = "".join(bound.notes(n_rows))
        assert (f"early_stopping = {value}: " in said) if value else not said
    set_to = [v for k, v in bound.make({}).get_params().items() if k.endswith("early_stopping")]  # type: ignore[attr-defined]
    asked = any("early_stopping" in str(one) for one in section.values())
    assert "auto" not in set_to or asked


def test_every_class_that_would_stop_by_the_number_of_rows_is_told_not_to():
    found = [name for name in sklearn_classes() if registry.stops_by_rows(find(name, "name")[1])]
    assert found == ["HistGradientBoostingClassifier", "HistGradientBoostingRegressor"]
    for name in found:
        assert made(name=name).early_stopping is False
        spec = EstimatorSpec(name=name)
        assert default_params(spec)["early_stopping"] is False


def test_what_stands_within_an_estimator_is_made_and_seeded():
    model: Any = made(
        name="TransformedTargetRegressor",
        params={
            "regressor": {"name": "RandomForestRegressor", "params": {"max_depth": "None"}},
            "transformer": {"name": "MinMaxScaler", "params": {"feature_range": [0, 2]}},
        },
    )[-1]
    assert (model.regressor.random_state, model.regressor.n_jobs) == (5, None)
    assert model.regressor.max_depth is None
    assert model.transformer.feature_range == (0, 2)
    within: Any = made(
        {"estimator__C": 3.0}, name="BaggingRegressor", params={"estimator": {"name": "SVR"}}
    )[-1]
    assert within.estimator.C == 3.0
    stacked = made(
        name="StackingRegressor",
        params={"estimators": {"a": {"name": "Ridge"}, "b": {"name": "SVR"}}},
    )[-1]
    assert [(key, type(one).__name__) for key, one in stacked.estimators] == [
        ("a", "Ridge"),
        ("b", "SVR"),
    ]
    kernel = {
        "name": "Sum",
        "params": {
            "k1": {"name": "RBF", "params": {"length_scale": 2.0}},
            "k2": {"name": "WhiteKernel"},
        },
    }
    process = made(name="GaussianProcessRegressor", params={"kernel": kernel})[-1]
    assert str(process.kernel) == "RBF(length_scale=2) + WhiteKernel(noise_level=1)"


STEPS = [
    {"name": "SimpleImputer"},
    {"step": "reduce", "name": "PCA", "params": {"n_components": 2}},
    {"name": "Ridge"},
]


def test_steps_are_scikit_learns_pipeline_with_its_names():
    model = made({"reduce__n_components": 3, "ridge__alpha": 0.5}, steps=STEPS)
    assert [key for key, _ in model.steps] == ["simpleimputer", "reduce", "ridge"]
    assert (model["reduce"].n_components, model["reduce"].random_state) == (3, 5)
    assert (model["ridge"].alpha, made(steps=STEPS)["reduce"].n_components) == (0.5, 2)
    assert made({"reduce": "passthrough", "reduce__n_components": 1}, steps=STEPS)[1] == (
        "passthrough"
    )
    assert type(made({"reduce": "StandardScaler"}, steps=STEPS)[1]).__name__ == "StandardScaler"
    chosen = as_choice({"name": "PCA", "params": {"n_components": 1}})
    assert made({"reduce": chosen}, steps=STEPS)["reduce"].n_components == 1


@pytest.mark.parametrize(
    ("section", "params", "message"),
    [
        ({"steps": STEPS}, {"alpha": 1.0}, "'alpha' is no parameter of a step"),
        ({"steps": STEPS}, {"ridge__alhpa": 1.0}, "no parameter 'alhpa'; did you mean 'alpha'"),
        ({"steps": STEPS}, {"reduce": 3}, "step 'reduce' must be the name of a class"),
        ({"steps": [{"name": "PAC"}, {"name": "Ridge"}]}, {}, "step 'pac': unknown 'PAC'"),
        ({"name": "SVR"}, {"estimator__C": 1.0}, "no parameter 'estimator__C'"),
        (
            {"name": "BaggingRegressor", "params": {"estimator": {"name": "SVRR"}}},
            {},
            "name: estimator: unknown 'SVRR'; did you mean 'SVR'",
        ),
        ({"name": "RandomForestRegressor", "params": {"n_jobs": 2}}, {}, "'n_jobs' is set to 1"),
        ({"name": "CatBoostRegressor", "params": {"thread_count": 2}}, {}, "set to 1 by every"),
    ],
)
def test_what_is_no_estimator_is_named(section, params, message):
    with pytest.raises(SpecError, match=message):
        made(params, **section)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"name": "SVR", "steps": STEPS}, "steps make a Pipeline, name is 'SVR'"),
        ({"name": "Pipeline"}, "name: required and missing, or steps"),
        ({"steps": STEPS, "params": {"a": 1}}, "params belong to the steps"),
        ({"steps": [{"name": "PCA"}, {"name": "PCA"}]}, "'pca' is no name for one step alone"),
    ],
)
def test_a_section_that_says_it_twice_is_refused(section, message):
    with pytest.raises(SpecError, match=message):
        make_spec(estimator=section, space={}, trials=1)


# None, lists and sections as values ------------------------------------------------------------


CHOICES = {
    "max_depth": {"type": "categorical", "choices": ["None", 3, 8]},
    "max_features": {"type": "categorical", "choices": [0.5, "sqrt"]},
}
LAYERS = {"hidden_layer_sizes": {"type": "categorical", "choices": [[8], [4, 4], [100]]}}


def test_none_and_lists_are_texts_that_optuna_has_and_values_that_estimators_have():
    spec = make_spec(estimator={"name": "MLPRegressor"}, space=LAYERS)
    stored = distributions(spec.space)["hidden_layer_sizes"].choices  # type: ignore[attr-defined]
    assert stored == ("[8]", "[4, 4]", "[100]")
    model = make_estimator(EstimatorSpec(name="MLPRegressor"), {"hidden_layer_sizes": "[4, 4]"}, 0)
    assert model[-1].hidden_layer_sizes == [4, 4]  # type: ignore[index]
    forest: Any = make_estimator(EstimatorSpec(name="random_forest"), {"max_depth": "None"}, 0)
    assert forest.max_depth is None


def test_a_study_with_them_reads_back_as_it_was():
    estimator = {
        "steps": [{"name": "PCA", "params": {"whiten": True}}, {"name": "MLPRegressor"}],
        "impute": True,
    }
    pca = {"name": "PCA", "params": {"n_components": 2}}
    space = {
        "mlpregressor__hidden_layer_sizes": LAYERS["hidden_layer_sizes"],
        "pca": {"type": "categorical", "choices": ["passthrough", pca]},
    }
    spec = make_spec(estimator=estimator, space=space)
    import tomllib

    again = validate(tomllib.loads(write_toml(spec)), "again")
    assert canonical(again) == canonical(spec)
    assert again == spec
    # What is not written is not stored: a study of an earlier version is what it was.
    assert '"steps"' not in canonical(make_spec().estimator)


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ({"max_depth": "None"}, {"max_depth": "None"}),
        ({"max_depth": None}, {"max_depth": "None"}),
        ({"max_depth": 3}, {"max_depth": 3}),
    ],
)
def test_points_have_none(point, expected):
    spec = make_spec(estimator={"name": "random_forest"}, space=CHOICES)
    assert check_points(spec, [point]) == [expected]


def test_points_have_lists_from_a_file_and_from_toml(tmp_path):
    spec = make_spec(estimator={"name": "MLPRegressor"}, space=LAYERS)
    (tmp_path / "points.csv").write_text('hidden_layer_sizes\n"[4,4]"\n[8]\n')
    read = check_points(spec, read_points(tmp_path / "points.csv"))
    assert [one["hidden_layer_sizes"] for one in read] == ["[4, 4]", "[8]"]
    with pytest.raises(SpecError, match=r"must be one of \[8\], \[4, 4\], \[100\], is \[5\]"):
        check_points(spec, [{"hidden_layer_sizes": [5]}])


def test_defaults_that_are_none_or_lists_are_points():
    spec = make_spec(estimator={"name": "random_forest"}, space=CHOICES, start_with_defaults=True)
    first = first_points(spec)
    assert first.points == [{"max_depth": "None"}]
    assert "max_features is drawn" in " ".join(first.notes)
    layers = make_spec(estimator={"name": "MLPRegressor"}, space=LAYERS, start_with_defaults=True)
    assert first_points(layers).points == [{"hidden_layer_sizes": "[100]"}]


# Names of the table, and functions -------------------------------------------------------------

NAMES = TableNames(("a", "b", "c"), ("low", "mid", "top"))


def named(given: dict[str, Any] | None = None, **section: Any) -> Any:
    return make_estimator(EstimatorSpec.model_validate(section), given or {}, 5, NAMES)


def test_class_weights_are_named_by_label():
    weights = {"low": 1, "top": 5}
    for section in (
        {"name": "RandomForestClassifier", "params": {"class_weight": weights}},
        {"steps": [{"name": "RandomForestClassifier", "params": {"class_weight": weights}}]},
    ):
        assert steps_of(named(**section))
        model = named(**section)
        forest = getattr(model, "steps", [("", model)])[-1][1]
        assert forest.class_weight == {0: 1, 2: 5}
    inner = {"rf": {"name": "RandomForestClassifier"}, "svm": {"name": "LinearSVC"}}
    voting = named(
        {"rf__class_weight": as_choice(weights), "svm__class_weight": "balanced"},
        name="VotingClassifier",
        params={"estimators": inner},
        impute=False,
        scale=False,
    )
    assert voting.estimators[0][1].class_weight == {0: 1, 2: 5}
    assert voting.estimators[1][1].class_weight == "balanced"
    with pytest.raises(SpecError, match=r"class_weight: 'tip' is no class; did you mean 'top'"):
        named(name="LogisticRegression", params={"class_weight": {"tip": 2}})


def test_columns_of_a_column_transformer_are_named():
    params = {"transformers": [["some", {"name": "StandardScaler"}, ["c", "a"]]]}
    steps = [{"name": "ColumnTransformer", "params": params}, {"name": "Ridge"}]
    X = np.array([[1.0, 2.0, 30.0], [2.0, 5.0, 10.0], [4.0, 6.0, 20.0]])
    first = named(steps=steps).steps[0][1].fit(X)
    scaled = (X - X.mean(axis=0)) / X.std(axis=0)
    np.testing.assert_allclose(first.transform(X), scaled[:, [2, 0]])
    params["transformers"][0][2] = ["d"]
    with pytest.raises(SpecError, match="transformers: the table has no column 'd'"):
        named(steps=steps)


def test_functions_of_numpy_and_scikit_learn_are_named():
    ridge = {"regressor": {"name": "Ridge"}, "func": "numpy:exp", "inverse_func": "numpy:log"}
    model = made(name="TransformedTargetRegressor", params=ridge, impute=False, scale=False)
    assert model.func is np.exp
    score = {"score_func": "sklearn.feature_selection:f_regression"}
    chosen = made(steps=[{"name": "SelectKBest", "params": score}, {"name": "Ridge"}])
    assert callable(chosen.steps[0][1].score_func)
    with pytest.raises(SpecError, match="has no 'expp'"):
        made(name="FunctionTransformer", params={"func": "numpy:expp"})


def test_experimental_classes_are_found():
    assert steps_of(made(steps=[{"name": "IterativeImputer"}, {"name": "Ridge"}])) == [
        "IterativeImputer",
        "Ridge",
    ]


def test_a_class_of_theirs_by_its_module_is_theirs():
    assert steps_of(made(name="sklearn.linear_model:Ridge")) == steps_of(made(name="Ridge"))
    assert made(name="lightgbm:LGBMRegressor").verbosity == -1
    with pytest.raises(SpecError, match="did you mean 'Ridge'"):
        made(name="sklearn.linear_model.Ridge")


def test_what_every_worker_sets_may_be_said():
    assert made(name="random_forest", params={"n_jobs": 1}).n_jobs == 1
    with pytest.raises(SpecError, match="'n_jobs' is set to 1"):
        made(name="random_forest", params={"n_jobs": -1})


# Families --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(hand_table):
    return features.table.read(hand_table)


def families_of(table) -> list[str]:
    return list(dict.fromkeys(column.family for column in table.columns))


def test_families_are_a_dimension_of_the_search(table):
    first, *others = families_of(table)
    choices = [[first], [first, *others]] if others else [[first]]
    spec = make_spec(space={"seen": {"type": "families", "choices": choices}}, trials=2)
    objective: Any = make_objective(spec, table)
    stored = distributions(spec.space)["seen"].choices  # type: ignore[attr-defined]
    model = objective.fit({"seen": stored[0]})
    seen = [k for k, column in enumerate(table.columns) if column.family == first]
    X = table.train.X
    hidden = np.delete(np.arange(X.shape[1]), seen)
    shuffled = X.copy()
    shuffled[:, hidden] = 7.0
    np.testing.assert_array_equal(model.predict(X), model.predict(shuffled))
    plain = make_estimator(objective.estimator, {}, spec.seed).fit(X[:, seen], table.train.y)
    np.testing.assert_allclose(model.predict(X), plain.predict(X[:, seen]))
    check_estimator(spec, table.columns)
    assert objective.score_part({"seen": stored[-1]}, 0)["score"] > 0


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ([["nothing"]], "the table has no family 'nothing'"),
        ([[]], "choices must be lists of families"),
        ([["a", "b"], ["b", "a"]], "differ from one another"),
    ],
)
def test_families_that_are_none_are_refused(table, choices, message):
    space = {"seen": {"type": "families", "choices": choices}}
    with pytest.raises(SpecError, match=message):
        prepare(make_spec(space=space, trials=1), table.columns)


def test_members_of_an_ensemble_see_what_is_left_of_theirs(table):
    first = families_of(table)[0]
    spec = make_spec(
        estimator={"name": "ensemble", "members": {"a": {"name": "ridge"}, "b": {"name": "SVR"}}},
        space={"seen": {"type": "families", "choices": [[first]]}},
        trials=1,
    )
    bound = prepare(spec, table.columns)
    model: Any = bound.make({"seen": as_choice([first])})
    seen = tuple(k for k, column in enumerate(table.columns) if column.family == first)
    assert dict(model.columns) == {"a": seen, "b": seen}


def test_expected_columns_are_known_to_the_check():
    spec = make_spec(space={"seen": {"type": "families", "choices": [["magpie"], ["ratios"]]}})
    columns = expected_columns(spec)
    if not columns:
        pytest.skip("a table of the study's own")
    families = {column.family for column in columns}
    wanted = {"magpie", "ratios"}
    if wanted <= families:
        check_estimator(spec, columns)
    else:
        with pytest.raises(SpecError, match="the table has no family"):
            check_estimator(spec, columns)


def test_a_transformer_is_seeded_too():
    step = made(steps=[{"name": "PCA"}, {"name": "Ridge"}])["pca"]
    assert isinstance(step, PCA)
    assert step.random_state == 5
