"""Calibration of a forest's own standard deviation against the size of its errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, ndtri

from features.table import FeatureTable, TableView
from hpo.analysis.best_model import Predictions, evaluate, score_predictions
from hpo.analysis.bootstrap import bootstrap_intervals
from hpo.analysis.calibration import Calibrated, Curve, calibration_curve, wilson_interval
from hpo.analysis.conformal import Intervals, assess, calibrate_residuals, conformal_quantile
from hpo.analysis.conformal import join_predictions as join
from hpo.analysis.saved_model import Model
from hpo.objectives.cross_validation import CrossValidation
from hpo.objectives.metrics import METRICS, spearman
from hpo.study.record import StudyRecord
from hpo.study.snapshot import take_snapshot
from studies.bandgap.forests import predict_with_variances

Floats = NDArray[np.float64]

LEVELS = (float(erf(1 / np.sqrt(2.0))), 0.9, 0.95)  # the first is one standard deviation
COVERAGE = 0.9
N_BINS = 10


@dataclass(frozen=True, eq=False)
class Sure:
    """Predicted rows with the standard deviation that the forest gives each of them.

    Attributes
    ----------
    rows
        Measured and predicted values, in units of the target.
    within, between
        Arrays of shape (n_rows,): variance within leaves and between trees.
    """

    rows: Predictions
    within: Floats
    between: Floats

    @property
    def deviation(self) -> Floats:
        """Standard deviation, shape (n_rows,), in units of the target."""
        return np.asarray(np.sqrt(self.within + self.between), dtype=np.float64)

    @property
    def errors(self) -> Floats:
        """Absolute errors, shape (n_rows,)."""
        return np.asarray(np.abs(self.rows.y - self.rows.predicted), dtype=np.float64)

    @property
    def ratios(self) -> Floats:
        """Absolute errors over deviations; 0 where both are 0, infinite where the latter is."""
        errors, deviation = self.errors, self.deviation
        far = np.where(errors > 0.0, np.inf, 0.0)
        return np.divide(errors, deviation, out=far, where=deviation > 0.0)

    def take(self, rows: NDArray[np.bool_]) -> Sure:
        """Return some of the rows, scored by themselves."""
        old, nothing = self.rows, np.empty((int(rows.sum()), 0))
        view = TableView(old.ids[rows], nothing, nothing, old.y[rows], old.groups[rows])
        picked = score_predictions(view, old.predicted[rows], old.fold[rows], METRICS)
        return Sure(picked, self.within[rows], self.between[rows])

    def intervals(self, coverage: float, factor: float | None = None) -> Intervals:
        """Return symmetric intervals around the predictions.

        Half the width is `factor` deviations; without, the normal quantile of the coverage.
        """
        half = self.deviation * (ndtri(0.5 + coverage / 2.0) if factor is None else factor)
        centre = self.rows.predicted
        return Intervals(centre - half, centre, centre + half, coverage)


@dataclass(frozen=True, eq=False)
class Judged:
    """A study's best forest on rows that it was not trained on."""

    name: str
    cv: Sure
    test: Sure | None

    @property
    def sets(self) -> dict[str, Sure]:
        """The rows by what they are; those of metals (gap 0) are also left out of one."""
        found = {"cross-validation": self.cv}
        is_other = self.cv.rows.y > 0.0
        if not is_other.all():
            found["cross-validation, non-metals"] = self.cv.take(is_other)
        return found if self.test is None else {**found, "held out": self.test}


def judge(record: StudyRecord, table: FeatureTable, objective: Any, model: Model) -> Judged:
    """Return the predictions of a finished study's best forest with its deviations.

    Training rows are predicted by the forest of the fold that holds them out, held-out rows by
    the forest of all training rows, `model`.
    """
    assert isinstance(objective, CrossValidation)
    # Records the evaluation of the test set.
    evaluation = evaluate(take_snapshot(record), table, objective)
    assert evaluation is not None
    within, between = np.empty((2, len(evaluation.cv.y)))
    for k, forest in enumerate(evaluation.fold_models):
        of_fold = evaluation.cv.fold == k
        found = predict_with_variances(forest, evaluation.X_validated[of_fold])
        _, within[of_fold], between[of_fold] = found
    test = None
    if evaluation.test is not None:
        view = table.test
        predicted, *of_test = predict_with_variances(model.estimator, view.X)
        fold = np.full(len(view.y), -1, dtype=np.int64)
        test = Sure(score_predictions(view, predicted, fold, METRICS), *of_test)
    return Judged(record.name, Sure(evaluation.cv, within, between), test)


def curves_of(judged: Judged) -> dict[str, Curve]:
    """Return how often intervals of several nominal coverages, by z alone, hold the value."""

    def at(coverage: float) -> Calibrated:
        test = None if judged.test is None else judged.test.intervals(coverage)
        return Calibrated(judged.cv.intervals(coverage), test, coverage)

    rows = {"cv": judged.cv.rows, **({"test": judged.test.rows} if judged.test else {})}
    return calibration_curve(at, rows)


def describe(judged: Judged) -> dict[str, Any]:
    """Return what is printed of a study, by set of rows."""
    return {name: _describe(sure) for name, sure in judged.sets.items()} | {
        "intervals": _compare_intervals(judged)
    }


def _describe(sure: Sure) -> dict[str, Any]:
    rows, n_rows = sure.rows, len(sure.rows.y)
    covered = {level: float(np.mean(sure.ratios <= ndtri(0.5 + level / 2.0))) for level in LEVELS}
    rho = spearman(sure.errors, sure.deviation)
    return {
        "rows": n_rows,
        "scores": {name: rows.scores[name] for name in ("mae", "rmse", "r2")},
        "intervals": {name: rows.row_intervals[name] for name in ("mae", "rmse", "r2")},
        "error_against_deviation": {"spearman": rho, "interval": _rho_interval(sure)},
        "variance_within_leaves": float(np.mean(sure.within) / np.mean(sure.deviation**2)),
        "root_mean_square_deviation": float(np.sqrt(np.mean(sure.deviation**2))),
        "coverage": {
            f"{level:.3f}": {
                "observed": share,
                "interval": [float(end[0]) for end in wilson_interval(share, n_rows)],
            }
            for level, share in covered.items()
        },
    }


def _rho_interval(sure: Sure) -> tuple[float, float]:
    found = bootstrap_intervals(
        sure.errors, sure.deviation, metrics={"spearman": spearman}, n_resamples=1000
    )
    return found["spearman"]


def _compare_intervals(judged: Judged) -> dict[str, Any]:
    """Return coverage and mean width of 90 % intervals of the held-out rows, made in three ways."""
    if judged.test is None:
        return {}
    held_out = join(judged.cv.rows)
    factor = conformal_quantile(judged.cv.ratios, COVERAGE)
    test = judged.test
    made = {
        "by z": test.intervals(COVERAGE),
        f"{factor:.2f} deviations": test.intervals(COVERAGE, factor),
        "one width": calibrate_residuals(held_out, test.rows.predicted, COVERAGE),
    }
    found = {}
    for name, intervals in made.items():
        assessment = assess(intervals, test.rows.y)
        found[name] = {"coverage": assessment.coverage, "mean_width": assessment.mean_width}
    return found


def bins_of(sure: Sure, n_bins: int = N_BINS) -> tuple[Floats, Floats]:
    """Return root mean square deviation and error of equally many rows each, by deviation.

    Where the forest knows its errors, both are the same: Levi, Gispan, Giladi & Fetaya,
    Sensors 22, 5540 (2022).
    """
    order = np.argsort(sure.deviation, kind="stable")
    parts = np.array_split(order, min(n_bins, len(order)))
    return (
        np.array([np.sqrt(np.mean(sure.deviation[part] ** 2)) for part in parts]),
        np.array([np.sqrt(np.mean(sure.errors[part] ** 2)) for part in parts]),
    )


def lines_of(name: str, described: Mapping[str, Any]) -> list[str]:
    """Return what is printed of a study, line by line."""
    lines = [name]
    for rows, found in described.items():
        if rows == "intervals":
            continue
        scores = ", ".join(
            f"{metric.upper()} {found['scores'][metric]:.3f} "
            f"({found['intervals'][metric][0]:.3f} to {found['intervals'][metric][1]:.3f})"
            for metric in ("mae", "rmse", "r2")
        )
        rho = found["error_against_deviation"]
        lines.append(f"  {rows}, {found['rows']} rows: {scores}")
        lines.append(
            f"    error against deviation: Spearman {rho['spearman']:.2f} "
            f"({rho['interval'][0]:.2f} to {rho['interval'][1]:.2f}); root mean square deviation "
            f"{found['root_mean_square_deviation']:.3f} eV, "
            f"{100 * found['variance_within_leaves']:.0f} % of its square within leaves"
        )
        lines.append(f"    within z deviations: {_coverages(found['coverage'])}")
    for how, found in described["intervals"].items():
        lines.append(
            f"  {100 * COVERAGE:g} % intervals of held-out rows, {how}: hold "
            f"{found['coverage']:.3f}, mean width {found['mean_width']:.2f} eV"
        )
    return lines


def _coverages(coverage: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{found['observed']:.3f} ({found['interval'][0]:.3f} to {found['interval'][1]:.3f}) "
        f"of nominal {level}"
        for level, found in coverage.items()
    )
