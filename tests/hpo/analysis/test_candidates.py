"""Candidates have the features of a table's rows, and gaps that the model has learned to bear."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import features.table
from features.table import (
    Candidates,
    CsvSpec,
    DatasetError,
    FeatureTable,
    families,
    read_candidate_pieces,
    read_candidates,
)
from hpo.analysis import saved_model
from hpo.analysis.candidates import ranking
from hpo.analysis.candidates.ranked_lines import collect
from hpo.analysis.saved_model import Calibration, Model
from hpo.errors import ModelError
from hpo.study.record import StudyRecord
from tests.support.rankings import formulas, table_of, write_csv
from tests.support.tables.materials import LICL, silent

COMPOSITION_ONLY = [name for name, info in families().items() if info.needs == ("formula",)]


def make_table(folder: Path, text: str, **settings: Any) -> tuple[CsvSpec, FeatureTable]:
    (folder / "known.csv").write_text(text)
    raw = {"dataset": "csv", "path": "known.csv", "id": "id", "test_fraction": 0.0, **settings}
    spec = CsvSpec.model_validate(raw)
    built = features.table.build(spec, data_dir=None, tables_dir=folder / "t", base_dir=folder)
    return spec, features.table.read(built.path)


@pytest.mark.parametrize("family", COMPOSITION_ONLY)
def test_candidates_have_the_features_of_a_tables_rows(tmp_path: Path, family: str) -> None:
    texts = [*dict.fromkeys(formulas(60, 5)), "Li1.3Al0.3Ti1.7(PO4)3", "La0.5Li0.5TiO3", "D2O"]
    lines = "".join(f"m{i},{text},1\n" for i, text in enumerate(texts))
    spec, table = make_table(tmp_path, f"id,formula,target\n{lines}", families=[family])
    # In another order and number, and beside a row that cannot be read.
    write_csv(tmp_path / "new.csv", ["FORMULA"], [[text] for text in ["Qq", *texts[::-1]]])
    found = read_candidates(tmp_path / "new.csv", spec)
    assert found.usable.tolist() == list(range(1, len(texts) + 1))
    np.testing.assert_allclose(found.X[::-1], table.X, rtol=0, atol=1e-9)
    assert features.table.changed_families(table, spec) == []


def test_a_family_that_gives_other_values_now_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "id,formula,target\na,Li2O,1\nb,LiCl,2\n"
    spec, table = make_table(tmp_path, text, families=["ratios", "smact"])
    monkeypatch.setattr("features.families.formula.composition.ANIONS", frozenset({"O"}))
    assert features.table.changed_families(table, spec) == ["ratios"]


STRUCTURED = "id,formula,target,a,b,c,alpha,beta,gamma,Z,space_group\n"

CELL = "5.13,5.13,5.13,90,90,90,4,225"


def structured(folder: Path, n_with: int, n_without: int) -> tuple[CsvSpec, FeatureTable]:
    """A table of LiCl, LiF, ... with cells and CIFs for some of its rows."""
    (folder / "cifs").mkdir()
    lines = ""
    for i in range(n_with + n_without):
        cell = CELL if i < n_with else ",,,,,,,"
        lines += f"m{i},Li{i + 1}Cl,{i},{cell}\n"
        if i < n_with:
            (folder / "cifs" / f"m{i}.cif").write_bytes(LICL)
    names = ["ratios", "cell", "cell_shape", "li_environment"]
    settings = {"families": names, "cifs": "cifs", "failed_structures": "use"}
    return make_table(folder, STRUCTURED + lines, **settings)


def make_model(table: FeatureTable, estimator: Any) -> Model:
    train = table.train
    estimator.fit(train.X, train.y)
    predicted = estimator.predict(train.X)
    rows = np.arange(len(train.y))
    known = Calibration(train.y, predicted, rows % 2, train.groups, rows)
    return Model(Path("none"), {}, estimator, known, fitted_now=True)


def ranked(found: Candidates, table: FeatureTable, estimator: Any) -> ranking.Ranking:
    return ranking.rank(found, make_model(table, estimator), table, coverage=0.5)


def boosting() -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(max_iter=5, min_samples_leaf=2)


def test_structures_are_read_where_the_table_has_them(tmp_path: Path) -> None:
    spec, table = structured(tmp_path, 3, 1)
    (tmp_path / "new.csv").write_text(
        "formula,CIF,a,b,c,alpha,beta,gamma,Z,space_group\n"
        f"Li1Cl,cifs/m0.cif,{CELL}\nLi2Cl,cifs/none.cif,{CELL}\n"
    )
    found = read_candidates(tmp_path / "new.csv", spec)
    np.testing.assert_array_equal(found.X, table.X[:1])
    assert "CIF 'cifs/none.cif': cannot be read" in found.reasons[1]


def test_gaps_that_training_rows_had_are_borne(tmp_path: Path) -> None:
    spec, table = structured(tmp_path, 6, 2)
    (tmp_path / "new.csv").write_text("formula\nLi5Cl\nLi3Cl\n")
    found = read_candidates(tmp_path / "new.csv", spec)
    assert ranked(found, table, boosting()).rank.min() > 0

    class Deaf:
        """An estimator that is not scikit-learn's and takes no NaN."""

        def fit(self, X: Any, y: Any) -> None:
            """Learn nothing."""

        def predict(self, X: Any) -> Any:
            return np.zeros(len(X))

    with pytest.raises(ModelError, match=r"families cell: no candidate has the data"):
        ranked(found, table, Deaf())


def test_gaps_that_no_training_row_had_are_refused(tmp_path: Path) -> None:
    spec, table = structured(tmp_path, 8, 0)
    (tmp_path / "new.csv").write_text("formula\nLi5Cl\nLi3Cl\n")
    with pytest.raises(ModelError, match="families cell, cell_shape, li_environment: no candidate"):
        ranked(read_candidates(tmp_path / "new.csv", spec), table, boosting())

    # Only those that lack something, where others do not.
    (tmp_path / "new.csv").write_text(
        f"formula,cif,a,b,c,alpha,beta,gamma,Z,space_group\nLi1Cl,cifs/m0.cif,{CELL}\n"
        f"Li3Cl,,{CELL}\n"
    )
    found = ranked(read_candidates(tmp_path / "new.csv", spec), table, boosting())
    assert found.rank.tolist() == [1, 0]
    assert "family cell_shape" in found.reasons[1]


def test_an_element_that_no_compound_holds_has_no_rank(tmp_path: Path) -> None:
    lines = "".join(f"m{i},Li{i + 1}Cl,{i}\n" for i in range(8))
    spec, table = make_table(tmp_path, f"id,formula,target\n{lines}", families=["smact"])
    (tmp_path / "new.csv").write_text("formula\nLiOg\nLi3Cl\n")
    found = ranked(read_candidates(tmp_path / "new.csv", spec), table, boosting())
    assert found.rank.tolist() == [0, 1]
    assert "Og has no known compounds" in found.reasons[0]


@pytest.mark.slow
def test_features_made_from_the_target_cannot_rank(record: StudyRecord) -> None:
    table = table_of(record)
    first, *others = table.columns
    leaky = replace(table, columns=(replace(first, derived_from_target=True), *others))
    with pytest.raises(ModelError, match="li_atomic_fraction is made from the measured value"):
        saved_model.obtain(record, leaky, Path("m"), log=silent)


OWN = "id,T (K),route,target\n" + "".join(
    f"m{k},{'' if k % 5 == 0 else 900 + k},{('melt', 'sol-gel')[k % 2]},{(k * 37) % 41}\n"
    for k in range(40)
)


def test_own_columns_of_candidates_are_those_of_the_table(tmp_path: Path) -> None:
    spec, table = make_table(tmp_path, OWN, columns=["T (K)"], categorical=["route"])
    lines = ["route,T (K)", "melt,905", "sol-gel,", "spark,910", "melt,hot", ",905", "melt,2000"]
    (tmp_path / "new.csv").write_text("\n".join(lines) + "\n")
    found = read_candidates(tmp_path / "new.csv", spec, table=table)
    assert found.formula_column == ""
    nan = np.nan
    expected = [[905, 1, 0], [nan, 0, 1], [910, 0, 0], [nan, 1, 0], [905, nan, nan], [2000, 1, 0]]
    np.testing.assert_array_equal(found.X, expected)
    made = ranked(found, table, boosting())
    assert np.flatnonzero(made.rank == 0).tolist() == [4]  # no training row lacks a route
    assert made.reasons[0] == ""
    assert made.reasons[1] == "T (K) is missing"
    assert "route 'spark' is in no training row" in made.reasons[2]
    assert "T (K) 'hot': it is not a number" in made.reasons[3]
    assert "route is missing, which the model needs" in made.reasons[4]
    assert "T (K) 2000 is beyond the training rows' 901 to 939" in made.reasons[5]
    assert made.foreign.tolist() == [False, False, True, False, False, True]
    assert set(found.neutral.tolist()) == {-1}
    (tmp_path / "new.csv").write_text("T (K)\n905\n")
    with pytest.raises(DatasetError, match="there is no column 'route' for the feature"):
        read_candidates(tmp_path / "new.csv", spec, table=table)


def test_formulas_say_whether_their_charges_balance(tmp_path: Path) -> None:
    text = "id,formula,x,target\n" + "".join(f"m{k},Li{k + 1}Cl,{k % 3},{k}\n" for k in range(9))
    spec, table = make_table(tmp_path, text, columns=["x"])
    (tmp_path / "new.csv").write_text("x,formula\n1,LiCl\n1,Li2Cl\n1,CuZn\n")
    found = read_candidates(tmp_path / "new.csv", spec, table=table)
    assert found.neutral.tolist() == [1, 0, 1]
    assert ranked(found, table, boosting()).nearest[:2] == ("Li1Cl", "Li2Cl")


def test_candidates_come_through_the_gate_of_all_files(tmp_path: Path) -> None:
    lines = "".join(f"m{i},Li{i + 1}Cl,{i}\n" for i in range(8))
    spec, table = make_table(tmp_path, f"id,formula,target\n{lines}", families=["ratios"])
    text = '"";"Formula"\n"1";"CuSO4.5H2O"\n"2";"Li₂O"\n"3";"YBCO"\n'
    (tmp_path / "new.csv").write_bytes(text.encode("utf-16"))
    found = ranked(read_candidates(tmp_path / "new.csv", spec), table, boosting())
    assert "adduct CuSO4·5H2O" in found.reasons[0]
    assert found.reasons[1] == "" or "adduct" not in found.reasons[1]
    assert "abbreviation" in found.reasons[2]
    assert found.rank[2] == 0


def test_a_cell_may_hold_the_cif_itself(tmp_path: Path) -> None:
    spec, _ = structured(tmp_path, 4, 0)
    cells = [["LiCl", LICL.decode()], ["LiCl", "no such file " * 40]]
    write_csv(tmp_path / "new.csv", ["formula", "cif"], cells)
    found = read_candidates(tmp_path / "new.csv", spec)
    assert found.usable.tolist() == [0]
    assert not found.lacking["li_environment"].any()
    assert len(found.reasons[1]) < 300


def test_lines_that_are_read_in_pieces_are_ranked_as_all_at_once(tmp_path: Path) -> None:
    spec, table = make_table(tmp_path, OWN, columns=["T (K)"], categorical=["route"], families=[])
    lines = [f"{900 + k % 45},{('melt', 'sol-gel', 'spark')[k % 3]}" for k in range(60)]
    (tmp_path / "new.csv").write_text("\n".join(["T (K),route", *lines, "1,2,3"]) + "\n")
    model = make_model(table, boosting())
    found = read_candidates(tmp_path / "new.csv", spec, table=table)
    whole = ranking.rank(found, model, table, coverage=0.5)
    pieces = [*read_candidate_pieces(tmp_path / "new.csv", spec, table=table, piece_lines=7)]
    assert [len(piece.lines) for piece in pieces] == [7] * 8 + [5]
    joined = collect((piece, ranking.rank(piece, model, table, coverage=0.5)) for piece in pieces)
    assert joined.lines.tolist() == list(found.lines)
    texts = zip(found.formulas, whole.reasons, whole.nearest, found.fields, strict=True)
    assert [*joined.texts.take(range(len(found.lines)))] == [*texts]
    assert sum(joined.left_out.values()) == (whole.rank == 0).sum() == 1
    assert set(joined.neutral.tolist()) == {-1}
    for name, value in vars(whole).items():
        if name not in ("reasons", "nearest"):
            np.testing.assert_array_equal(getattr(joined.ranking, name), value, err_msg=name)
    assert (whole.duplicate_of > 0).sum() == 15
