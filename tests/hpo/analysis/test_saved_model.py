"""Saved models: used again, refitted, and never unpickled unless the study wrote them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpo.analysis import saved_model
from hpo.analysis.saved_model import Model
from hpo.errors import ConflictError, ModelError
from hpo.study import provenance
from hpo.study.record import StudyRecord, find
from tests.support.materials import silent
from tests.support.rankings import table_of


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
