"""What an objective with parts may tell beside its scores. Every member is optional.

`prepare(folder, progress)`
    Computes what must be there before any part can be scored, once for a study, in one of its
    workers; the others wait for it. What it returns (anything that JSON holds, a million characters
    at most) is stored with the study. `folder` is a folder of this study on the file system that
    its workers share. It stays when a preparation is interrupted, and whoever takes over is given
    the same one: files in it should be replaced whole, and be taken for what they are. What is
    large stays there, and its path is returned. `progress(done, total)` is to be called often, from
    the same thread; it shows how far the preparation is. What it raises stops the study, and
    `hpo resume` has it tried again.
`set_prepared(prepared)`
    Is given what `prepare` returned, in every process that scores parts or reads what they are:
    before it, neither `parts` nor any method is asked for. It is not called by what only begins,
    checks or submits a study, and `splits_hash` must not depend on it.
`baseline`
    Parameters that a trial is compared with, as a mapping. They are scored once, part by part, by
    one worker, outside of the budget.
`totals`
    A `Total` for keys that `combine` returns: what reports, status and comparisons call them.
`predictions(params, parts)`
    Returns `PredictedRows` of a trial, from its parameters and the stored scores of its parts.
`figures(params, parts)`
    Returns Plotly figures of a trial by their titles. A page keeps their height, not their width.

For a function or a program all user attributes of a trial are totals. They prepare what they need
by themselves: a file that several workers may want to make is made in the first one's trial.
"""

from __future__ import annotations

import inspect
import json
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.errors import ObjectiveError
from hpo.objectives.protocol import Params, Scores
from hpo.objectives.scores import MAX_TEXT, check_name, is_number, refusing, shown

MAX_FORMAT = 20
_METHODS = ("prepare", "set_prepared", "predictions", "figures")


@dataclass(frozen=True)
class Total:
    """What a figure of a trial is called, and how it is written.

    Attributes
    ----------
    label, unit
        As in "mean steps" and "steps"; no unit if it has none.
    format
        A format specification of Python's, as in `.3f` or `.1%`.
    """

    label: str
    unit: str = ""
    format: str = ".4g"

    @property
    def heading(self) -> str:
        """The label with the unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def write(self, value: float | None) -> str:
        """Return a value as a text, without the unit; a dash if it is undefined."""
        if value is None or math.isnan(value):
            return "–"
        return format(value, self.format)


@dataclass(frozen=True, eq=False)
class PredictedRows:
    """Predictions of one trial for rows that were measured.

    Attributes
    ----------
    ids
        n_rows names.
    parts
        For each row the position of the part that predicted it.
    targets
        n_targets names, with their unit if they have one.
    observed, predicted
        Arrays of shape (n_rows, n_targets).
    """

    ids: Sequence[str]
    parts: Sequence[int]
    targets: Sequence[str]
    observed: NDArray[np.float64]
    predicted: NDArray[np.float64]


def find_faults(made: object) -> list[str]:
    """Return what is wrong with the optional members of an objective, without calling them.

    What a property computes when it is asked is not asked for.
    """
    faults = [
        f"{name} must be a method, is {shown(getattr(made, name))}"
        for name in _METHODS
        if has(made, name) and not callable(getattr(made, name))
    ]
    if has(made, "prepare") and not has(made, "set_prepared"):
        faults.append("has prepare, but lacks set_prepared, which is given what that returns")
    for name, read in (("totals", totals_of), ("baseline", baseline_of)):
        if not hasattr(type(inspect.getattr_static(made, name, None)), "__get__"):
            try:
                read(made)
            except ObjectiveError as exc:
                faults.append(str(exc))
    return faults


def has(made: object, name: str) -> bool:
    """Return whether an objective has an optional member; one that is None is none."""
    return inspect.getattr_static(made, name, None) is not None


def totals_of(made: object) -> dict[str, Total]:
    """Return what the totals of an objective are called, by their keys.

    Raises
    ------
    ObjectiveError
        If they are not a mapping of names to `Total`.
    """
    if not has(made, "totals"):
        return {}
    with refusing("totals"):
        return {check_name(key): _check_total(key, one) for key, one in _items(made, "totals")}


def _check_total(key: object, total: object) -> Total:
    if not isinstance(total, Total):
        raise ObjectiveError(f"{shown(key)}: must be a Total, is {shown(total)}")
    label = check_name(total.label)
    unit = check_name(total.unit) if total.unit != "" else ""
    how = total.format
    if not isinstance(how, str) or len(how) > MAX_FORMAT:
        raise ObjectiveError(f"{shown(key)}: format must be a short text, is {shown(how)}")
    try:
        written = format(0.5, how)
    except ValueError as exc:
        raise ObjectiveError(f"{shown(key)}: format {shown(how)} writes no number: {exc}") from exc
    if len(written) > MAX_FORMAT:
        raise ObjectiveError(f"{shown(key)}: format {shown(how)} writes {len(written)} characters")
    return Total(label, unit, str.__str__(how))


def baseline_of(made: object) -> dict[str, Any] | None:
    """Return the parameters of an objective's baseline; None if it has none.

    Raises
    ------
    ObjectiveError
        If they are not a mapping of names to numbers, texts, booleans or None.
    """
    if not has(made, "baseline"):
        return None
    with refusing("baseline"):
        return {check_name(key): _check_param(key, one) for key, one in _items(made, "baseline")}


def _check_param(name: object, value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if not is_number(value) or not math.isfinite(float(value)):
        raise ObjectiveError(
            f"{shown(name)}: must be a finite number, a text, a boolean or None, is {shown(value)}"
        )
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def _items(made: object, name: str) -> list[tuple[Any, Any]]:
    given: Any = getattr(made, name)
    if not isinstance(given, Mapping):
        raise ObjectiveError(f"must be a mapping, is {shown(given)}")
    return [*given.items()]


def prepare(made: Any, folder: Path, progress: Callable[[float, float], None]) -> str:
    """Prepare a study, and return the result as JSON.

    Raises
    ------
    ObjectiveError
        If the objective raises anything, or returns what JSON does not hold.
    """
    with refusing("prepare"):
        found = made.prepare(folder, progress)
        try:
            text = json.dumps(found)
        except (TypeError, ValueError, RecursionError) as exc:
            raise ObjectiveError(
                f"must return what JSON holds (numbers, texts, lists, objects with texts as keys), "
                f"returned {shown(found)}: {exc}"
            ) from exc
        if len(text) > MAX_TEXT:
            raise ObjectiveError(
                f"must return at most {MAX_TEXT:,} characters of JSON, returned {len(text):,}; "
                "leave what is large in the folder, and return its path"
            )
        return text


def set_prepared(made: Any, text: str) -> None:
    """Hand an objective what a preparation returned.

    Raises
    ------
    ObjectiveError
        If it raises anything.
    """
    with refusing("set_prepared"):
        made.set_prepared(json.loads(text))


def predictions_of(made: Any, params: Params, parts: Sequence[Scores]) -> PredictedRows | None:
    """Return what a trial predicts; None if the objective does not tell that.

    Raises
    ------
    ObjectiveError
        If it raises anything, or returns something else.
    """
    if not has(made, "predictions"):
        return None
    with refusing("predictions"):
        return _check_rows(made.predictions(dict(params), _copies(parts)), len(parts))


def _check_rows(rows: object, n_parts: int) -> PredictedRows:
    if not isinstance(rows, PredictedRows):
        raise ObjectiveError(f"must return PredictedRows, returned {shown(rows)}")
    ids = [str(one) for one in rows.ids]
    targets = [check_name(name) for name in rows.targets]
    parts = [int(part) for part in rows.parts]
    if not targets or len(set(targets)) < len(targets):
        raise ObjectiveError(f"targets must be names, no two alike, are {shown(rows.targets)}")
    if not ids or len(parts) != len(ids):
        raise ObjectiveError(f"there are {len(ids)} ids and {len(parts)} parts of rows")
    if not all(0 <= part < n_parts for part in parts):
        raise ObjectiveError(f"parts must be positions of parts, 0 to {n_parts - 1}")
    values = []
    for name in ("observed", "predicted"):
        given = np.asarray(getattr(rows, name), dtype=np.float64)
        array = given.reshape(len(ids), -1) if given.ndim == 1 and len(given) == len(ids) else given
        if array.shape != (len(ids), len(targets)):
            raise ObjectiveError(
                f"{name} must have the shape (rows, targets), which is "
                f"({len(ids)}, {len(targets)}), has {given.shape}"
            )
        if not np.isfinite(array).all():
            raise ObjectiveError(f"{name} must be finite")
        values.append(array)
    return PredictedRows(ids, parts, targets, *values)


def figures_of(made: Any, params: Params, parts: Sequence[Scores]) -> dict[str, Any]:
    """Return an objective's own figures of a trial by their titles; empty if it has none.

    Raises
    ------
    ObjectiveError
        If it raises anything, or returns something else.
    """
    if not has(made, "figures"):
        return {}
    with refusing("figures"):
        given = made.figures(dict(params), _copies(parts))
        if not isinstance(given, Mapping):
            raise ObjectiveError(f"must return a mapping of titles to figures, is {shown(given)}")
        for title, figure in given.items():
            if not hasattr(figure, "to_plotly_json"):
                raise ObjectiveError(f"{shown(title)}: must be a Plotly figure, is {shown(figure)}")
        return {check_name(title): figure for title, figure in given.items()}


def _copies(parts: Sequence[Scores]) -> list[dict[str, Any]]:
    """Return stored scores as the objective returned them: an undefined one is nan."""
    return [{k: math.nan if v is None else v for k, v in part.items()} for part in parts]
