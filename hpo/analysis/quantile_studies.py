"""Three quantile studies joined into one interval, with its coverage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from features.table import FeatureTable
from hpo.analysis.best_model import Predictions, classify
from hpo.analysis.calibration import Calibrated, calibrate_three
from hpo.analysis.comparison.differences import read_study
from hpo.analysis.comparison.studies import compare_study
from hpo.analysis.conformal import Intervals, assess, join_predictions, repair_crossing
from hpo.errors import HpoError
from hpo.spec.objectives import QuantileSpec
from hpo.study.record import StudyRecord
from hpo.study.report_folder import report_folder
from hpo.wording import count_of

SET_NAMES = {"cv": "Cross-validation, out of fold", "test": "Held-out test set"}

MIN_COVERAGE = 0.5  # conformalised quantiles below it overcover


@dataclass(frozen=True, eq=False)
class ThreeQuantiles:
    """What three studies predict for the same rows.

    Attributes
    ----------
    names, levels
        The studies, and the levels of their quantiles, ascending.
    rows
        By "cv" and, if there are held-out rows, "test": predictions of the three in turn.
    coverage
        The nominal coverage: the highest level less the lowest.
    by_group
        Whether groups rather than rows are taken as drawn alike.
    """

    names: tuple[str, ...]
    levels: tuple[float, ...]
    rows: Mapping[str, Sequence[Predictions]]
    coverage: float
    by_group: bool = False

    @property
    def medians(self) -> dict[str, Predictions]:
        """Predictions of the middle study, by set."""
        return {name: three[1] for name, three in self.rows.items()}

    def crossed(self, name: str) -> float:
        """Return the share of rows whose quantiles are not in order, before the repair."""
        quantiles = join_predictions(*self.rows[name]).predicted
        return float(np.mean((np.diff(quantiles, axis=1) < 0).any(axis=1)))

    def raw(self) -> Calibrated:
        """Return the predicted quantiles as they are, but for the repair of crossing."""
        made = {}
        for name, three in self.rows.items():
            lower, median, upper = repair_crossing(join_predictions(*three).predicted).T
            made[name] = Intervals(lower, median, upper, self.coverage)
        return Calibrated(made["cv"], made.get("test"), self.coverage)

    def calibrated(self, coverage: float | None = None) -> Calibrated:
        """Return the conformalised intervals, by default of the nominal coverage."""
        return calibrate_three(
            self.rows["cv"],
            self.rows.get("test", ()),
            coverage or self.coverage,
            by_group=self.by_group,
        )


def join_studies(
    records: Sequence[StudyRecord], reports_dir: Path, *, by_group: bool = False
) -> ThreeQuantiles:
    """Join the predictions that lie beside the reports of three finished quantile studies.

    Raises
    ------
    HpoError
        If a study is none of a quantile, is not finished or has no predictions beside its
        report, or if the three are not of the same rows and folds.
    """
    by_level: dict[float, StudyRecord] = {}
    for record in records:
        objective = record.spec.objective
        if not isinstance(objective, QuantileSpec):
            raise HpoError(
                f"study '{record.name}': its objective is {objective.name}; intervals are made of "
                "three studies of objective quantile"
            )
        counts = record.ledger.counts()
        if not counts.done:
            raise HpoError(
                f"study '{record.name}': {counts.finished} of "
                f"{count_of(counts.budget, 'trial')} finished; "
                f"go on with: hpo resume {record.name}"
            )
        by_level[objective.level] = record
    if len(by_level) != len(records):
        raise HpoError(
            f"of {len(records)} studies two predict the same quantile; name each level once"
        )
    levels = sorted(by_level)
    ordered = [by_level[level] for level in levels]
    coverage = levels[-1] - levels[0]
    if coverage < MIN_COVERAGE:
        raise HpoError(
            f"levels {levels[0]:g} and {levels[-1]:g}: intervals between them would hold "
            f"{coverage:g} of the rows; there must be at least {MIN_COVERAGE:g} between"
        )
    read = [
        read_study(compare_study(record), report_folder(record, reports_dir)) for record in ordered
    ]
    for study in read:
        if "cv" not in study.rows:
            raise HpoError(f"study '{study.name}': {study.remark}")
    sets = [name for name in SET_NAMES if all(name in study.rows for study in read)]
    rows = {name: tuple(study.rows[name] for study in read) for name in sets}
    names = tuple(record.name for record in ordered)
    return ThreeQuantiles(names, tuple(levels), rows, round(coverage, 9), by_group)


def assess_all(three: ThreeQuantiles, table: FeatureTable | None) -> dict[str, dict[str, Any]]:
    """Return coverage and width by set: "raw" and "calibrated", and by class where it is known."""
    classes = classify(three.medians, table) if table is not None else {}
    found: dict[str, dict[str, Any]] = {}
    for how, made in (("raw", three.raw()), ("calibrated", three.calibrated())):
        for name, rows in three.medians.items():
            intervals = getattr(made, name)
            if intervals is not None:
                assessed = assess(intervals, rows.y, classes.get(name))
                found.setdefault(name, {})[how] = asdict(assessed)
    for name, of_set in found.items():
        of_set["crossed_before_repair"] = three.crossed(name)
    return found
