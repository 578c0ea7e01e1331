"""Points of a study's search space that somebody wants tried first: checked, and enqueued."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import create_trial

import features.table
from hpo.errors import SpecError, suggest
from hpo.records import Counts
from hpo.spec.loading import parse_value
from hpo.spec.objectives import FunctionSpec
from hpo.spec.sections import StudySpec
from hpo.spec.space import as_choice, distributions
from hpo.wording import abridge

MAX_POINTS = 10_000


def check_enqueued(spec: StudySpec) -> list[dict[str, Any]]:
    """Return the points of [[enqueue]] in a study file as `check_points` does."""
    if len(spec.enqueue) > MAX_POINTS:
        raise SpecError(f"[[enqueue]]: has {len(spec.enqueue)} points, and may have {MAX_POINTS}")
    return check_points(spec, spec.enqueue, "[[enqueue]] {}")


def check_points(
    spec: StudySpec, points: Sequence[Mapping[str, Any]], named: str = ""
) -> list[dict[str, Any]]:
    """Return points as their dimensions have them; parameters that are left out are drawn.

    What a function draws is known when it is called: values of its points may be whatever a
    dimension can have. `named` is what errors call a point, with its position.

    Raises
    ------
    SpecError
        Naming the point, the parameter, what it may be and what it is.
    """
    space = distributions(spec.space)
    found = []
    for at, point in enumerate(points, 1):
        where = named.format(at) or (f"point {at}" if len(points) > 1 else "the point")
        if not point:
            raise SpecError(f"{where}: has no parameter")
        drawn_by_name = isinstance(spec.objective, FunctionSpec)
        coded = {
            name: as_choice(value)
            if isinstance(space.get(name), CategoricalDistribution)
            else value
            for name, value in point.items()
        }
        for name, value in coded.items():
            if not isinstance(value, bool | int | float | str):
                raise SpecError(
                    f"{where}: {abridge(name)} must be a number, a text, true or false, is "
                    f"{abridge(repr(value))}"
                )
        found.append(
            {
                name: value if drawn_by_name else check_value(name, value, space, where)
                for name, value in coded.items()
            }
        )
    return found


def lacking_room(name: str, counts: Counts) -> str:
    """Return what to do where a study's budget has no room for what is enqueued; "" if it has."""
    waiting = counts.free + counts.held
    if waiting <= max(0, counts.budget - counts.finished):
        return ""
    return (
        f"the budget of {counts.budget} has no room for all of them; raise it: hpo budget {name} "
        f"{counts.finished + waiting}"
    )


def read_points(path: Path) -> list[dict[str, Any]]:
    """Read points from a CSV file: a parameter a column, a point a row; empty cells are drawn.

    A column without a name numbers the rows, and is left out.

    Raises
    ------
    SpecError
        If it cannot be read, or has no rows, or too many.
    """
    try:
        table = features.table.read_csv(path)
    except features.table.DatasetError as exc:
        raise SpecError(str(exc)) from exc
    if table.malformed:
        line, reason = table.malformed[0]
        raise SpecError(f"{path}, line {line}: {reason}")
    if len(table.records) > MAX_POINTS:
        raise SpecError(f"{path}: must have from 1 to {MAX_POINTS} rows, has {len(table.records)}")
    points = []
    for line, fields in table.records:
        cells = zip(table.columns, fields, strict=True)
        named = {name: cell for name, cell in cells if name and cell}
        points.append(
            {name: _read_cell(table, name, c, f"{path}, line {line}") for name, c in named.items()}
        )
    return points


def _read_cell(table: features.table.CsvFile, name: str, cell: str, where: str) -> Any:
    """Return what a cell says: TOML, a number as its column writes them, or a text."""
    try:
        number = table.number(name, cell)
    except ValueError as exc:
        raise SpecError(f"{where}: {exc}") from exc
    value = parse_value(cell, name)
    if number is None or value == number:
        return value
    return int(number) if number.is_integer() else number


def check_value(name: str, value: Any, space: Mapping[str, BaseDistribution], where: str) -> Any:
    """Return a value as its dimension has it; `where` is what errors begin with."""
    if name not in space:
        raise SpecError(f"{where}: unknown parameter '{abridge(name)}'; {suggest(name, space)}")
    distribution = space[name]
    if isinstance(distribution, CategoricalDistribution):
        value = as_choice(value)
        alike = [one for one in distribution.choices if one == value and type(one) is type(value)]
        written = [one for one in distribution.choices if str(one) == str(value)]
        if not (alike or written):
            choices = ", ".join(map(str, distribution.choices))
            raise SpecError(f"{where}: {name} must be one of {choices}, is {abridge(str(value))}")
        return (alike or written)[0]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SpecError(f"{where}: {name} must be a number, is {abridge(repr(value))}")
    number = int(value) if isinstance(distribution, IntDistribution) else float(value)
    try:
        if number != value:
            raise ValueError
        create_trial(value=0.0, params={name: number}, distributions={name: distribution})
    except ValueError:
        raise SpecError(f"{where}: {name} must be {_described(distribution)}, is {value}") from None
    return number


def _described(distribution: BaseDistribution) -> str:
    """Return in words what a number may be."""
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    step = distribution.step
    kind = "an integer" if isinstance(distribution, IntDistribution) else "a number"
    steps = f" in steps of {step}" if step not in (None, 1) else ""
    return f"{kind} from {distribution.low} to {distribution.high}{steps}"
