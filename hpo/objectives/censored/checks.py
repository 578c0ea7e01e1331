"""What targets that are known as intervals alone do to an objective: what takes them, what not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hpo.errors import ObjectiveError
from hpo.estimators.factory import BoundEstimator
from hpo.estimators.protocol import Floats
from hpo.objectives.censored.bounds import Bounds, Truth
from hpo.objectives.folds import Fold
from hpo.wording import count_of

AS_VALUE = 'or let limits count as values: [table] censored = "as_value"'


def refuse_values_alone(bounds: Floats | None, what: str) -> None:
    """Refuse what scores values alone where some rows have none.

    Raises
    ------
    ObjectiveError
        Beginning with `what`, which lacks its object: "values alone".
    """
    if bounds is not None:
        raise ObjectiveError(
            f"{what} values alone, and of {_share(bounds)} the target is known as an interval; "
            f'write metric = "rmse", mae or concordance, which are of intervals, {AS_VALUE}'
        )


def refuse_unordered(
    truth: Truth,
    folds: Sequence[Fold],
    metrics: Mapping[str, Callable[[Any, Floats], float]],
    metric: str,
    what: str,
    why: str,
) -> None:
    """Refuse folds whose validated rows have no order that a metric could be of, such as one row.

    Raises
    ------
    ObjectiveError
        Beginning with `what` and ending with `why`; or if the metric is not among the `metrics`
        that there are, as it is of intervals alone, and all rows were measured.
    """
    if metric not in metrics:
        raise ObjectiveError(
            f"{what}: is of targets that are known as intervals, and all {len(truth)} training "
            "rows have a value; use spearman"
        )
    score = metrics[metric]
    for k, fold in enumerate(folds):
        rows = truth[fold.validation]
        order = np.broadcast_to(np.arange(len(rows), dtype=np.float64), rows.shape[::-1]).T
        if math.isnan(score(rows, order)):
            of = " of a target" if len(rows.shape) > 1 else ""
            n_rows = count_of(len(rows), "row")
            found = f"all {n_rows} that fold {k} validates have one value{of}"
            if isinstance(rows, Bounds):
                found = f"no two of the {n_rows} that fold {k} validates are known to differ"
                found += "" if metric == "concordance" else " in a measured value"
            raise ObjectiveError(f"{what}: {found}, which {why}")


def describe_bounds(bounds: Floats | None, bound: BoundEstimator) -> list[str]:
    """Return in a sentence what becomes of rows that are known as intervals; empty if none is.

    Parameters
    ----------
    bounds
        Array of shape (n_rows, 2).
    bound
        What is fitted.
    """
    if bounds is None:
        return []
    of_rows = f"of {_share(bounds)} the target is known as an interval"
    able = bound.take_bounds
    taking, others = (" and ".join(n for n in able if able[n] == is_able) for is_able in (1, 0))
    said = f"{of_rows}, which {taking} is fitted to" if taking else of_rows
    if others:
        said += (
            f"{';' if taking else ':'} {others}, which takes no bounds, is fitted to the limit "
            "that is stated, or to the middle of a range; scores take the interval"
        )
    if others and not taking:
        said += " (xgboost_aft is fitted to it, too)"
    return [said]


def _share(bounds: Floats) -> str:
    n_rows = int((~Bounds(bounds).is_measured).sum())
    return f"{n_rows} of the {count_of(len(bounds), 'training row')}"
