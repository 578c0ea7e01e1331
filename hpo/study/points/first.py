"""The points that a study begins with: what its file says is to be tried first."""

from __future__ import annotations

from typing import Any, NamedTuple

from hpo.errors import SpecError
from hpo.estimators.defaults import default_params
from hpo.spec.sections import StudySpec
from hpo.spec.space import distributions
from hpo.study.points.checking import check_enqueued, check_value


class FirstPoints(NamedTuple):
    """Points in the order in which they are tried, and what is to be said of them."""

    points: list[dict[str, Any]]
    notes: list[str]


def first_points(spec: StudySpec, before: StudySpec | None = None) -> FirstPoints:
    """Return the points that a study file asks for: its estimator's defaults, then its own ones.

    Parameters
    ----------
    before
        What the study was until now, if there was one: what was asked for then is not again.

    Raises
    ------
    SpecError
        If one is not within the search space, or no default is.
    """
    points: list[dict[str, Any]] = []
    notes: list[str] = []
    if spec.start_with_defaults and not (before and before.start_with_defaults):
        point, notes = _default_point(spec)
        points.append(point)
    return FirstPoints([*points, *check_enqueued(spec)], notes)


def _default_point(spec: StudySpec) -> tuple[dict[str, Any], list[str]]:
    """Return the estimator's defaults as far as they are in [space], and what is left out."""
    assert spec.estimator is not None
    space, defaults = distributions(spec.space), default_params(spec.estimator)
    point: dict[str, Any] = {}
    notes = []
    for name in space:
        value = defaults.get(name)
        try:
            if not isinstance(value, bool | int | float | str):
                raise SpecError("no value of a dimension")
            point[name] = check_value(name, value, space, "start_with_defaults")
        except SpecError:
            said = f"{value!r} is not in [space]" if name in defaults else "is not known"
            notes.append(f"start_with_defaults: {name} is drawn, as its default {said}")
    if not point:
        raise SpecError("\n".join(["start_with_defaults: no default is in [space]", *notes]))
    return point, notes
