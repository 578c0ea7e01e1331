"""Dimensions of a search space, as a study file writes them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Choice = bool | int | float | str | list[JsonValue] | dict[str, JsonValue]
# Scores at every number of trees are stored until a trial is complete.
MAX_STAGES = 100


class _Dimension(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class FloatDimension(_Dimension):
    """A real parameter in [low, high], on a log scale or on a grid of `step` if asked."""

    type: Literal["float"]
    low: float
    high: float
    log: bool = False
    step: float | None = None

    @model_validator(mode="after")
    def _check(self) -> FloatDimension:
        _check_range(self.low, self.high, self.step, log=self.log)
        return self


class IntDimension(_Dimension):
    """An integer parameter in [low, high], both included."""

    type: Literal["int"]
    low: int
    high: int
    log: bool = False
    step: int = 1

    @model_validator(mode="after")
    def _check(self) -> IntDimension:
        _check_range(self.low, self.high, self.step if self.step != 1 else None, log=self.log)
        return self


class CategoricalDimension(_Dimension):
    """A parameter that takes one of a few values.

    The text "None" stands for None of an estimator, a list for a list, and a section with `name`
    and `params` for an estimator within it.
    """

    type: Literal["categorical"]
    choices: tuple[Choice, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> CategoricalDimension:
        # 1, 1.0 and true are equal in Python; they are different choices to an estimator.
        coded = map(as_choice, self.choices)
        keys = [(type(choice).__name__, choice) for choice in coded]
        if len(set(keys)) != len(keys):
            raise ValueError(f"choices must differ from one another, got {list(self.choices)}")
        return self


class FamiliesDimension(_Dimension):
    """Which feature families of the table the estimator sees: one of a few lists of them."""

    type: Literal["families"]
    choices: tuple[tuple[str, ...], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> FamiliesDimension:
        sets = [frozenset(choice) for choice in self.choices]
        for choice, families in zip(self.choices, sets, strict=True):
            if not families or len(families) < len(choice) or sets.count(families) > 1:
                raise ValueError(
                    f"choices must be lists of families that differ from one another, got "
                    f"{[list(one) for one in self.choices]}"
                )
        return self


class StagedDimension(_Dimension):
    """A number of trees that is not drawn but read off a curve: low, low + step, … up to high.

    Every fold is fitted once with the largest number; see `hpo.estimators.staged_trees`.
    Without `low`, the first number is `step`.
    """

    type: Literal["staged"]
    low: int = Field(0, ge=0)
    high: int
    step: int = Field(10, ge=1)
    log: Literal[False] = False

    @model_validator(mode="before")
    @classmethod
    def _begin(cls, values: Any) -> Any:
        if isinstance(values, dict) and "low" not in values:
            return {**values, "low": values.get("step", 10)}
        return values

    @model_validator(mode="after")
    def _check(self) -> StagedDimension:
        if self.low < 1:
            raise ValueError(f"low must be 1 at least, got {self.low}")
        _check_range(self.low, self.high, self.step, log=False)
        if len(self.numbers) > MAX_STAGES:
            raise ValueError(
                f"{len(self.numbers)} numbers of trees are more than {MAX_STAGES}: raise step"
            )
        return self

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers to choose among, ascending."""
        return tuple(range(self.low, self.high + 1, self.step))


Dimension = Annotated[
    FloatDimension | IntDimension | CategoricalDimension | FamiliesDimension | StagedDimension,
    Field(discriminator="type"),
]


def _check_range(low: float, high: float, step: float | None, *, log: bool) -> None:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"low and high must be finite, got {low} and {high}")
    if low >= high:
        raise ValueError(f"low must be smaller than high, got {low} and {high}")
    if log and low <= 0:
        raise ValueError(f"a log scale needs low > 0, got {low}")
    if step is None:
        return
    if log:
        raise ValueError("log and step exclude each other")
    if not step > 0:
        raise ValueError(f"step must be greater than 0, got {step}")
    steps = (high - low) / step
    if abs(steps - round(steps)) > 1e-8 * max(1.0, steps):
        raise ValueError(f"high - low must be a multiple of step, got {low} to {high} by {step}")


def distributions(space: Mapping[str, Dimension]) -> dict[str, BaseDistribution]:
    """Return the Optuna distribution of every dimension that is drawn, in the file's order."""
    return {
        name: distribution_of(dimension)
        for name, dimension in space.items()
        if not isinstance(dimension, StagedDimension)
    }


def distribution_of(dimension: Any) -> BaseDistribution:
    """Return the Optuna distribution of a dimension, drawn or not."""
    # A study file is checked without Optuna, which takes a quarter of a second.
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if isinstance(dimension, FloatDimension):
        return FloatDistribution(
            dimension.low, dimension.high, log=dimension.log, step=dimension.step
        )
    if isinstance(dimension, IntDimension | StagedDimension):
        return IntDistribution(
            dimension.low, dimension.high, log=dimension.log, step=dimension.step
        )
    return CategoricalDistribution([as_choice(choice) for choice in dimension.choices])


def as_choice(value: Any) -> Any:
    """Return a value as Optuna stores a choice of it: a list or a section as a text of JSON.

    So it is one text wherever a parameter is shown, exported or typed in, and reads back as what it
    was where an estimator is made (`hpo.estimators.values`). None is the text "None".
    """
    if value is None:
        return "None"
    return json.dumps(value, sort_keys=True) if isinstance(value, list | tuple | dict) else value
