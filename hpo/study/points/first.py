"""The points that a study begins with: what its file says is to be tried first."""

from __future__ import annotations

from typing import Any, NamedTuple

from hpo.errors import SpecError
from hpo.estimators.defaults import default_params
from hpo.spec.sections import StudySpec
from hpo.spec.space import (
    CategoricalDimension,
    Dimension,
    FamiliesDimension,
    as_choice,
    distributions,
)
from hpo.storage.storage import StudyStorage
from hpo.study.points.checking import check_enqueued, check_value
from hpo.study.points.warm_start import read_warm_points


class FirstPoints(NamedTuple):
    """Points in the order in which they are tried, and what is to be said of them."""

    points: list[dict[str, Any]]
    notes: list[str]


def first_points(
    spec: StudySpec,
    before: StudySpec | None = None,
    storage: StudyStorage | str | None = None,
) -> FirstPoints:
    """Return what a study file asks for: its estimator's defaults, its own points, other studies'.

    A step of a nested cross-validation begins with no other study, which may have seen its test
    rows.

    Parameters
    ----------
    before
        What the study was until now, if there was one: what was asked for then is not again.
    storage
        Where the study is, or the URL of that; without it, other studies are not read.

    Raises
    ------
    SpecError
        If one is not within the search space, no default is, or another study cannot be begun
        with.
    """
    points: list[dict[str, Any]] = []
    notes: list[str] = []
    if spec.start_with_defaults and not (before and before.start_with_defaults):
        point, notes = _default_point(spec)
        points.append(point)
    points += check_enqueued(spec)
    new = [one for one in spec.warm_start if before is None or one not in before.warm_start]
    if storage is not None and new and spec.cv is not None and spec.cv.outer is not None:
        notes.append(
            "warm_start: left out, as other studies may have seen the fold that is held out"
        )
    elif storage is not None:
        for entry in new:
            warm = read_warm_points(spec, entry, storage)
            points += warm.points
            notes += warm.notes
    return FirstPoints(points, notes)


def _default_point(spec: StudySpec) -> tuple[dict[str, Any], list[str]]:
    """Return the estimator's defaults as far as they are in [space], and what is left out."""
    assert spec.estimator is not None
    space, defaults = distributions(spec.space), default_params(spec.estimator)
    point: dict[str, Any] = {}
    notes = []
    for name in space:
        value = defaults.get(name)
        try:
            coded = _choice_of(spec.space[name], value)
            if not isinstance(coded, bool | int | float | str):
                raise SpecError("no value of a dimension")
            point[name] = check_value(name, coded, space, "start_with_defaults")
        except SpecError:
            said = f"{value!r} is not in [space]" if name in defaults else "is not known"
            notes.append(f"start_with_defaults: {name} is drawn, as its default {said}")
    if not point:
        raise SpecError("\n".join(["start_with_defaults: no default is in [space]", *notes]))
    return point, notes


def _choice_of(dimension: Dimension, value: Any) -> Any:
    """Return a default as Optuna stores it.

    Of a step of a pipeline, the choice that is the same step; of families, that which has all of
    the others.
    """
    if isinstance(dimension, FamiliesDimension):
        widest = max(dimension.choices, key=len)
        if all(set(choice) <= set(widest) for choice in dimension.choices):
            return as_choice(widest)
    if isinstance(dimension, CategoricalDimension) and isinstance(value, dict):
        same = (choice for choice in dimension.choices if _as_step(choice) == value)
        return as_choice(next(same, value))
    return as_choice(value)


def _as_step(choice: Any) -> Any:
    if isinstance(choice, str):
        return {"name": choice, "params": {}}
    return {"params": {}, **choice} if isinstance(choice, dict) else choice
