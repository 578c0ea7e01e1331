"""Saved models: used again, refitted, and never unpickled unless the study wrote them."""

from __future__ import annotations

import json
import pickle
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io

from hpo.analysis import saved_model
from hpo.analysis.saved_model import Model
from hpo.api import Study
from hpo.cli import main
from hpo.errors import ConflictError, HpoError, ModelError
from hpo.records import Access
from hpo.storage.backends import open_storage
from hpo.storage.events import EventKind
from hpo.study.identity import provenance
from hpo.study.record import StudyRecord, find
from tests.support.rankings import formulas, table_of, write_csv
from tests.support.tables.materials import silent


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
    other = max(trial.number for trial in record.optuna_study().trials) - 1
    assert get(trial=other).manifest["trial"] == other
    with pytest.raises(HpoError, match=r"'mine': it has no complete trial 999; see: hpo export"):
        get(trial=999)
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

    monkeypatch.setattr("hpo.study.identity.provenance.versions", another)
    monkeypatch.setattr("hpo.study.identity.fingerprint.versions", another)
    with pytest.raises(ConflictError, match=f"made by scikit-learn {now}, here is 9.9.*--refit"):
        saved_model.obtain(record, table, workplace / "m", log=silent)
    with pytest.raises(ConflictError, match=r"was scored with.*scikit-learn=9\.9.*--refit"):
        saved_model.obtain(record, table, workplace / "elsewhere", log=silent)
    model = saved_model.obtain(record, table, workplace / "m", refit=True, log=silent)
    assert model.folder == folder
    assert model.manifest["changed_since_study"] == ["packages"]
    assert saved_model.load(record, folder).manifest["packages"]["scikit-learn"] == "9.9"


@pytest.mark.slow
def test_a_model_by_an_earlier_version_is_fitted_anew(
    workplace: Path,
    record: StudyRecord,
    hpo: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_csv(workplace / "new.csv", ["formula"], [[text] for text in formulas(20, 7)])
    with monkeypatch.context() as patch:
        patch.setattr(saved_model, "MODEL_FORMAT", 1)
        folder = saved_model.obtain(
            record, table_of(record), workplace / "models", log=silent
        ).folder
    refused = hpo("rank", "mine", "new.csv", code=2).stderr
    assert f"model models/{folder.name}: another version of hpo saved it (format 1" in refused
    assert "have it made anew: hpo rank mine CANDIDATES.csv --refit" in refused
    assert "20 of 20 candidates ranked" in hpo("rank", "mine", "new.csv", "--refit").stdout
    assert "20 of 20 candidates ranked" in hpo("rank", "mine", "new.csv").stdout


@pytest.mark.slow
def test_a_model_of_classes_that_have_moved_is_fitted_anew(
    workplace: Path,
    record: StudyRecord,
    hpo: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_csv(workplace / "new.csv", ["formula"], [[text] for text in formulas(20, 7)])
    saved = saved_model.obtain(record, table_of(record), workplace / "models", log=silent)
    with monkeypatch.context() as patch:
        module = types.ModuleType("hpo.gone")
        exec("class Gone:\n    pass\n", vars(module))
        patch.setitem(sys.modules, "hpo.gone", module)
        saved_model._save(record, replace(saved, estimator=vars(module)["Gone"]()), card="")
    refused = hpo("rank", "mine", "new.csv", code=2).stderr
    assert "model.joblib cannot be loaded here (ModuleNotFoundError: No module named" in refused
    assert "have it made anew: hpo rank mine CANDIDATES.csv --refit" in refused
    patched = types.ModuleType("hpo.gone")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "hpo.gone", patched)
        with pytest.raises(ModelError, match=r"\(AttributeError: .*--refit"):
            saved_model.load(record, saved.folder)
    assert "20 of 20 candidates ranked" in hpo("rank", "mine", "new.csv", "--refit").stdout


def test_a_study_of_an_earlier_version_has_a_model_fitted_knowingly(
    workplace: Path, record: StudyRecord
) -> None:
    older = {name: part for name, part in record.fingerprint.items() if name != "code_format"}
    record = replace(record, fingerprint={**older, "code": "0" * 64})
    table = table_of(record)
    with pytest.raises(ConflictError, match=r"an earlier version of hpo hashed as text.*--refit"):
        saved_model.obtain(record, table, workplace / "m", log=silent)
    model = saved_model.obtain(record, table, workplace / "m", refit=True, log=silent)
    assert model.manifest["changed_since_study"] == ["code"]


def test_a_folder_of_something_else_is_left_alone(workplace: Path, record: StudyRecord) -> None:
    (workplace / "thesis").mkdir()
    (workplace / "thesis" / "chapter").write_text("1")
    with pytest.raises(ModelError, match="holds something else than a model"):
        saved_model.obtain(
            record, table_of(record), workplace, folder=workplace / "thesis", refit=True, log=silent
        )
    assert (workplace / "thesis" / "chapter").read_text() == "1"


def test_a_card_says_what_a_model_is_and_skops_loads_it(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["model", "mine", "--skops", "out/best.skops", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    trust = told["skops"]["trust"]
    estimator = skops.io.load("out/best.skops", trusted=trust)
    record = find(open_storage("sqlite:///hpo.db", Access.READ), "mine")
    table = table_of(record)
    best = Study(record, workplace).best_model
    np.testing.assert_array_equal(best.predict(table.train.X), estimator.predict(table.train.X))

    card = (Path(told["folder"]) / "model_card.md").read_text()
    scores = told["scores"]
    for expected in (
        f"# mine, trial {record.optuna_study().best_trial.number}\n",
        "- Predicts: log10 of sigma in S/cm",
        f"SHA-256 {table.hash}",
        f"- Fitted on {len(table.train.y)} rows in {len(set(table.train.groups))} groups",
        "    - ratios, ",
        f"| rmse | {scores['rmse']:.3g} | {told['intervals']['rmse'][0]:.3g} to ",
        "- 12 elements occur in its training rows; it knows no other:\n  Li, O, Na, Mg, ",
    ):
        assert expected in card, card
    out = saved_model.load(record, Path(told["folder"])).calibration
    assert scores["rmse"] == pytest.approx(np.sqrt(np.mean((out.y - out.predicted) ** 2)))
    looked = bool(record.ledger.events(EventKind.TEST_EVALUATION))
    assert ("have not been looked at" in card) is not looked
