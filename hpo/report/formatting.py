"""Numbers, durations, units and labels as a reader sees them."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from features.table import Target
from hpo.wording import plain_number

NO_BREAK = "\N{NO-BREAK SPACE}"

METRIC_LABELS = {"r2": "R²", "rmse": "RMSE", "mae": "MAE", "spearman": "Spearman ρ"}
# Beside them, where some rows are known as intervals.
BOUNDS_LABELS = {"concordance": "Concordance"}

CLASS_LABELS = {
    "roc_auc": "ROC AUC",
    "average_precision": "Average precision",
    "log_loss": "Log loss",
    "brier_score": "Brier score",
    "balanced_accuracy": "Balanced accuracy",
    "accuracy": "Accuracy",
    "f1_macro": "F1, mean of classes",
    "matthews_corrcoef": "Matthews correlation",
}

QUANTILE_LABELS = {"pinball": "Pinball loss", "coverage": "Coverage"}


def name_target(target: Target | None) -> tuple[str, str]:
    """Return the target as an axis names it, and the unit of an error in it."""
    if target is None:
        return "", ""
    # A header may end with its unit.
    told = target.name.endswith((f"({target.unit})", f"[{target.unit}]"))
    unit = f" ({target.unit})" if target.unit and not told else ""
    if target.log10:
        return f"log₁₀ {target.name}{unit}", "decades"
    return f"{target.name}{unit}", target.unit


def name_targets(targets: Sequence[Target]) -> tuple[str, str]:
    """Return the targets as a reader sees them, and the unit of an error over all of them."""
    if len(targets) <= 1:
        return name_target(targets[0] if targets else None)
    return ", ".join(name_target(target)[0] for target in targets), "standard deviations"


def shown_metrics(names: Collection[str]) -> tuple[str, ...]:
    """Return the metrics among `names` that a reader is shown, in their order.

    Of predicted quantiles nothing is shown that speaks of their distance from the value.
    """
    labels = {**METRIC_LABELS, **BOUNDS_LABELS}
    if QUANTILE_LABELS.keys() <= {*names}:
        labels = QUANTILE_LABELS
    if CLASS_LABELS.keys() & {*names}:
        labels = CLASS_LABELS
    return tuple(name for name in labels if name in names)


def label(metric: str) -> str:
    """Return what a metric is called."""
    labels = {**METRIC_LABELS, **BOUNDS_LABELS, **QUANTILE_LABELS, **CLASS_LABELS}
    return {**labels, "scoring": "Scoring"}[metric]


def _label(metric: str, unit: str) -> str:
    name = label(metric)
    return f"{name} ({unit})" if unit and metric in ("rmse", "mae", "pinball") else name


def _interval(ends: tuple[float, float]) -> str:
    return f"{number(ends[0])} to {number(ends[1])}"


def number(value: float | None) -> str:
    """Return a score for a reader: three decimals, or three figures of small ones; a true minus.

    A whole number stays one, such as a score that counts something.
    """
    if value is None or math.isnan(value):
        return "–"
    small = not 0.1 <= abs(value) < 1000
    return plain_number(value, ".3g" if small else ".3f").replace("-", "−")


def percent(share: float) -> str:
    """Return a share in whole per cent, without rounding anything to none or to all."""
    if 0 < share < 0.01:
        return "Under 1 %"
    return "Over 99 %" if 0.99 < share < 1 else f"{100 * share:.0f} %"


def utc(seconds: float) -> str:
    """Return a time, in seconds since the epoch, to the minute."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def duration(seconds: float) -> str:
    """Return a time span to two figures or so."""
    if seconds < 1:
        return "less than 1 s"
    if seconds < 60:
        return f"{seconds:.2g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"
