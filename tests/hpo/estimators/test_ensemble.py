"""Ensembles: means and stacking against the same done by hand, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GroupKFold
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags

import features.table
from hpo.errors import SpecError
from hpo.estimators.checks import check_estimator, expected_columns
from hpo.estimators.composite import EnsembleRegressor
from hpo.estimators.factory import make_estimator, prepare
from hpo.objectives.cross_validation import CrossValidation
from hpo.objectives.factory import make_objective
from hpo.spec.estimators import BoundEnsembleSpec
from hpo.study.identity.fingerprint import fingerprint
from tests.support.composites import (
    ALPHA,
    BASE,
    SECOND,
    make_rows,
    tree,
    write_rows,
)
from tests.support.studies import make_spec

ENSEMBLE = {
    "name": "ensemble",
    "members": {"plain": {"name": "ridge", "without": ["physics"]}, "all": {"name": "ridge"}},
}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("tables"))


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
