"""Gated estimators: each strategy against the same done by hand, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression

from hpo.errors import ObjectiveError, SpecError
from hpo.estimators.checks import check_estimator, expected_columns
from hpo.estimators.composite import GatedRegressor
from hpo.estimators.factory import make_estimator, prepare
from hpo.objectives.factory import make_objective
from hpo.spec.estimators import BoundGatedSpec, GatedSpec
from hpo.spec.loading import canonical, load, validate
from tests.support.composites import (
    ALPHA,
    BASE,
    GATE,
    SCALAR,
    SECOND,
    make_rows,
    tree,
    write_rows,
)
from tests.support.studies import make_spec

GATED = {
    "name": "gated",
    "gate": ["has_barrier", "has_more"],
    "base": {"name": "ridge", "without": ["physics"]},
    "second": {"name": "ridge"},
}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("tables"))


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
        ({"base": {}}, r"estimator\.base: name: required and missing"),
        ({"params": {"alpha": 1.0}}, r"below base\.params or second\.params"),
        ({"second": {"name": "gated"}}, "second: gated is made of models itself; name a plain one"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(changes, message):
    with pytest.raises(SpecError, match=message):
        composite(**changes)


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
