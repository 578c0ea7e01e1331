"""scikit-learn's own battery of checks over every estimator of ours."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import pytest
from sklearn.base import BaseEstimator
from sklearn.linear_model import Ridge
from sklearn.utils.estimator_checks import check_estimator

import hpo.estimators
import studies
from hpo.estimators.composite import EnsembleRegressor, GatedRegressor
from hpo.estimators.extras.xgboost_aft import XGBAFTRegressor
from hpo.estimators.lightgbm_ranker import LightGbmRanker
from tests.support.trials import need

ONE_COLUMN = {
    "check_regressors_train": "the models see the first column alone: others are not in every table"
}
# An estimator of each class, and which checks it fails, with the reason.
CASES: dict[type, tuple[Any, dict[str, str]]] = {
    GatedRegressor: (
        lambda: GatedRegressor(
            Ridge(), Ridge(), Ridge(), base_columns=(0,), second_columns=(0,), gate_columns=(0,)
        ),
        ONE_COLUMN,
    ),
    EnsembleRegressor: (
        lambda: EnsembleRegressor(
            {"a": Ridge(), "b": Ridge(2.0)}, columns={"a": (0,), "b": (0,)}, combiner=Ridge()
        ),
        {
            **ONE_COLUMN,
            "check_sample_weight_equivalence_on_dense_data": "inner folds are divided by rows, and "
            "a row that is there twice is in two of them",
        },
    ),
    LightGbmRanker: (
        lambda: LightGbmRanker(n_estimators=3, n_jobs=1, verbosity=-1),
        {
            "check_no_attributes_set_in_init": "keeps what it hands on to LightGBM together",
            "check_do_not_raise_errors_in_init_or_set_params": "hpo check refuses a wrong value "
            "before any row is read",
        },
    ),
    XGBAFTRegressor: (lambda: XGBAFTRegressor(n_estimators=10, n_jobs=1), {}),
}


def own_estimators() -> set[type]:
    found: set[type] = set()
    for package in (hpo.estimators, studies):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            # Saddle points need extras, and the compiled module is none of Python's.
            if ".saddle" in info.name or info.name.endswith("._trees"):
                continue
            module = importlib.import_module(info.name)
            found |= {
                one
                for one in vars(module).values()
                if isinstance(one, type)
                and issubclass(one, BaseEstimator)
                and one.__module__ == info.name
                and not one.__name__.startswith("_")
            }
    return found


def test_every_estimator_of_ours_is_among_them():
    assert own_estimators() == set(CASES)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_scikit_learns_checks_pass(kind):
    if kind is LightGbmRanker:
        need("lightgbm")
    if kind is XGBAFTRegressor:
        pytest.importorskip("xgboost")
    make, expected = CASES[kind]
    found = check_estimator(make(), expected_failed_checks=expected, on_skip=None)
    failed = {one["check_name"] for one in found if one["status"] == "xfail"}
    assert failed == expected.keys(), "a check passes that was expected to fail"
    assert len(found) > 30
