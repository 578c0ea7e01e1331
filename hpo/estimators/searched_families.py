"""Which feature families an estimator sees, as a dimension of the search."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from features.table import Column
from hpo.errors import SpecError
from hpo.estimators.protocol import Regressor
from hpo.spec.space import FamiliesDimension, as_choice


@dataclass(frozen=True)
class SearchedFamilies:
    """The dimension that says which families are seen.

    Attributes
    ----------
    name
        What [space] calls it.
    columns
        For each choice, as Optuna stores it, the positions of its columns.
    """

    name: str
    columns: Mapping[str, tuple[int, ...]]


def searched_families(
    space: Mapping[str, Any], columns: Sequence[Column]
) -> SearchedFamilies | None:
    """Return the dimension of families of a space over the columns of a table; None if none.

    Raises
    ------
    SpecError
        If there are several, or one names a family that the table has not.
    """
    found = {name: one for name, one in space.items() if isinstance(one, FamiliesDimension)}
    if not found:
        return None
    if len(found) > 1:
        raise SpecError(f"[space] {', '.join(found)}: one dimension alone can be of families")
    ((name, dimension),) = found.items()
    families = {column.family for column in columns}
    for choice in dimension.choices:
        for family in choice:
            if columns and family not in families:
                near = difflib.get_close_matches(family, sorted(families), n=1, cutoff=0.5)
                hint = f"did you mean '{near[0]}'?" if near else "check [table] families"
                raise SpecError(f"[space] {name}: the table has no family '{family}'; {hint}")
    positions = {
        as_choice(choice): tuple(k for k, one in enumerate(columns) if one.family in choice)
        for choice in dimension.choices
    }
    return SearchedFamilies(name, positions)


def seeing(model: Regressor, columns: Sequence[int]) -> Regressor:
    """Return a pipeline that hands a model some columns alone, in the table's order."""
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline

    kept = ColumnTransformer([("kept", "passthrough", list(columns))])
    steps = list(model.steps) if isinstance(model, Pipeline) else [("model", model)]
    made: Regressor = Pipeline([("families", kept), *steps])
    return made
