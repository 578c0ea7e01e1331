"""What a table says of its rows: weights in fits, and the folds that validate them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import features.table
from features.table import FeatureTable
from hpo.errors import ObjectiveError, SpecError
from hpo.estimators.checks import check_estimator
from hpo.objectives.cross_validation import CrossValidation
from hpo.objectives.factory import make_objective
from hpo.spec.loading import validate
from hpo.spec.sections import StudySpec

ROWS = "".join(
    f"{k},{(k * 7) % 11},{1 + k % 3},{'' if k == 5 else k % 2},g{k // 4}\n" for k in range(24)
)


def spec_of(**sections: Any) -> StudySpec:
    raw: dict[str, Any] = {
        "name": "rows",
        "trials": 1,
        "cv": {"splitter": "PredefinedSplit"},
        "estimator": {"name": "ridge"},
        "table": {"weight": "w", "fold": "fold", "group": "g"},
    }
    raw |= sections
    table = {"dataset": "csv", "path": "my.csv", "target": "y_measured", "columns": ["x"]}
    return validate({**raw, "table": table | {"test_fraction": 0.0} | raw["table"]}, "rows")


def table_of(folder: Path, spec: StudySpec) -> FeatureTable:
    (folder / "my.csv").write_text(f"x,y_measured,w,fold,g\n{ROWS}")
    assert spec.table is not None
    built = features.table.build(
        spec.table, data_dir=None, tables_dir=folder / "tables", base_dir=folder
    )
    return features.table.read(built.path)


def objective_of(folder: Path, spec: StudySpec) -> CrossValidation:
    made = make_objective(spec, table_of(folder, spec))
    assert isinstance(made, CrossValidation)
    return made


def test_a_column_of_the_file_divides_the_rows(tmp_path: Path) -> None:
    objective = objective_of(tmp_path, spec_of())
    found = [fold.validation.tolist() for fold in objective.folds]
    assert found == [list(range(0, 24, 2)), [k for k in range(1, 24, 2) if k != 5]]
    assert all(5 in fold.train for fold in objective.folds)


def test_fits_take_the_weights_of_the_file_and_of_groups(tmp_path: Path) -> None:
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    objective = objective_of(tmp_path, spec_of())
    weights = np.array([1.0 + k % 3 for k in range(24)])
    X = StandardScaler().fit_transform(objective.X)
    direct = Ridge(random_state=42).fit(X, objective.y, sample_weight=weights)
    np.testing.assert_allclose(objective.fit({}).predict(objective.X), direct.predict(X))
    both = objective_of(tmp_path, spec_of(fit={"group_weight": 1.0}))
    assert both.weights is not None
    np.testing.assert_allclose(both.weights, weights)  # all groups have the same size


def test_what_cannot_use_them_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"fold 'fold' has no use with .cv. scheme"):
        spec_of(cv={"scheme": "kfold"})
    neighbours = spec_of(estimator={"name": "k_neighbors"})
    with pytest.raises(SpecError, match=r"\[table\] weight: estimator .* takes no weights"):
        check_estimator(neighbours, table_of(tmp_path, neighbours).columns)
    without = spec_of(table={"group": "g"})
    with pytest.raises((ObjectiveError, SpecError), match="test_fold"):
        objective_of(tmp_path, without)
