"""The best model of a study, fitted once on all training rows and kept as files.

A model is a folder: `model.joblib` (the fitted estimator), `calibration.npz` (the best trial's
out-of-fold predictions), `manifest.json` (what it is, and the SHA-256 of both) and `model_card.md`
(the same for a reader). The study's storage keeps the SHA-256 of the manifest. Loading a joblib
file runs whatever it says, so none is loaded unless this chain holds: storage, manifest, file.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from features.table import FeatureTable
from hpo.analysis.best_model import predict_folds
from hpo.analysis.bootstrap import bootstrap_intervals
from hpo.analysis.classification.prediction_sets import conformity_scores
from hpo.analysis.conformal import HeldOut
from hpo.analysis.model_card import write_card
from hpo.errors import ConflictError, ModelError
from hpo.objectives.censored.bounds import Bounds, truth_of
from hpo.objectives.cross_validation import CrossValidation
from hpo.objectives.factory import AnyObjective, make_objective
from hpo.objectives.folds import shared_group_fraction
from hpo.objectives.metrics import score_all
from hpo.storage.events import EventKind
from hpo.study.identity import provenance
from hpo.study.identity.fingerprint import compare, fingerprint, is_comparable
from hpo.study.record import StudyRecord
from hpo.study.snapshot import best_trial
from hpo.wording import count_of

# 2: modules of the engine, which a joblib file names, have moved since 1.
MODEL_FORMAT = 3
MODEL_NAME, CALIBRATION_NAME, MANIFEST_NAME = "model.joblib", "calibration.npz", "manifest.json"
CARD_NAME = "model_card.md"
# What an estimator in a joblib file is made of: another version need not read it, or predicts
# otherwise without saying so.
MODEL_PACKAGES = ("joblib", "lightgbm", "numpy", "scikit-learn", "scipy")
_SUMMARY_LEVELS = (0.5, 0.8, 0.9, 0.95)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Out-of-fold predictions of the rows that the folds validate on.

    Attributes
    ----------
    y, predicted
        Arrays of shape (n_rows,), in units of the target; of classes, `predicted` has the shape
        (n_rows, n_classes); both have (n_rows, n_targets) of several targets.
    fold, groups
        Arrays of shape (n_rows,): whose model predicted the row, and its group.
    rows
        Array of shape (n_rows,): position among the training rows; one is there several times if
        several folds validate on it.
    """

    y: NDArray[np.float64]
    predicted: NDArray[np.float64]
    fold: NDArray[np.int64]
    groups: NDArray[np.str_]
    rows: NDArray[np.int64]

    def of_target(self, position: int) -> Calibration:
        """Return the same of one of several targets."""
        return replace(self, y=self.y[:, position], predicted=self.predicted[:, position])

    @property
    def held_out(self) -> HeldOut:
        """The same for intervals that take every row for one of its own.

        Of classes, with how far the probability of the actual one is below 1.
        """
        ids = self.rows.astype(str)
        repeated = ids if len(np.unique(ids)) < len(ids) else None
        classes = self.predicted.ndim > self.y.ndim
        values = conformity_scores(self.y, self.predicted) if classes else self.predicted
        return HeldOut(self.y, values[:, None], self.fold, ids, repeated)


@dataclass(frozen=True, eq=False)
class Model:
    """A fitted estimator, what it was fitted on, and how far off it was on rows unseen."""

    folder: Path
    manifest: Mapping[str, Any]
    estimator: Any
    calibration: Calibration
    fitted_now: bool


def obtain(
    record: StudyRecord,
    table: FeatureTable,
    models_dir: Path,
    *,
    trial: int | None = None,
    folder: Path | None = None,
    refit: bool = False,
    log: Callable[[str], None],
) -> Model:
    """Load the model of a trial of a finished study; fit and save it if there is none.

    Parameters
    ----------
    record, table
        The study and its table.
    models_dir
        Where models are kept; made if absent.
    trial
        Its number; the best one without it.
    folder
        One model's folder, instead of the one that the study and the trial name.
    refit
        Fit anew with the packages that are here, and replace what is there.
    log
        Receives one line of progress at a time.

    Raises
    ------
    ModelError
        The study is not finished or has no model, or the model is damaged or not of this study.
    ConflictError
        The model, or the study, was made by other versions.
    """
    _check_rankable(record, table)
    best = best_trial(record, trial)
    target = folder or models_dir / _folder_name(record, best.number, best.params)
    if not refit and (target / MANIFEST_NAME).is_file():
        model = load(record, target)
        _check_table(model, table)
        return model
    if folder is not None and not refit:
        raise ModelError(
            f"model {folder}: there is none (no {MANIFEST_NAME}); leave --model out, or have it "
            "made there (--refit)"
        )
    log(f"fitting trial {best.number} on {len(table.train.y)} training rows")
    return _fit(record, table, best.number, best.params, target, refit=refit)


def load(record: StudyRecord, folder: Path) -> Model:
    """Load a saved model, having made sure that this study saved it, and with these versions.

    Raises
    ------
    ModelError
        It is damaged, changed, or of another study.
    ConflictError
        It was made by other versions.
    """
    data = _read(folder, MANIFEST_NAME)
    saved = {event["manifest_sha256"] for event in record.ledger.events(EventKind.MODEL_SAVED)}
    if _sha256(data) not in saved:
        raise ModelError(
            f"model {folder}: its {MANIFEST_NAME} is none that study '{record.name}' saved, so "
            "nothing of it is loaded; it was changed, or belongs to another study or storage. "
            "Have it made anew: --refit"
        )
    manifest = json.loads(data)
    if manifest["format"] != MODEL_FORMAT:
        raise ModelError(
            f"model {folder}: another version of hpo saved it (format {manifest['format']!r}, "
            f"this one reads {MODEL_FORMAT}); have it made anew: {_refit(record)}"
        )
    _check_versions(folder, manifest)
    model, calibration = (_read(folder, name) for name in (MODEL_NAME, CALIBRATION_NAME))
    for name, content in ((MODEL_NAME, model), (CALIBRATION_NAME, calibration)):
        if _sha256(content) != manifest["sha256"][name]:
            raise ModelError(
                f"model {folder}: {name} is not the file that was saved (SHA-256 "
                f"{_sha256(content)[:12]}, its manifest has {manifest['sha256'][name][:12]}), so "
                "it is not loaded; have it made anew: --refit"
            )
    import joblib

    record.admit_code()
    with np.load(io.BytesIO(calibration), allow_pickle=False) as arrays:
        stored = Calibration(**{name: arrays[name] for name in arrays.files})
    try:
        estimator = joblib.load(io.BytesIO(model))
    except Exception as exc:
        # It is the file that was saved, so the classes that it names have moved or changed: those
        # of a user's own module may raise anything.
        raise ModelError(
            f"model {folder}: {MODEL_NAME} cannot be loaded here ({type(exc).__name__}: {exc}), "
            "because the code that it was made by has moved or changed; have it made anew: "
            f"{_refit(record)}"
        ) from exc
    return Model(folder, manifest, estimator, stored, fitted_now=False)


def _refit(record: StudyRecord) -> str:
    return f"hpo rank {record.name} CANDIDATES.csv --refit"


def _check_rankable(record: StudyRecord, table: FeatureTable) -> None:
    counts = record.ledger.counts()
    if not counts.done:
        raise ModelError(
            f"study '{record.name}': {counts.finished} of {count_of(counts.budget, 'trial')} "
            "finished, and "
            f"the best model is known when all are; go on (hpo resume {record.name}) or lower the "
            f"budget (hpo budget {record.name} {max(counts.finished, 1)})"
        )
    derived = [column.name for column in table.columns if column.derived_from_target]
    if derived:
        raise ModelError(
            f"study '{record.name}': {', '.join(derived)} is made from the measured value, which "
            "no candidate has; rank with a study whose table leaves that family out"
        )


def _check_table(model: Model, table: FeatureTable) -> None:
    fitted_on = model.manifest["table"]
    if fitted_on["hash"] != table.hash:
        raise ModelError(
            f"model {model.folder}: it was fitted on table {fitted_on['name']}, and the study has "
            f"{table.name} now; have it made anew: --refit"
        )


def _fit(
    record: StudyRecord,
    table: FeatureTable,
    trial: int,
    params: Mapping[str, Any],
    folder: Path,
    *,
    refit: bool,
) -> Model:
    objective, changed = _open_objective(record, table, refit=refit)
    train = table.train
    estimator = objective.fit(params)
    found = predict_folds(objective, params)
    rows = found.rows
    several = bool(table.more_targets)
    calibration = Calibration(train.y[rows], found.predicted, found.fold, train.groups[rows], rows)
    truth = truth_of(train.y, train.bounds)[rows]
    of_all = calibration
    if isinstance(truth, Bounds):
        calibration = _of_measured(record, calibration, truth)
    manifest = {
        "format": MODEL_FORMAT,
        "study": record.name,
        "study_uid": record.uid,
        "trial": trial,
        "estimator": {
            "name": objective.estimator.name,
            "fixed": objective.estimator.fixed,
            "params": dict(params),
            "seed": objective.seed,
        },
        "table": {"name": table.name, "hash": table.hash},
        "columns": [asdict(column) for column in table.columns],
        "target": table.target.as_dict(),
        **({"more_targets": [t.as_dict() for t in table.more_targets]} if several else {}),
        "training_rows": len(train.y),
        "scores": score_all(truth, of_all.predicted, objective.metrics),
        "intervals": bootstrap_intervals(
            truth, of_all.predicted, of_all.groups, metrics=objective.metrics
        ),
        "calibration": {
            **_summary(calibration),
            **(
                {}
                if of_all is calibration
                else {"known_as_intervals": _left_out(of_all, calibration)}
            ),
            "scheme": record.spec.cv.name if record.spec.cv else "",
            "folds": len(objective.folds),
            "shared_groups": shared_group_fraction(objective.folds, train.groups),
            "groups_known": len(np.unique(train.groups)) < len(train.groups),
        },
        "fingerprint": dict(record.fingerprint),
        "changed_since_study": changed,
        "packages": provenance.versions((*MODEL_PACKAGES, *objective.bound.packages)),
        "python": platform.python_version(),
        "provenance": _origin(),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    card = write_card(manifest, record, table)
    return _save(record, Model(folder, manifest, estimator, calibration, fitted_now=True), card)


def _of_measured(record: StudyRecord, calibration: Calibration, truth: Bounds) -> Calibration:
    """Return what intervals are calibrated on: the rows that have a value to be within them."""
    kept = truth.is_measured
    if not kept.any():
        raise ModelError(
            f"study '{record.name}': no row that its folds validate has a measured value, which "
            "intervals of predictions are calibrated on"
        )
    return Calibration(*(getattr(calibration, one.name)[kept] for one in fields(Calibration)))


def _left_out(of_all: Calibration, calibration: Calibration) -> int:
    return len(np.unique(of_all.rows)) - len(np.unique(calibration.rows))


def _open_objective(
    record: StudyRecord, table: FeatureTable, *, refit: bool
) -> tuple[CrossValidation, list[str]]:
    """Return the study's objective, and what of the study changed since and was accepted."""
    accepted = ["packages", "code"] if refit else []
    record.admit_code(accepted)
    objective = make_objective(record.spec, table)
    if not _predicts_value(objective):
        raise ModelError(
            f"study '{record.name}': it predicts {_name_predicted(objective)}, which candidates "
            "cannot be ranked by with intervals; rank with a study that predicts the value"
        )
    current = fingerprint(record.spec, table, objective)
    try:
        return objective, compare(record.name, record.fingerprint, current, accepted)
    except ConflictError as exc:
        if {*exc.changed} - {"packages", "code"}:
            raise
        before, now = record.fingerprint["packages"], current["packages"]
        what = f"with {before}, here are {now}" if before != now else "by other code"
        if exc.changed == ("code",) and not is_comparable("code", record.fingerprint, current):
            what = "by code that an earlier version of hpo hashed as text, so it may have changed"
        raise ConflictError(
            f"study '{record.name}' was scored {what}: a model fitted here need not be the one "
            "that was scored. Install what the study ran with, or fit it knowingly: --refit",
            exc.changed,
        ) from exc


def _predicts_value(objective: AnyObjective) -> TypeGuard[CrossValidation]:
    if not isinstance(objective, CrossValidation):
        return False
    return objective.level is None and bool({"rmse", "log_loss"} & objective.metrics.keys())


def _name_predicted(objective: AnyObjective) -> str:
    if not isinstance(objective, CrossValidation):
        return "nothing over a table"
    if objective.level is not None:
        return f"the {objective.level:g} quantile"
    return "classes without probabilities" if objective.classes else "scores without a unit"


def _save(record: StudyRecord, model: Model, card: str) -> Model:
    """Write a model in one step, and its manifest's hash into the study."""
    import joblib

    estimator, arrays = io.BytesIO(), io.BytesIO()
    joblib.dump(model.estimator, estimator)
    np.savez(arrays, **vars(model.calibration))
    files = {MODEL_NAME: estimator.getvalue(), CALIBRATION_NAME: arrays.getvalue()}
    manifest = {
        **model.manifest,
        "sha256": {name: _sha256(content) for name, content in files.items()},
    }
    files[MANIFEST_NAME] = json.dumps(manifest, indent=1).encode()
    files[CARD_NAME] = card.encode()
    folder = model.folder
    saved = {
        "trial": manifest["trial"],
        "folder": folder.name,
        "manifest_sha256": _sha256(files[MANIFEST_NAME]),
    }
    with record.writable() as writable:
        try:
            _write_folder(folder, files)
        except OSError as exc:
            raise ModelError(
                f"model {folder}: cannot be written ({exc}); name a folder that you may write to "
                "(--models DIR)"
            ) from exc
        writable.ledger.record(EventKind.MODEL_SAVED, saved)
    return Model(folder, manifest, model.estimator, model.calibration, fitted_now=True)


def _write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put a folder with these files in place; who reads meanwhile finds the old, the new or none.

    A process killed in between leaves a hidden folder, which nobody takes for a model.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists() and not (folder / MANIFEST_NAME).is_file() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} holds something else than a model")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        staged = Path(scratch) / "new"
        staged.mkdir()
        for name, content in files.items():
            with (staged / name).open("wb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
        if folder.exists():
            folder.rename(Path(scratch) / "old")
        staged.rename(folder)


def _check_versions(folder: Path, manifest: Mapping[str, Any]) -> None:
    here = provenance.versions(tuple(manifest["packages"]))
    made = manifest["packages"]
    differing = [name for name in here if made.get(name) != here[name]]
    if differing:
        listed = "; ".join(f"{name} {made.get(name)}, here is {here[name]}" for name in differing)
        raise ConflictError(
            f"model {folder}: it was made by {listed}. Another version may not read it, or may "
            "predict otherwise. Install what it was made by, or have it fitted anew from the "
            "study: --refit",
            ["packages"],
        )


def _folder_name(record: StudyRecord, trial: int, params: Mapping[str, Any]) -> str:
    """Return NAME-HASH; versions are no part of it, so that another one's model is found."""
    parts = [record.uid, dict(record.fingerprint), trial, dict(params)]
    return f"{record.name}-{_sha256(json.dumps(parts, sort_keys=True).encode())[:12]}"


def _summary(calibration: Calibration) -> dict[str, Any]:
    rows = {"rows": len(np.unique(calibration.rows))}
    if calibration.predicted.ndim == 2:
        # Of classes there are no residuals, and of several targets none of all together.
        return rows
    residuals = calibration.y - calibration.predicted
    return {
        **rows,
        "mean_residual": float(np.mean(residuals)),
        "absolute_residual_quantiles": {
            f"{level:g}": float(np.quantile(np.abs(residuals), level)) for level in _SUMMARY_LEVELS
        },
    }


def _origin() -> dict[str, Any]:
    """Return what a model that is given away may say of where it was made."""
    return provenance.published(provenance.collect())


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as exc:
        raise ModelError(
            f"model {folder}: {name} cannot be read ({exc.strerror}); have it made anew: --refit"
        ) from exc


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
