"""Ranking what nobody has measured: the same model, the same features, nothing dropped."""

from __future__ import annotations

import csv
import json
import math
import pickle
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import features.table
from features.table import Candidates, CsvSpec, FeatureTable, families, read_candidates
from hpo.analysis import applicability_domain, discovery_metrics, ranking, saved_model
from hpo.analysis.saved_model import Calibration, Model
from hpo.cli import main
from hpo.errors import ConflictError, ModelError, ObjectiveError
from hpo.records import Access
from hpo.spec.loading import load
from hpo.storage.backends import open_storage
from hpo.study import provenance
from hpo.study.creation import begin
from hpo.study.record import Source, StudyRecord, find
from tests.support.materials import LICL
from tests.support.pages import work
from tests.support.studies import ROOT, run_hpo

METALS = ("Na", "K", "Mg", "Al", "Ge", "P", "Zr", "Ti")
ANIONS = ("O", "S", "Cl")
COMPOSITION_ONLY = [name for name, info in families().items() if info.needs == ("formula",)]
BAD = {
    "Qq2O": "is no element",
    "Li2O(": "cannot be read",
    "": "is empty",
}


def formulas(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [
        f"Li{rng.integers(1, 9)}{METALS[rng.integers(8)]}{rng.integers(1, 5)}"
        f"{ANIONS[rng.integers(3)]}{rng.integers(1, 13)}"
        for _ in range(count)
    ]


def write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


STUDY = """
trials = 3
[table]
dataset = "csv"
path = "mine.csv"
formula = "Material"
target = "sigma"
target_unit = "S/cm"
log10 = true
group = "paper"
families = ["ratios", "magpie"]
[cv]
scheme = "{scheme}"
folds = 4
[estimator]
name = "ridge"
[space]
alpha = {{ type = "float", low = 0.01, high = 10.0, log = true }}
"""


OBJECTIVES = {"rho": 'name = "spearman"', "upper": 'name = "quantile"\nlevel = 0.9'}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two finished studies: `mine` with grouped folds, `mixed` with others."""
    folder = tmp_path_factory.mktemp("finished")
    rng = np.random.default_rng(1)
    rows = []
    for number, formula in enumerate(formulas(120, 0)):
        lithium = int(formula[2 : 2 + len(formula[2:]) - len(formula[2:].lstrip("0123456789"))])
        value = 10.0 ** (-8.0 + 0.5 * lithium + 0.3 * rng.normal())
        rows.append([formula, f"{value:.4g}", f"paper-{number // 4}"])
    write_csv(folder / "mine.csv", ["Material", "sigma", "paper"], rows)
    (folder / "mine.toml").write_text(STUDY.format(scheme="group_kfold"))
    (folder / "mixed.toml").write_text(STUDY.format(scheme="interleaved"))
    quick = '[estimator]\nname = "hist_gradient_boosting"\nparams.max_iter = 5\n'
    one = STUDY[: STUDY.index("[estimator]")].format(scheme="group_kfold") + quick
    one = one.replace("trials = 3", "trials = 1")
    for name, objective in OBJECTIVES.items():
        (folder / f"{name}.toml").write_text(f"{one}[objective]\n{objective}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", str(ROOT))
        run_hpo("run", "mine.toml", "--workers", "1")
    storage = open_storage(f"sqlite:///{folder / 'hpo.db'}", Access.WORK)
    source = Source(str(folder / "mixed.toml"), (), None)
    table_path = find(storage, "mine").table_path
    numbers = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
    handlers = [signal.getsignal(number) for number in numbers]
    work(begin(storage, load(folder / "mixed.toml"), source, table_path))
    for name in OBJECTIVES:
        source = Source(str(folder / f"{name}.toml"), (), None)
        work(begin(storage, load(folder / f"{name}.toml"), source, table_path))
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)
    storage.remove_session()
    storage.engine.dispose()
    return folder


@pytest.fixture
def workplace(finished: Path, hpo: Callable[..., Any], tmp_path: Path) -> Path:
    """The working directory, with a storage of its own that holds the finished studies."""
    shutil.copy(finished / "hpo.db", tmp_path / "hpo.db")
    return tmp_path


@pytest.fixture
def record(workplace: Path) -> Iterator[StudyRecord]:
    storage = open_storage("sqlite:///hpo.db", Access.WORK)
    yield find(storage, "mine")
    storage.remove_session()
    storage.engine.dispose()


def table_of(record: StudyRecord) -> FeatureTable:
    table = record.read_table()
    assert table is not None
    return table


def silent(line: str) -> None:
    """Drop a line of progress."""


def test_a_study_of_ranks_ranks_and_one_of_a_quantile_does_not(
    workplace: Path, hpo: Callable[..., Any]
) -> None:
    write_csv(workplace / "new.csv", ["formula"], [[text] for text in formulas(20, 7)])
    said = hpo("rank", "rho", "new.csv").stdout
    assert "20 of 20 candidates ranked by sigma in S/cm" in said
    assert "90 % intervals: prediction ± " in said
    refused = hpo("rank", "upper", "new.csv", code=2).stderr
    assert "study 'upper': it predicts the 0.9 quantile, which candidates cannot be" in refused


# The command ----------------------------------------------------------------------------------


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
    residuals = []
    for fold in objective.folds:  # type: ignore[attr-defined]
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
    assert shown[0].split() == ["rank", "formula", "prediction", "lower", "upper", "ood"]
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


# The saved model ------------------------------------------------------------------------------


def test_a_saved_model_is_used_again_and_refit_replaces_it(
    workplace: Path, record: StudyRecord
) -> None:
    said: list[str] = []

    def get(**options: Any) -> Model:
        return saved_model.obtain(
            record, table_of(record), workplace / "m", log=said.append, **options
        )

    first = get()
    second = get()
    assert len(said) == 1
    assert (first.fitted_now, second.fitted_now) == (True, False)
    X = table_of(record).train.X
    np.testing.assert_array_equal(first.estimator.predict(X), second.estimator.predict(X))
    np.testing.assert_array_equal(first.calibration.y, second.calibration.y)
    assert get(refit=True).folder == first.folder
    assert [path.name for path in (workplace / "m").iterdir()] == [first.folder.name]
    assert get(folder=first.folder).manifest["trial"] == record.optuna_study().best_trial.number
    manifest = json.loads((first.folder / "manifest.json").read_text())
    assert manifest["study"] == "mine"
    assert manifest["table"]["hash"] == table_of(record).hash
    assert [column["name"] for column in manifest["columns"]] == list(
        table_of(record).feature_names
    )
    assert manifest["training_rows"] == len(X)


class Trap:
    """What unpickling carries out."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("sprung", "w"))


def test_no_file_is_unpickled_that_the_study_did_not_write(
    workplace: Path, record: StudyRecord
) -> None:
    table = table_of(record)
    folder = saved_model.obtain(record, table, workplace / "m", log=silent).folder
    trap = pickle.dumps(Trap())
    (folder / "model.joblib").write_bytes(trap)
    with pytest.raises(ModelError, match=r"model\.joblib is not the file that was saved"):
        saved_model.load(record, folder)

    # Not even with a manifest that says so.
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"]["model.joblib"] = saved_model._sha256(trap)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
    with pytest.raises(ModelError, match=r"is none that study 'mine' saved.*--refit"):
        saved_model.load(record, folder)
    assert not Path("sprung").exists()
    assert saved_model.obtain(record, table, workplace / "m", refit=True, log=silent).fitted_now


def test_another_studys_model_is_refused(workplace: Path, record: StudyRecord) -> None:
    other = find(record.storage, "mixed")
    folder = saved_model.obtain(other, table_of(other), workplace / "m", log=silent).folder
    with pytest.raises(ModelError, match="is none that study 'mine' saved"):
        saved_model.load(record, folder)


def test_a_model_by_other_versions_is_refused(
    workplace: Path, record: StudyRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = table_of(record)
    folder = saved_model.obtain(record, table, workplace / "m", log=silent).folder
    versions = provenance.versions
    now = versions(("scikit-learn",))["scikit-learn"]

    def another(packages: tuple[str, ...]) -> dict[str, str]:
        return {**versions(packages), "scikit-learn": "9.9"}

    monkeypatch.setattr("hpo.study.provenance.versions", another)
    monkeypatch.setattr("hpo.study.fingerprint.versions", another)
    with pytest.raises(ConflictError, match=f"made by scikit-learn {now}, here is 9.9.*--refit"):
        saved_model.obtain(record, table, workplace / "m", log=silent)
    with pytest.raises(ConflictError, match=r"was scored with.*scikit-learn=9\.9.*--refit"):
        saved_model.obtain(record, table, workplace / "elsewhere", log=silent)
    model = saved_model.obtain(record, table, workplace / "m", refit=True, log=silent)
    assert model.folder == folder
    assert model.manifest["changed_since_study"] == ["packages"]
    assert saved_model.load(record, folder).manifest["packages"]["scikit-learn"] == "9.9"


def test_a_folder_of_something_else_is_left_alone(workplace: Path, record: StudyRecord) -> None:
    (workplace / "thesis").mkdir()
    (workplace / "thesis" / "chapter").write_text("1")
    with pytest.raises(ModelError, match="holds something else than a model"):
        saved_model.obtain(
            record, table_of(record), workplace, folder=workplace / "thesis", refit=True, log=silent
        )
    assert (workplace / "thesis" / "chapter").read_text() == "1"


# Features -------------------------------------------------------------------------------------


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
    return make_table(folder, STRUCTURED + lines, families=names, cifs="cifs")


def make_model(table: FeatureTable, estimator: Any) -> Model:
    train = table.train
    estimator.fit(train.X, train.y)
    predicted = estimator.predict(train.X)
    fold = np.arange(len(train.y)) % 2
    known = Calibration(train.y, predicted, fold.astype(np.int64), train.groups)
    return Model(Path("none"), {}, estimator, known, fitted_now=True)


def ranked(found: Candidates, table: FeatureTable, estimator: Any) -> ranking.Ranking:
    return ranking.rank(found, make_model(table, estimator), table, coverage=0.5, log=silent)


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


def test_an_element_that_a_family_does_not_know_is_no_gap_to_bear(tmp_path: Path) -> None:
    lines = "".join(f"m{i},Li{i + 1}Cl,{i}\n" for i in range(8))
    spec, table = make_table(tmp_path, f"id,formula,target\n{lines}", families=["smact"])
    (tmp_path / "new.csv").write_text("formula\nLiOg\nLi3Cl\n")
    found = ranked(read_candidates(tmp_path / "new.csv", spec), table, boosting())
    assert found.rank.tolist() == [0, 1]
    assert "Og is not in the SMACT vector" in found.reasons[0]


def test_features_made_from_the_target_cannot_rank(record: StudyRecord) -> None:
    table = table_of(record)
    first, *others = table.columns
    leaky = replace(table, columns=(replace(first, derived_from_target=True), *others))
    with pytest.raises(ModelError, match="li_atomic_fraction is made from the measured value"):
        saved_model.obtain(record, leaky, Path("m"), log=silent)


# Figures, by hand -----------------------------------------------------------------------------


def test_residual_interval_by_hand() -> None:
    y = np.arange(9.0)
    predicted = y + np.array([1, -2, 3, -4, 5, -6, 7, -8, 9])
    # The ceil(10 * 0.8) = 8th and the ceil(10 * 0.9) = 9th smallest of nine.
    assert ranking.residual_interval(y, predicted, 0.8) == 8.0
    assert ranking.residual_interval(y, predicted, 0.9) == 9.0
    with pytest.raises(ObjectiveError, match=r"needs at least 19 validated rows.*have 9"):
        ranking.residual_interval(y, predicted, 0.95)


def test_residual_intervals_cover_what_they_say() -> None:
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(400):
        residuals = rng.standard_t(3, size=50)
        half_width = ranking.residual_interval(residuals[:49], np.zeros(49), 0.9)
        hits.append(abs(residuals[49]) <= half_width)
    assert 0.86 < np.mean(hits) < 0.94


def test_auc_by_hand() -> None:
    above = np.array([True, True, False, False, False])
    # Of the six pairs, 0.9 wins three, 0.4 wins one, ties one and loses one.
    predicted = np.array([0.9, 0.4, 0.1, 0.4, 0.7])
    assert discovery_metrics.auc(above, predicted) == pytest.approx(4.5 / 6)
    assert math.isnan(discovery_metrics.auc(np.array([True]), np.array([1.0])))


def test_precision_at_the_top_by_hand() -> None:
    above = np.array([True, False, True, False, False, False, False, False, False, False])
    predicted = np.array([5.0, 9.0, 8.0, 1, 1, 1, 1, 1, 1, 1])
    assert discovery_metrics.precision_at_top(above, predicted, 0.1) == 0.0
    assert discovery_metrics.precision_at_top(above, predicted, 0.2) == 0.5
    assert discovery_metrics.precision_at_top(above, predicted, 0.3) == pytest.approx(2 / 3)
    # All tie: a blind choice.
    assert discovery_metrics.precision_at_top(above, np.zeros(10), 0.1) == pytest.approx(0.2)


def test_ranking_value_has_wider_intervals_by_group_than_by_row() -> None:
    rng = np.random.default_rng(0)
    of_group = rng.normal(size=20)
    group = np.repeat(np.arange(20), 10)
    y = of_group[group] + 0.1 * rng.normal(size=200)
    predicted = of_group[group] + rng.normal(size=20)[group]
    by_row = discovery_metrics.ranking_value(y, predicted, 0.5, n_resamples=300)
    by_group = discovery_metrics.ranking_value(
        y, predicted, 0.5, group.astype(str), n_resamples=300
    )
    assert by_row.auc == by_group.auc == discovery_metrics.auc(y > 0.5, predicted)
    assert by_row.prevalence == np.mean(y > 0.5)
    for value in (by_row, by_group):
        assert value.auc_interval[0] <= value.auc <= value.auc_interval[1]
    assert np.ptp(by_group.auc_interval) > np.ptp(by_row.auc_interval)
    with pytest.raises(ObjectiveError, match="0 of 200 values are above it"):
        discovery_metrics.ranking_value(y, predicted, 99.0)


def test_the_domain_by_hand() -> None:
    domain = applicability_domain.domain_of(["LiCl", "Li2Cl2", "LiF", "Li3Cl", "Na2O"])
    assert len(domain.fractions) == 4  # Li2Cl2 is LiCl
    distances, found = domain.nearest(features.table.atomic_fractions(["LiBr", "LiCl", "NaLiO"]))
    # LiBr: half of the atoms; NaLiO to Na2O: a third.
    np.testing.assert_allclose(distances, [0.5, 0.0, 1 / 3], atol=1e-12)
    assert domain.formulas[found[1]] == "LiCl"
    # Nearest others: LiCl-Li3Cl 1/4, LiF-LiCl 1/2, Na2O-anything 1.
    expected = np.quantile([0.25, 0.25, 0.5, 1.0], 0.95)
    assert domain.limit == pytest.approx(expected)
