"""Composite estimators: each against the same done by hand, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GroupKFold
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags

import features.table
from features.table import Column, Target
from hpo.errors import ObjectiveError, SpecError
from hpo.estimators.checks import check_estimator, expected_columns
from hpo.estimators.composite import EnsembleRegressor, GatedRegressor
from hpo.estimators.factory import make_estimator, prepare
from hpo.objectives.cross_validation import CrossValidation
from hpo.objectives.factory import make_objective
from hpo.spec.loading import canonical, load, validate
from hpo.spec.sections import BoundEnsembleSpec, BoundGatedSpec, GatedSpec
from hpo.study.fingerprint import fingerprint
from tests.support.studies import make_spec

# Columns: two plain ones, one scalar behind the gate, two indicators.
BASE, SECOND, GATE, SCALAR = (0, 1), (0, 1, 2, 3, 4), (3, 4), (2,)
COLUMNS = [
    Column("x0", "plain"),
    Column("x1", "plain"),
    Column("barrier", "physics"),
    Column("has_barrier", "physics"),
    Column("has_more", "physics"),
]
GATED = {
    "name": "gated",
    "gate": ["has_barrier", "has_more"],
    "base": {"name": "ridge", "without": ["physics"]},
    "second": {"name": "ridge"},
}


def make_rows(n=120, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 5))
    X[:, 3] = np.arange(n) % 2
    X[:, 4] = np.arange(n) % 3 != 0
    y = X[:, 0] + X[:, 3] * X[:, 4] * 2.0 * X[:, 2] + 0.1 * rng.normal(size=n)
    X[X[:, 3] == 0, 2] = 0.0
    return X, y


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    X, y = make_rows()
    path = features.table.write(
        tmp_path_factory.mktemp("tables"),
        dataset="gated",
        ids=[f"row-{i}" for i in range(len(y))],
        formulas=["Li2O"] * len(y),
        X=X,
        y=y,
        groups=[f"group-{i // 4}" for i in range(len(y))],
        is_train=np.arange(len(y)) < 96,
        columns=COLUMNS,
        target=Target("y"),
    )
    return features.table.read(path)


def tree():
    return HistGradientBoostingRegressor(max_iter=20, min_samples_leaf=5, random_state=0)


def gated(combiner=None, **settings):
    return GatedRegressor(
        tree(),
        LinearRegression(),
        combiner,
        base_columns=BASE,
        second_columns=SECOND,
        gate_columns=GATE,
        combiner_columns=SCALAR if combiner is not None else (),
        **settings,
    )


def passes(X):
    return (X[:, 3] == 1) & (X[:, 4] == 1)


def out_of_fold(model, X, y):
    predicted = np.zeros(len(y))
    for k in range(5):
        held = np.arange(len(y)) % 5 == k
        predicted[held] = clone(model).fit(X[~held], y[~held]).predict(X[held])
    return predicted


def expected(strategy, X, y, new):
    """Compute strategies A to D of the reports, step by step."""
    gate, behind = passes(X), passes(new)
    base = tree().fit(X[:, :2], y)
    predicted = base.predict(new[:, :2])
    if strategy == "A":
        predicted[behind] = LinearRegression().fit(X, y).predict(new[behind])
    elif strategy == "B":
        predicted[behind] = LinearRegression().fit(X[gate], y[gate]).predict(new[behind])
    else:
        at_training = (
            base.predict(X[:, :2]) if "in-sample" in strategy else out_of_fold(tree(), X[:, :2], y)
        )
        residual = (y - at_training)[gate]
        second = LinearRegression().fit(X[gate], residual)
        corrected = predicted[behind] + second.predict(new[behind])
        if strategy.startswith("C"):
            predicted[behind] = corrected
        else:
            own = (
                second.predict(X[gate])
                if "in-sample" in strategy
                else out_of_fold(LinearRegression(), X[gate], residual)
            )
            inputs = np.column_stack([at_training[gate], at_training[gate] + own, X[gate, 2]])
            combiner = tree().fit(inputs, y[gate])
            seen = np.column_stack([predicted[behind], corrected, new[behind, 2]])
            predicted[behind] = combiner.predict(seen)
    return predicted


@pytest.mark.parametrize(
    ("strategy", "model"),
    [
        ("A", gated(rows="all")),
        ("B", gated(rows="gated")),
        ("C", gated(predicts="residual")),
        ("C in-sample", gated(predicts="residual", base_predictions="in_sample")),
        ("D", gated(tree(), predicts="residual")),
        ("D in-sample", gated(tree(), predicts="residual", base_predictions="in_sample")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_strategy_is_what_it_is_by_hand(strategy, model):
    (X, y), (new, _) = make_rows(), make_rows(60, seed=1)
    before = new.copy()
    predicted = clone(model).fit(X, y).predict(new)
    np.testing.assert_allclose(predicted, expected(strategy, X, y, new), rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(predicted, clone(model).fit(X, y).predict(new))
    np.testing.assert_array_equal(new, before)
    closed = ~passes(new)
    base = tree().fit(X[:, :2], y).predict(new[:, :2])
    np.testing.assert_array_equal(predicted[closed], base[closed])
    assert (predicted[~closed] != base[~closed]).all()


def test_a_base_model_is_fitted_once_for_all_second_models(monkeypatch):
    X, y = make_rows()
    fits = []
    plain = HistGradientBoostingRegressor.fit

    def fit(self, *arguments, **settings):
        fits.append(self.get_params())
        return plain(self, *arguments, **settings)

    monkeypatch.setattr(HistGradientBoostingRegressor, "fit", fit)
    X[0, 0] += 0.001  # rows that no other test has fitted to
    first = gated(predicts="residual").fit(X, y)
    assert len(fits) == 6  # one on all rows, five out of fold
    other = gated(predicts="residual").set_params(second=LinearRegression(fit_intercept=False))
    second = other.fit(X, y)
    assert len(fits) == 6
    assert not np.array_equal(first.predict(X), second.predict(X))
    gated(predicts="residual").set_params(base__max_iter=21).fit(X, y)
    assert len(fits) == 12
    gated(predicts="residual").fit(X, y + 1.0)
    assert len(fits) == 18


def test_the_second_model_helps_where_the_gate_is_open():
    (X, y), (new, truth) = make_rows(300), make_rows(100, seed=1)
    open_ = passes(new)
    corrected = gated(predicts="residual").fit(X, y).predict(new)
    base = tree().fit(X[:, :2], y).predict(new[:, :2])
    assert np.abs(corrected - truth)[open_].mean() < 0.5 * np.abs(base - truth)[open_].mean()


@pytest.mark.parametrize("n_open", [0, 1])
def test_with_nothing_to_learn_from_it_is_the_base_model(n_open):
    (X, y), (new, _) = make_rows(), make_rows(60, seed=1)
    X[:, 3] = 0.0
    X[:n_open, 3:] = 1.0
    predicted = gated(tree(), predicts="residual").fit(X, y).predict(new)
    np.testing.assert_array_equal(predicted, tree().fit(X[:, :2], y).predict(new[:, :2]))


def test_a_missing_indicator_falls_back():
    X, y = make_rows()
    model = gated().fit(X, y)
    new = X[passes(X)][:1].copy()
    new[0, 3] = np.nan
    np.testing.assert_array_equal(model.predict(new), model.base_.predict(new[:, :2]))


def test_no_row_behind_the_gate_and_two_rows_in_training_are_no_trouble():
    X, y = make_rows()
    model = gated(tree(), predicts="residual").fit(X, y)
    assert np.isfinite(model.predict(X[~passes(X)])).all()
    X[:, 3] = 0.0
    X[:2, 3:] = 1.0
    few = gated(LinearRegression(), predicts="residual").fit(X, y)
    assert np.isfinite(few.predict(X[:2])).all()


# In a study ------------------------------------------------------------------------------------


def composite(**changes):
    return make_spec(estimator={**GATED, **changes}, space={}, trials=1)


def test_a_study_scores_it_and_repeats_itself(table):
    spec = composite(second={"name": "ridge", "params": {"alpha": 0.01}, "predicts": "residual"})
    objective = make_objective(spec, table)
    scores = objective.score_part({}, 1)
    assert scores == make_objective(spec, table).score_part({}, 1)
    plain = make_objective(make_spec(), table)
    assert scores["rmse_val"] < plain.score_part({"alpha": 1.0}, 1)["rmse_val"]


def test_columns_are_found_by_name_and_family(table):
    bound = prepare(composite(), table.columns).spec
    assert isinstance(bound, BoundGatedSpec)
    assert (bound.base_columns, bound.second_columns) == (BASE, SECOND)
    assert bound.gate_columns == GATE
    model: Any = make_estimator(bound, {"base.alpha": 2.0, "second.alpha": 3.0}, 0)
    assert (model.base[-1].alpha, model.second[-1].alpha) == (2.0, 3.0)
    with pytest.raises(ObjectiveError, match="needs the columns of a table"):
        make_estimator(composite().estimator, {}, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gate": ["has_barier"]}, r"gate: the table has no column 'has_barier'; did you mean 'ha"),
        ({"gate": ["zzz"]}, r"gate: the table has no column 'zzz'; check \[table\] families"),
        ({"base": {"name": "ridge", "without": ["phisics"]}}, r"base\] without: .* 'phisics'; did"),
        ({"base": {"name": "ridge", "without": ["physics", "plain"]}}, "leaves the model no feat"),
        (
            {"combiner": {"name": "ridge", "columns": ["bar"]}},
            r"combiner\] columns: the table has no column 'bar'",
        ),
        ({"gate": ["x0"]}, r"gate: x0 must be 1, which holds for none of the 96 training rows"),
    ],
)
def test_what_the_table_has_not_is_named(table, changes, message):
    with pytest.raises(SpecError, match=message):
        make_objective(composite(**changes), table)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gate": []}, r"estimator\.gate: .*at least 1 item"),
        ({"secnd": {}}, r"estimator\.secnd: unknown key; did you mean 'second'"),
        ({"second": {"name": "ridge", "row": "all"}}, r"second\.row: unknown key; did you mean 'r"),
        ({"second": {"name": "ridge", "rows": "some"}}, r"second\.rows: unknown 'some'"),
        ({"base": {}}, r"estimator\.base\.name: required and missing"),
        ({"params": {"alpha": 1.0}}, r"below base\.params or second\.params"),
        ({"second": {"name": "gated"}}, "second: gated is made of models itself; name a plain one"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(changes, message):
    with pytest.raises(SpecError, match=message):
        composite(**changes)


ALPHA = {"type": "float", "low": 0.001, "high": 10.0}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"alpha": ALPHA}, r"'alpha' belongs to one of its models; name which \(base\.alpha, sec"),
        ({"secnd": {"alpha": ALPHA}}, "no model 'secnd' to set 'secnd.alpha' of; did you mean 's"),
        ({"second": {"aplha": ALPHA}}, r"\[estimator\.second\] ridge has no parameter 'aplha'; d"),
        ({"second": {"alpha": {**ALPHA, "low": -1.0}}}, r"refuses {'second\.alpha': -1\.0}"),
    ],
)
def test_a_wrong_name_in_the_space_is_named(space, message):
    gate = {"gate": ["n_elements"], "base": {"name": "ridge"}}
    spec = make_spec(estimator={**GATED, **gate}, space=space)
    with pytest.raises(SpecError, match=message):
        check_estimator(spec, expected_columns(spec))


def test_parameters_are_named_by_section_or_by_dotted_key(tmp_path):
    head = """
trials = 3
[table]
dataset = "transport"
families = ["ratios"]
[cv]
scheme = "kfold"
[estimator]
name = "gated"
gate = ["n_elements"]
base.name = "ridge"
second.name = "ridge"
second.params.fit_intercept = false
"""
    line = 'max_iter = { type = "int", low = 1, high = 9 }\n'
    files = [f"[space.second]\n{line}", f"[space]\nsecond.{line}", f'[space]\n"second.{line}']
    files[2] = files[2].replace("max_iter =", 'max_iter" =')
    specs = []
    for text in files:
        (tmp_path / "mine.toml").write_text(head + text)
        specs.append(load(tmp_path / "mine.toml"))
    assert specs[0] == specs[1] == specs[2]
    assert list(specs[0].space) == ["second.max_iter"]
    assert validate(json.loads(canonical(specs[0])), "stored") == specs[0]
    again = load(tmp_path / "mine.toml", ["estimator.inner_folds=3"]).estimator
    assert isinstance(again, GatedSpec)
    assert again.inner_folds == 3
    (tmp_path / "mine.toml").write_text(head + files[0].replace("max_iter", "fit_intercept"))
    with pytest.raises(SpecError, match=r"second\.fit_intercept: fixed in .* and in \[space\]"):
        load(tmp_path / "mine.toml")


# Ensembles -------------------------------------------------------------------------------------

ENSEMBLE = {
    "name": "ensemble",
    "members": {"plain": {"name": "ridge", "without": ["physics"]}, "all": {"name": "ridge"}},
}


def folds_of(study, table):
    made = make_objective(study, table)
    assert isinstance(made, CrossValidation)
    return made


def ensemble(combiner=None, **settings):
    members = {"tree": tree(), "line": LinearRegression()}
    return EnsembleRegressor(
        members, columns={"tree": BASE, "line": SECOND}, combiner=combiner, **settings
    )


def test_an_ensemble_is_the_mean_of_its_members():
    (X, y), (new, _) = make_rows(), make_rows(60, seed=1)
    predicted = ensemble().fit(X, y).predict(new)
    alone = [tree().fit(X[:, :2], y).predict(new[:, :2]), LinearRegression().fit(X, y).predict(new)]
    np.testing.assert_allclose(predicted, np.mean(alone, axis=0), rtol=1e-12)


@pytest.mark.parametrize("grouped", [False, True])
def test_stacking_is_what_it_is_by_hand(grouped):
    (X, y), (new, _) = make_rows(), make_rows(60, seed=1)
    groups = np.array([f"paper {i // 7}" for i in range(len(y))]) if grouped else None
    fold = np.arange(len(y)) % 4
    if grouped:
        for k, (_, held) in enumerate(GroupKFold(4).split(X, groups=groups)):
            fold[held] = k
    inputs = np.empty((len(y), 2))
    for k in range(4):
        seen, held = fold != k, fold == k
        inputs[held, 0] = tree().fit(X[seen, :2], y[seen]).predict(X[held, :2])
        inputs[held, 1] = LinearRegression().fit(X[seen], y[seen]).predict(X[held])
    combiner = LinearRegression().fit(inputs, y)
    alone = [tree().fit(X[:, :2], y).predict(new[:, :2]), LinearRegression().fit(X, y).predict(new)]
    stacked = ensemble(LinearRegression(), inner_folds=4).fit(X, y, groups=groups)
    np.testing.assert_allclose(
        stacked.predict(new), combiner.predict(np.column_stack(alone)), rtol=1e-10
    )


def test_a_combiner_may_see_all_features_and_rows_may_weigh_differently():
    (X, y), (new, _) = make_rows(), make_rows(60, seed=1)
    weights = np.random.default_rng(2).uniform(0.1, 2.0, len(y))
    fold = np.arange(len(y)) % 5
    model = EnsembleRegressor(
        {"near": KNeighborsRegressor(3), "line": make_pipeline(StandardScaler(), Ridge())},
        columns={"near": BASE, "line": SECOND},
        combiner=LinearRegression(),
        passthrough=True,
    )
    inputs = np.empty((len(y), 2))
    for k in range(5):
        seen, held = fold != k, fold == k
        near = KNeighborsRegressor(3).fit(X[seen, :2], y[seen])
        line = clone(model.members["line"]).fit(
            X[seen], y[seen], ridge__sample_weight=weights[seen]
        )
        inputs[held] = np.column_stack([near.predict(X[held, :2]), line.predict(X[held])])
    combiner = LinearRegression().fit(np.column_stack([inputs, X]), y, sample_weight=weights)
    near = KNeighborsRegressor(3).fit(X[:, :2], y)
    line = clone(model.members["line"]).fit(X, y, ridge__sample_weight=weights)
    alone = [near.predict(new[:, :2]), line.predict(new)]
    np.testing.assert_allclose(
        model.fit(X, y, sample_weight=weights).predict(new),
        combiner.predict(np.column_stack([*alone, new])),
        rtol=1e-9,
    )
    assert not get_tags(model).input_tags.allow_nan
    assert get_tags(ensemble(tree()).set_params(members={"tree": tree()})).input_tags.allow_nan


def test_groups_weigh_as_the_study_file_says(hand_table):
    table = features.table.read(hand_table)
    study = make_spec(fit={"group_weight": 0.5}, space={}, trials=1)
    objective = folds_of(study, table)
    _, group, sizes = np.unique(table.train.groups, return_inverse=True, return_counts=True)
    weights = sizes[group] ** -0.5
    assert len(set(weights)) > 1
    rows = objective.folds[0].train
    by_hand = make_estimator(objective.estimator, {}, 0)
    fitted = objective.fit({}, rows)
    # Weights have the mean 1, which ridge's penalty is relative to.
    scaled = weights / weights.mean()
    by_hand.fit(table.train.X[rows], table.train.y[rows], ridge__sample_weight=scaled[rows])
    np.testing.assert_array_equal(fitted.predict(table.test.X), by_hand.predict(table.test.X))
    plain = make_spec(space={}, trials=1)
    objectives = [make_objective(spec, table) for spec in (plain, study)]
    hashes = [
        fingerprint(spec, table, objective)["objective"]
        for spec, objective in zip((plain, study), objectives, strict=True)
    ]
    assert hashes[0] != hashes[1]


@pytest.mark.parametrize("power", [0.0, 1.5])
def test_a_weight_out_of_range_is_named(power):
    with pytest.raises(SpecError, match=r"fit\.group_weight: .*, got "):
        make_spec(fit={"group_weight": power})


def test_an_estimator_without_weights_is_named():
    spec = make_spec(
        estimator={"name": "k_neighbors"}, fit={"group_weight": 0.5}, space={}, trials=1
    )
    with pytest.raises(SpecError, match="'k_neighbors' takes no weights of rows"):
        check_estimator(spec, expected_columns(spec))


def test_groups_reach_the_inner_folds_where_the_folds_of_the_study_keep_them(table):
    spec = {**ENSEMBLE, "combiner": {"name": "ridge"}}
    grouped = make_spec(estimator=spec, space={}, trials=1, cv={"scheme": "group_kfold"})
    mixed = make_spec(estimator=spec, space={}, trials=1, cv={"scheme": "interleaved"})
    train = table.train
    for study, groups in ((grouped, train.groups), (mixed, None)):
        objective = folds_of(study, table)
        by_hand = make_estimator(objective.estimator, {}, study.seed)
        by_hand.fit(train.X, train.y, groups=groups)
        np.testing.assert_array_equal(objective.fit({}).predict(train.X), by_hand.predict(train.X))
    fitted = [folds_of(study, table).fit({}).combiner_[-1].coef_ for study in (grouped, mixed)]
    assert not np.array_equal(*fitted)


def test_members_see_their_columns_and_take_their_parameters(table):
    bound = prepare(make_spec(estimator=ENSEMBLE, space={}, trials=1), table.columns).spec
    assert isinstance(bound, BoundEnsembleSpec)
    assert bound.member_columns == {"plain": BASE, "all": SECOND}
    model: Any = make_estimator(bound, {"plain.alpha": 2.0, "all.alpha": 3.0}, 0)
    assert [member[-1].alpha for member in model.members.values()] == [2.0, 3.0]


def test_an_ensemble_predicts_a_quantile_where_all_members_do(table):
    objective = {"name": "quantile", "level": 0.9}
    boosted = {"name": "hist_gradient_boosting", "params": {"max_iter": 10}}
    estimator = {"name": "ensemble", "members": {"a": boosted, "b": boosted}}
    study = make_spec(estimator=estimator, objective=objective, space={}, trials=1)
    made = folds_of(study, table)
    model: Any = make_estimator(made.estimator, {}, 0)
    assert [(m.loss, m.quantile) for m in model.members.values()] == [("quantile", 0.9)] * 2
    assert made.score_part({}, 0)["coverage_train"] > 0.7
    with pytest.raises(SpecError, match=r"'ridge' predicts no quantiles; .* or in an ensemble"):
        make_objective(
            make_spec(estimator=ENSEMBLE, objective=objective, space={}, trials=1), table
        )
    stacked = {**ENSEMBLE, "combiner": boosted}
    study = make_spec(estimator=stacked, objective=objective, space={}, trials=1)
    model = make_estimator(folds_of(study, table).estimator, {}, 0)
    assert (model.combiner.loss, model.combiner.quantile) == ("quantile", 0.9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members": {}}, r"estimator\.members: .*at least 1 item"),
        ({"members": {"one": {"name": "ridge"}}}, "the mean of one alone is that model"),
        ({"params": {"alpha": 1.0}}, r"below members\.plain\.params or members\.all\.params"),
        (
            {"members": {"a": {"name": "ridge"}, "b": {"name": "ensemble"}}},
            "b: ensemble is made of models itself",
        ),
        (
            {"members": {"a": {"name": "ridge"}, "combiner": {"name": "ridge"}}},
            "members: 'combiner' is no name for a member",
        ),
        ({"member": {}}, r"estimator\.member: unknown key; did you mean 'members'"),
    ],
)
def test_what_is_wrong_with_an_ensemble_is_named(changes, message):
    with pytest.raises(SpecError, match=message):
        make_spec(estimator={**ENSEMBLE, **changes}, space={}, trials=1)


def test_a_ranker_is_no_member():
    members = {"a": {"name": "ridge"}, "b": {"name": "lightgbm_ranker"}}
    spec = make_spec(estimator={"name": "ensemble", "members": members}, space={}, trials=1)
    with pytest.raises(SpecError, match="b: lightgbm_ranker predicts scores that have no unit"):
        check_estimator(spec, expected_columns(spec))


def test_a_wrong_parameter_of_a_member_names_its_section():
    spec = make_spec(estimator=ENSEMBLE, space={"all": {"aplha": ALPHA}})
    with pytest.raises(SpecError, match=r"family 'physics'"):
        check_estimator(spec, expected_columns(spec))
    members = {"a": {"name": "ridge"}, "b": {"name": "ridge"}}
    spec = make_spec(
        estimator={"name": "ensemble", "members": members}, space={"b": {"aplha": ALPHA}}
    )
    with pytest.raises(SpecError, match=r"\[estimator\.members\.b\] ridge has no parameter 'apl"):
        check_estimator(spec, expected_columns(spec))
