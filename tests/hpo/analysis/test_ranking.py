"""Ranking what nobody has measured: the same model, the same features, nothing dropped."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import features.table
from features.table import CsvSpec
from hpo.cli import main
from hpo.objectives.cross_validation import CrossValidation
from hpo.study.record import StudyRecord
from tests.support.rankings import BAD, formulas, read_rows, table_of, write_csv


@pytest.mark.slow
def test_a_study_of_ranks_ranks_and_one_of_a_quantile_does_not(
    workplace: Path, hpo: Callable[..., Any]
) -> None:
    write_csv(workplace / "new.csv", ["formula"], [[text] for text in formulas(20, 7)])
    said = hpo("rank", "rho", "new.csv").stdout
    assert "20 of 20 candidates ranked by sigma in S/cm" in said
    assert "90 % intervals: prediction ± " in said
    refused = hpo("rank", "upper", "new.csv", code=2).stderr
    assert "study 'upper': it predicts the 0.9 quantile, which candidates cannot be" in refused


@pytest.mark.slow
def test_candidates_are_ranked_as_a_direct_fit_predicts(
    workplace: Path, record: StudyRecord, hpo: Callable[..., Any]
) -> None:
    good = formulas(190, 7)
    rows: list[list[Any]] = [[i, text, f"note {i}"] for i, text in enumerate([*good, *BAD])]
    rows += [[900, good[0], "again"], [901, "Li4Xe2F6", "foreign"], [902, "Li3P", "too", "long"]]
    write_csv(workplace / "new.csv", ["id", "Composition", "rank"], rows)
    said = hpo("rank", "mine", "new.csv", "--top", "3", "--threshold", "1e-5").stdout
    out = read_rows(workplace / "mine_ranked.csv")

    assert len(out) == len(rows)
    assert sorted(int(row["line"]) for row in out) == list(range(2, 2 + len(rows)))
    ranked = [row for row in out if row["rank"]]
    assert len(ranked) == 192
    assert out[:192] == ranked
    assert [(row["id"], row["input.rank"]) for row in ranked] == [
        (str(rows[int(row["line"]) - 2][0]), rows[int(row["line"]) - 2][2]) for row in ranked
    ]
    for row in out[192:]:
        reason = BAD.get(row["Composition"], "4 fields where the header has 3")
        if row["line"] == str(1 + len(rows)):
            reason = "4 fields where the header has 3"
        assert reason in row["reason"]
        assert row["prediction"] == row["rank"] == row["ood"] == ""

    # The same by hand, with nothing of the engine.
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    table, best = table_of(record), record.optuna_study().best_trial
    direct = make_pipeline(StandardScaler(), Ridge(alpha=best.params["alpha"], random_state=42))
    direct.fit(table.train.X, table.train.y)
    texts = [row["Composition"] for row in ranked]
    lines = [[text, number] for number, text in enumerate(texts)]
    write_csv(workplace / "again.csv", ["formula", "t"], lines)
    spec = CsvSpec.model_validate(
        {"dataset": "csv", "path": "again.csv", "target": "t", "families": ["ratios", "magpie"]}
    )
    built = features.table.read(
        features.table.build(
            spec, data_dir=None, tables_dir=workplace / "tables", base_dir=workplace
        ).path
    )
    by_row = dict(zip(built.formulas, built.X, strict=True))
    expected = direct.predict(np.array([by_row[text] for text in texts]))
    values = np.array([float(row["log10_prediction"]) for row in ranked])
    np.testing.assert_allclose(values, expected, atol=1e-7)
    assert (np.diff(values) <= 0.0).all()
    own = np.array([float(row["prediction"]) for row in ranked])
    np.testing.assert_allclose(np.log10(own), expected, atol=1e-7)

    # The intervals, from out-of-fold residuals made again by hand.
    _, objective = record.open_objective()
    assert isinstance(objective, CrossValidation)
    residuals = []
    for fold in objective.folds:
        direct.fit(table.train.X[fold.train], table.train.y[fold.train])
        predicted = direct.predict(table.train.X[fold.validation])
        residuals += np.abs(table.train.y[fold.validation] - predicted).tolist()
    half_width = sorted(residuals)[math.ceil(0.9 * (len(residuals) + 1)) - 1]
    lower = np.array([float(row["log10_lower"]) for row in ranked])
    upper = np.array([float(row["log10_upper"]) for row in ranked])
    np.testing.assert_allclose(upper - values, half_width, atol=1e-7)
    np.testing.assert_allclose(values - lower, half_width, atol=1e-7)

    again = next(row for row in ranked if row["id"] == "900")
    twin = next(row for row in ranked if row["id"] == "0")
    assert (again["duplicate_of_line"], twin["duplicate_of_line"]) == ("2", "")
    assert again["rank"] == twin["rank"]
    foreign = next(row for row in ranked if row["id"] == "901")
    assert foreign["ood"] == "yes"
    assert "F, Xe never seen in training" in foreign["reason"]

    shown = said.splitlines()
    names = ["rank", "formula", "prediction", "lower", "upper", "ood", "neutral"]
    assert shown[0].split() == names
    assert shown[1].split()[1] == ranked[0]["Composition"]
    assert "192 of 196 candidates ranked by sigma in S/cm (highest first), 4 not" in said
    assert "90 % intervals: prediction ±" in said
    assert "decades" in said
    assert "AUC" in said
    assert "precision at the top 10 %" in said
    summary = json.loads((workplace / "mine_ranked.csv.json").read_text())
    assert summary["not_ranked"] == 4
    assert summary["calibration"]["shared_groups"] == 0.0


def test_folds_that_split_groups_are_named_as_optimistic(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(workplace / "new.csv", ["formula"], [[text] for text in formulas(5, 3)])
    main(["rank", "mixed", "new.csv", "--json", "--ascending", "--output", "o.csv"])
    told = json.loads(capsys.readouterr().out)
    assert told["calibration"]["shared_groups"] > 0.5
    assert any("too narrow" in caveat for caveat in told["calibration"]["caveats"])
    predicted = [row["prediction"] for row in told["top"]]
    assert predicted == sorted(predicted)
    assert len(predicted) == 5


@pytest.mark.slow
def test_mistakes_are_named(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(workplace / "new.csv", ["name", "stuff"], [["a", "Li2O"]])
    (workplace / "empty.csv").write_text("")
    (workplace / "header.csv").write_text("formula\n")
    for arguments, message in (
        (["mine", "new.csv"], "name the one with the formulas (--formula COLUMN)"),
        (["mine", "new.csv", "--formula", "stuf"], "the nearest is 'stuff'"),
        (["mine", "empty.csv"], "the file is empty"),
        (["mine", "header.csv"], "no row below the header"),
        (["mine", "absent.csv"], "there is no file absent.csv"),
        (["mine", "new.csv", "--output", "new.csv"], "is the file of candidates"),
        (["mine", "new.csv", "--formula", "stuff", "--coverage", "0.999"], "needs at least 999"),
        (["mine", "new.csv", "--formula", "stuff", "--model", "none"], "there is none"),
    ):
        assert main(["rank", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not (workplace / "mine_ranked.csv").exists()
    assert main(["rank", "mine", "new.csv", "--formula", "stuff"]) == 0
    assert "1 of 1 candidate ranked" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["rank", "mine", "new.csv", "--coverage", "1.5"])
    assert "must be between 0 and 1" in capsys.readouterr().err


def test_a_file_without_one_usable_row_is_reported_whole(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(workplace / "new.csv", ["formula", "x"], [[text, 1] for text in BAD])
    assert main(["rank", "mine", "new.csv"]) == 0
    assert "0 of 3 candidates ranked" in capsys.readouterr().out
    out = read_rows(workplace / "mine_ranked.csv")
    assert [row["rank"] for row in out] == ["", "", ""]
    assert all(row["reason"] for row in out)


def test_an_unfinished_study_is_refused(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["budget", "mine", "5"])
    write_csv(workplace / "new.csv", ["formula"], [["Li2O"]])
    assert main(["rank", "mine", "new.csv"]) == 2
    error = capsys.readouterr().err
    assert "3 of 5 trials finished" in error
    assert "hpo resume mine" in error
