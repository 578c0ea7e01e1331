"""The catechol study: its table, its networks, its splits and its models."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import linregress

from features.table import DatasetError, OwnSpec, build, read
from hpo.analysis.comparison.leaderboard import fit_line
from hpo.analysis.comparison.reported import read_reported_file
from hpo.cli import main
from hpo.errors import ObjectiveError
from hpo.records import WorkerRun
from hpo.spec.loading import load as load_spec
from hpo.spec.variants import read_variants
from hpo.study.creation import begin, build_table
from hpo.study.record import Source
from hpo.worker.worker import Worker
from studies.catechol import measurements
from studies.catechol.descriptors import (
    ZERO_CELSIUS_K,
    arrhenius,
    describe_kinetics,
    describe_solvents,
    read_measurements,
)
from studies.catechol.measurements import TARGETS
from studies.catechol.members import MEMBERS, SPREAD_FLOOR, _scale, make_member
from studies.catechol.nested import choose, predict_outer, resample, score_folds, summarise
from studies.catechol.nested import main as nested
from studies.catechol.objective import LeaveOneOut, score
from tests.support.requirements import SHARED_DATA, unavailable
from tests.support.studies import ROOT

FOLDER = ROOT / "studies" / "catechol"
FILES = (
    "single_solvent/catechol_single_solvent_yields.csv",
    "full_data/catechol_full_data_yields.csv",
)


@pytest.fixture(scope="module")
def catechol_dir():
    folder = SHARED_DATA / "catechol"
    if not (folder / "single_solvent").is_dir():
        unavailable("data", f"no catechol yields in {folder}; set HPO_TEST_DATA to the one above")
    return folder


@pytest.fixture(scope="module")
def table(catechol_dir, tmp_path_factory):
    tables = tmp_path_factory.mktemp("tables")
    spec = OwnSpec(dataset="own", loader="studies.catechol.measurements:load")
    place = {"data_dir": catechol_dir, "tables_dir": tables, "base_dir": tables}
    return read(build(spec, **place).path)


def objective_of(table, **params):
    return LeaveOneOut(table, seed=1, **params)


# The table ------------------------------------------------------------------------------------


def test_every_row_of_both_files_is_in_the_table(table, catechol_dir):
    path = catechol_dir / FILES[1]
    with path.open(encoding="utf-8", newline="") as stream:
        records = list(csv.DictReader(stream))
    assert (table.n_rows, len(table.skipped)) == (656 + 1227, 0)
    ramps = table.y[[row_id.startswith("ramp") for row_id in table.ids]]
    np.testing.assert_array_equal(ramps, [float(record["SM"]) for record in records])
    by_family = dict.fromkeys(("conditions", *measurements.LOOK_UPS, "products"), 0)
    for column in table.columns:
        by_family[column.family] += 1
    # Two solvents each; bits of a fingerprint that all 24 solvents share are left out.
    assert by_family == {
        "conditions": 3, "spange": 26, "acs": 10, "drfp": 244, "fragprints": 288, "products": 2,
    }  # fmt: skip
    assert [c.name for c in table.columns if c.derived_from_target] == ["Product 2", "Product 3"]


def test_a_mixture_has_both_its_solvents(table, catechol_dir):
    path = catechol_dir / "featurization_look_ups" / "spange_descriptors_lookup.csv"
    with path.open(encoding="utf-8", newline="") as stream:
        known = {record["SOLVENT NAME"]: record for record in csv.DictReader(stream)}
    position = {column.name: k for k, column in enumerate(table.columns)}
    for row in (0, 700, 1500):
        first, _, second = table.formulas[row].partition(" + ")
        for side, solvent in (("a", first), ("b", second or first)):
            found = table.X[row, position[f"spange_{side} dielectric constant"]]
            assert found == float(known[solvent]["dielectric constant"])


def test_wrong_rows_and_wrong_folders_are_named(catechol_dir, tmp_path):
    with pytest.raises(DatasetError, match="where are the data"):
        measurements.load(None)
    with pytest.raises(DatasetError, match=r"neither .* has single_solvent"):
        measurements.load(tmp_path)
    for name in ("single_solvent", "full_data", "featurization_look_ups"):
        (tmp_path / name).mkdir()
        for file in (catechol_dir / name).iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    path = tmp_path / FILES[0]
    head, first, second, *rest = path.read_text().splitlines()
    time_min = second.split(",")[1]
    path.write_text("\n".join([head, first.replace("0.903", "x.903", 1),
                               second.replace(time_min, "-1.0", 1), *rest]))  # fmt: skip
    rows = measurements.load(tmp_path)
    assert [(row.line, row.id) for row in rows.skipped] == [(2, "solvent-2"), (3, "solvent-3")]
    assert "must be above 0" in rows.skipped[1].reason
    look_up = tmp_path / "featurization_look_ups" / "acs_pca_descriptors_lookup.csv"
    look_up.write_text("\n".join(look_up.read_text().splitlines()[:-1]))
    with pytest.raises(DatasetError, match=r"acs_pca_descriptors_lookup\.csv has no row for"):
        measurements.load(tmp_path)


# Splits ---------------------------------------------------------------------------------------


def test_the_parts_are_the_official_splits(table):
    objective = objective_of(table, kernel={})
    kinds = [part.partition(" ")[0] for part in objective.parts]
    assert (kinds.count("solvent"), kinds.count("ramp"), len(kinds)) == (24, 13, 37)
    task = np.array([row_id.partition("-")[0] for row_id in table.ids])
    held_out = np.concatenate([fold.validation for fold in objective.folds])
    assert sorted(held_out) == list(range(table.n_rows))
    for part, fold in zip(objective.parts, objective.folds, strict=True):
        assert set(table.groups[fold.validation]) == {part}
        assert part not in table.groups[fold.train]
        rows = np.concatenate([fold.train, fold.validation])
        assert sorted(rows) == np.flatnonzero(task == part.partition(" ")[0]).tolist()


@pytest.mark.slow
def test_both_means_of_the_error_are_those_of_all_predictions(table):
    objective = objective_of(table, kernel={})
    squares = []
    for fold in objective.folds:
        known, new = objective.rows.take(fold.train), objective.rows.take(fold.validation)
        squares.append((make_member("kernel", {}).predict(known, new, 1) - new.y) ** 2)
    by_fold = [errors.mean() for errors in squares]
    parts = [
        score(np.sqrt(errors), np.zeros_like(errors))  # the same errors, without another fit
        for errors in squares
    ]
    assert objective.score_part({}, 30) == pytest.approx(parts[30], rel=1e-12)
    told = objective.combine(parts)
    assert told["fold_mean"] == pytest.approx(np.mean(by_fold), rel=1e-12)
    assert told["all_points"] == pytest.approx(np.concatenate(squares).mean(), rel=1e-12)
    assert told["fold_mean_solvent"] == pytest.approx(np.mean(by_fold[:24]), rel=1e-12)
    assert told["fold_mean_sm"] == pytest.approx(np.mean([e[:, 0].mean() for e in squares]))
    assert told["score"] == told["fold_mean"]
    by_points = objective_of(table, kernel={}, average="points")
    assert by_points.combine(parts)["score"] == told["all_points"]
    assert by_points.splits_hash == objective.splits_hash
    assert {*told} == {"score", *objective.totals}
    # Worse than a published model would be a mistake somewhere; nothing is, or it has seen it.
    assert 0.006 < told["fold_mean"] < 0.010


def test_predicted_rows_are_those_that_were_scored(table):
    objective = objective_of(table, kernel={}, outer=0)
    params = {"kernel.ridge": 0.1}
    parts = [objective.score_part(params, part) for part in range(len(objective.parts))]
    rows = objective.predictions(params, parts)
    assert len(rows.ids) == len(set(rows.ids)) == sum(part["n"] for part in parts)
    assert list(rows.targets) == ["yield of SM", "yield of Product 2", "yield of Product 3"]
    squares, of = (rows.predicted - rows.observed) ** 2, np.array(rows.parts)
    for k, part in enumerate(parts):
        assert squares[of == k].mean() == pytest.approx(part["score"], rel=1e-12)
    place = {row: k for k, row in enumerate(table.train.ids.tolist())}
    of_ids = objective.rows.y[[place[row] for row in rows.ids]]
    np.testing.assert_array_equal(rows.observed, of_ids)
    assert objective_of(table, kernel={}).score_part(objective.baseline, 30)["score"] > 0.0


def test_an_outer_share_is_neither_scored_nor_fitted_to(table):
    whole = objective_of(table, kernel={})
    met = []
    for outer in range(4):
        objective = objective_of(table, kernel={}, outer=outer)
        left = [part for part in whole.parts if part not in objective.parts]
        met += left
        assert left == list(whole.parts[outer::4])
        seen = np.concatenate([np.concatenate([f.train, f.validation]) for f in objective.folds])
        assert not set(table.groups[seen]) & set(left)
        for part, fold in zip(objective.parts, objective.folds, strict=True):
            assert set(table.groups[fold.validation]) == {part}
        assert objective.splits_hash != whole.splits_hash
    assert sorted(met) == sorted(whole.parts)
    with pytest.raises(ObjectiveError, match="outer 4: must be below outer_folds, 4"):
        objective_of(table, kernel={}, outer=4)


def test_the_mass_balance_is_false_in_the_data(table):
    total = read_measurements(table).y.sum(axis=1)
    assert 0.75 < total.mean() < 0.85
    assert total.min() < 0.05


# Descriptors ----------------------------------------------------------------------------------


def test_kinetics_are_linear_in_the_logarithm_of_conversion(table):
    rows = read_measurements(table)
    inverse, log_time = arrhenius(rows).T
    # ln(k t) of any Arrhenius law is a straight line in both.
    law = 3.0 - 9000.0 / (rows.temperature_c + ZERO_CELSIUS_K) + np.log(rows.time_min)
    design = np.column_stack([np.ones(len(rows)), inverse, log_time])
    _, left, _, _ = np.linalg.lstsq(design, law, rcond=None)
    assert left == pytest.approx(0.0, abs=1e-18 * len(rows))
    assert describe_kinetics(rows, "plain").shape[1] == 2
    assert np.abs(describe_kinetics(rows, "arrhenius")).max() < 6.0


def test_a_mixture_is_described_alike_in_both_orders(table):
    rows = read_measurements(table)
    other = rows.swapped()
    for mixing, alike in (("linear", True), ("interaction", True), ("pair", False)):
        one, two = (describe_solvents(r, ["spange", "drfp"], mixing) for r in (rows, other))
        assert np.allclose(one, two) == alike, mixing
    ends = rows.fraction_b == 0.0
    pure = describe_solvents(rows, ["spange"], "linear")[ends]
    np.testing.assert_allclose(pure, rows.a["spange"][ends])
    both = rows.with_swapped()
    assert len(both) == 2 * len(rows)
    np.testing.assert_array_equal(both.a["acs"][len(rows) :], rows.b["acs"])


@pytest.mark.parametrize("orders", ["one", "predict"])
def test_predicting_both_orders_does_not_depend_on_the_order(table, orders):
    objective = objective_of(table, kernel={})
    fold = objective.folds[-1]
    train, new = objective.rows.take(fold.train), objective.rows.take(fold.validation)
    settings = {"epochs": 5, "networks": 1, "mixing": "pair", "orders": orders}
    member = make_member("mlp", settings)
    same = np.allclose(member.predict(train, new, 0), member.predict(train, new.swapped(), 0))
    assert same == (orders == "predict")


def test_a_column_that_hardly_varies_is_not_blown_up():
    X, new = np.zeros((50, 2)), np.ones((1, 2))
    X[:, 1] = np.linspace(-2.0, 2.0, 50)
    scaled, asked = _scale(X, new)
    assert np.abs(asked).max() <= 1.0 / SPREAD_FLOOR
    assert scaled[:, 1].std() == pytest.approx(1.0)


# Models ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(MEMBERS))
def test_every_model_predicts_yields_and_repeats_itself(table, name):
    objective = objective_of(table, kernel={})
    train, new = (objective.rows.take(rows) for rows in (objective.folds[3].train[::4], [0, 5]))
    quick = {"mlp": {"epochs": 5}, "per_target": {"epochs": 5}, "lightgbm": {"n_estimators": 5}}
    member = make_member(name, quick.get(name, {}))
    found = member.predict(train, new, 7)
    assert found.shape == (2, 3)
    assert ((found >= 0.0) & (found <= 1.0)).all()
    np.testing.assert_array_equal(found, member.predict(train, new, 7))


def test_an_ensemble_is_the_weighted_mean_of_its_models(table):
    kernel, boosted = {"ridge": 0.2}, {"n_estimators": 10}
    both = objective_of(table, kernel=kernel, lightgbm=boosted)
    fold = both.folds[2]
    alone = [
        objective_of(table, **one).predict({}, fold.train, fold.validation)
        for one in ({"kernel": kernel}, {"lightgbm": boosted})
    ]
    weights = {"weight.kernel": 0.9, "weight.lightgbm": 0.3}
    found = both.predict(weights, fold.train, fold.validation)
    np.testing.assert_allclose(found, 0.75 * alone[0] + 0.25 * alone[1])
    with pytest.raises(ObjectiveError, match="weights of all models are 0"):
        both.split({"weight.kernel": 0.0, "weight.lightgbm": 0.0})


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "names no model"),
        ({"mpl": {}}, "'mpl' is no model; did you mean 'mlp'"),
        ({"mlp": {"hiden": "16"}}, r"mlp\.hiden: mlp has no such field; did you mean 'hidden'"),
        ({"mlp": {"descriptors": "spange+asc"}}, r"descriptors 'spange\+asc': did you mean"),
        ({"mlp": {"mixing": "liner"}}, "mixing 'liner': did you mean 'linear'"),
        ({"kernel": {}, "average": "rows"}, "average 'rows': .*folds, points"),
    ],
)
def test_a_wrong_setting_is_named(table, params, message):
    with pytest.raises(ObjectiveError, match=message):
        objective_of(table, **params)


def test_a_parameter_of_no_model_is_named(table):
    objective = objective_of(table, kernel={})
    for key in ("mlp.epochs", "weight.mlp", "ridge"):
        with pytest.raises(ObjectiveError, match=f"parameter '{key}': belongs to none of kernel"):
            objective.split({key: 1.0})
    with pytest.raises(ObjectiveError, match="need a"):
        objective_of(None, kernel={})


# What a search is worth -------------------------------------------------------------------------


def test_a_fold_has_no_part_in_the_choice_that_it_judges():
    # The first trial is the best but for fold 0, and without fold 1 the second one is.
    by_fold = np.array([[9.0, 0.0, 3.0], [6.0, 5.0, 3.0], [7.0, 7.0, 7.0]])
    found = choose(by_fold)
    assert found["best trial"].tolist() == [9.0, 0.0, 3.0]
    assert found["by the other folds"].tolist() == [9.0, 5.0, 3.0]


def test_folds_are_drawn_again_within_their_task():
    task = np.array(["solvent"] * 4 + ["ramp"] * 2)
    drawn = resample(np.array([1.0, 1.0, 1.0, 1.0, 5.0, 5.0]), task)
    np.testing.assert_allclose(drawn, 14.0 / 6.0)
    spread = resample(np.arange(6.0), task)
    assert spread.std() == pytest.approx(np.sqrt(4 * 1.25 + 2 * 0.25) / 6, rel=0.05)


@pytest.mark.slow
def test_each_fold_is_judged_by_the_search_that_left_it_out(table):
    objective = objective_of(table, kernel={})
    objective.parts, objective.folds = objective.parts[22:27], objective.folds[22:27]
    params = [[{"kernel.ridge": ridge}] for ridge in (0.03, 0.1, 0.3, 1.0)]
    found = score_folds(objective, predict_outer(objective, params))
    for k, ridge in enumerate((0.03, 0.1, 0.3, 1.0, 0.03)):
        assert found[k] == objective.score_part({"kernel.ridge": ridge}, k)["score"]
    # Of a committee it is the mean prediction that is judged.
    doubled = score_folds(objective, predict_outer(objective, [2 * one for one in params]))
    np.testing.assert_allclose(doubled, found)
    mixed = [*params[:1] * 3, [*params[0], *params[3]]]
    both = score_folds(objective, predict_outer(objective, mixed))
    alone = [objective.score_part({"kernel.ridge": ridge}, 3)["score"] for ridge in (0.03, 1.0)]
    assert 0.0 < both[3] < max(alone)
    cells = summarise(objective, found)
    assert cells[0] == f"{found.mean():.5f}"
    rows = [len(fold.validation) for fold in objective.folds]
    assert cells[2] == f"{np.average(found, weights=rows):.5f}"


# The earlier project's log --------------------------------------------------------------------


def test_the_line_through_the_nine_submissions_is_scipys():
    log = read_reported_file(FOLDER / "reported.toml")
    assert len(log.points) == 9
    line = fit_line(log.points)
    found = linregress([p.score for p in log.points], [p.external for p in log.points])
    assert line.slope == pytest.approx(found.slope, rel=1e-10)
    assert line.intercept == pytest.approx(found.intercept, rel=1e-10)
    assert line.r2 == pytest.approx(found.rvalue**2, rel=1e-10)
    assert line.slope_error == pytest.approx(found.stderr, rel=1e-10)
    assert line.intercept_error == pytest.approx(found.intercept_stderr, rel=1e-10)
    assert log.external.target is not None
    needed, _ = line.invert(log.external.target)
    assert needed == pytest.approx((0.01727 - found.intercept) / found.slope, rel=1e-10)


# As a user runs it ----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_study_runs_and_is_compared_with_the_log(hpo, catechol_dir, capsys):
    arguments = ["--data", str(catechol_dir), "--workers", "1", "--trials", "2"]
    told = hpo("run", str(FOLDER / "kernel.toml"), *arguments).stdout
    assert "kernel: finished, 2 of 2 trials" in told
    page = Path("reports/kernel/report.html").read_text()
    for told in ("yield of SM: R²", "yield of Product 3: R²", "fold mean, ramps", "baseline"):
        assert told in page
    with Path("reports/kernel/predictions.csv").open() as stream:
        targets = Counter(line["target"] for line in csv.DictReader(stream))
    assert targets == dict.fromkeys((f"yield of {name}" for name in TARGETS), 1883)
    assert main(["compare", "kernel"]) == 0
    told = capsys.readouterr().out
    assert "leaderboard = 4.189 * score + 0.05366 (R2 = 0.955, 9 experiments)" in told
    assert "all points" in told
    assert Path("reports/comparison.html").is_file()
    assert nested(["kernel"]) == 0
    told = capsys.readouterr().out
    assert "by the other folds" in told
    assert "  nested" not in told
    assert nested(["kernle"]) == 2
    assert "did you mean 'kernel'" in capsys.readouterr().err


@pytest.mark.slow
def test_outer_searches_are_found_and_judged(storage, catechol_dir, tmp_path, capsys):
    small = tmp_path / "catechol"
    shutil.copytree(catechol_dir, small, copy_function=shutil.copyfile)
    groups = ["Decanol", "Ethanol", "MTBE", "Ethyl Lactate"]
    for path in FILES:
        head, *lines = (small / path).read_text().splitlines()
        kept = [line for line in lines if any(name in line for name in groups)]
        (small / path).write_text("\n".join([head, *kept]))

    def run_one(name, *overrides):
        study = FOLDER / "kernel.toml"
        spec = load_spec(study, [f"name={name}", "trials=1", *overrides])
        source = Source(str(study), (), str(tmp_path))
        record = begin(storage, spec, source, build_table(spec, source, tmp_path, print))
        Worker(record, record.open_objective()[1], name).run(WorkerRun("here", 1))
        return record

    record = run_one("kernel")
    variants = read_variants(FOLDER / "variants.toml")
    for outer in range(4):
        run_one(f"kernel.outer{outer}", *variants[f"outer{outer}"].set)
    capsys.readouterr()
    assert nested(["kernel", "--storage", f"sqlite:///{tmp_path / 'hpo.db'}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for k, how in enumerate(["best trial", "by the other folds", "nested"]):
        assert how in lines[k + 1]
    # The first trial of every search is the same, and so is what it is judged by.
    assert f" {record.optuna_study().best_value:.5f} " in lines[3]
