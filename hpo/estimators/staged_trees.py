"""The number of trees read off a curve, rather than drawn.

A model of many boosted trees holds those of fewer trees: its first ones. One fit of the largest
number therefore scores all numbers below it, on every fold, and the one with the best mean over
folds is the trial's. What is chosen in this way is chosen by the validated rows of the very folds
that score the trial, as every other parameter is by the search: the score of the best trial is
that of a search over this parameter, too, and nested cross-validation repeats that search.

While a trial runs, each of its parts keeps the curve of every score. When all are there, the parts
are settled: they then hold the scores at the chosen number alone, as of a trial with that number.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np

from hpo.errors import SpecError
from hpo.estimators.probabilities import class_probabilities, spread
from hpo.estimators.protocol import Floats, Regressor
from hpo.estimators.registry import REGISTRY, find_entry, parameter_names
from hpo.plugins import resolve
from hpo.spec.estimators import CompositeSpec, EstimatorSpec
from hpo.spec.objectives import SpearmanSpec
from hpo.spec.sections import StudySpec
from hpo.spec.space import StagedDimension

CURVE_KEY = "curve"


@runtime_checkable
class _Staging(Protocol):
    """A boosted model of scikit-learn, which says what it predicts after each of its trees."""

    def staged_predict(self, X: Floats) -> Iterator[Floats]: ...


class _StagingClasses(Protocol):
    """One that says so of probabilities, too."""

    def staged_predict_proba(self, X: Floats) -> Iterator[Floats]: ...


class _Numbered(Protocol):
    """One of LightGBM, which predicts with as many trees as it is told."""

    def predict(self, X: Floats, num_iteration: int) -> Floats: ...


@dataclass(frozen=True)
class Staged:
    """The parameter that is read off a curve.

    Attributes
    ----------
    name
        What the estimator calls its number of trees.
    dimension
        Which numbers there are.
    """

    name: str
    dimension: StagedDimension

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of trees to choose among, ascending."""
        return self.dimension.numbers

    def keep(self, points: Sequence[Mapping[str, float]], *, maximises: bool) -> dict[str, Any]:
        """Return what a part stores: the scores at its own best point, and the curves of all.

        Parameters
        ----------
        points
            The scores at each number of trees, each with the same names.
        maximises
            Whether a large `score` is good.
        """
        curves = np.array([list(point.values()) for point in points], dtype="<f8")
        best = _best([point["score"] for point in points], maximises=maximises)
        coded = base64.b64encode(curves.tobytes()).decode()
        return {**points[best], CURVE_KEY: f"{' '.join(points[0])}:{coded}"}

    def choose(
        self, parts: Sequence[Mapping[str, Any]], *, maximises: bool
    ) -> tuple[int, list[dict[str, Any]]]:
        """Return the number of trees with the best mean score, and the parts with its scores.

        Of numbers that score alike, the smallest is chosen.
        """
        curves = [self._read(part) for part in parts]
        at_each = zip(*curves, strict=True)
        scores = [math.fsum(point["score"] for point in points) for points in at_each]
        best = _best(scores, maximises=maximises)
        chosen = [
            {**without_curve(part), **points[best]}
            for part, points in zip(parts, curves, strict=True)
        ]
        return self.numbers[best], chosen

    def _read(self, part: Mapping[str, Any]) -> list[dict[str, float]]:
        """Return the scores of a part at each number of trees."""
        listed, _, coded = part[CURVE_KEY].partition(":")
        names = listed.split(" ")
        curves = np.frombuffer(base64.b64decode(coded), dtype="<f8")
        rows = curves.reshape(len(self.numbers), len(names)).tolist()
        return [dict(zip(names, row, strict=True)) for row in rows]


def without_curve(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores of a part without their curves."""
    return {name: value for name, value in part.items() if name != CURVE_KEY}


def predict_staged(
    model: Regressor, X: Floats, numbers: Sequence[int], n_classes: int = 0
) -> Iterator[Floats]:
    """Yield what a fitted model predicts with each of some numbers of its trees, ascending.

    Of a target with classes these are the probabilities of each.
    """
    if (steps := getattr(model, "steps", None)) is not None:
        # What was put before it, as an imputer, sees the rows once.
        X, model = cast(Any, model)[:-1].transform(X), steps[-1][1]
    if not isinstance(model, _Staging):
        numbered = cast(_Numbered, model)
        for number in numbers:
            if n_classes:
                yield class_probabilities(model, X, n_classes, num_iteration=number)
            else:
                yield np.asarray(numbered.predict(X, num_iteration=number), dtype=np.float64)
        return
    if n_classes:
        staged = cast(_StagingClasses, model).staged_predict_proba(X)
        stages = enumerate((spread(model, found, n_classes) for found in staged), start=1)
    else:
        stages = enumerate(model.staged_predict(X), start=1)
    reached, predicted = 0, np.empty(0)
    for number in numbers:
        while reached < number:
            # A model that stopped early has no more trees, whatever it was allowed.
            reached, predicted = next(stages, (number, predicted))
        yield np.asarray(predicted, dtype=np.float64)


def _best(scores: Sequence[float], *, maximises: bool) -> int:
    return int(np.argmax(scores) if maximises else np.argmin(scores))


def staged_of(spec: StudySpec) -> Staged | None:
    """Return the parameter of a study that is read off a curve; None if there is none.

    Raises
    ------
    SpecError
        If it is no number of boosted trees, or the objective has no curve of it.
    """
    for name, dimension in spec.space.items():
        if isinstance(dimension, StagedDimension):
            trees = _trees_of(spec.estimator)
            if name != trees:
                able = [key for key, entry in REGISTRY.items() if entry.trees]
                named = f"its '{trees}' alone" if trees else f"of {', '.join(able)}"
                raise SpecError(
                    f"[space] {name}: a staged dimension is a number of boosted trees, {named}, "
                    "and of no model within another"
                )
            if isinstance(spec.objective, SpearmanSpec):
                raise SpecError(
                    f"[space] {name}: objective spearman ranks the rows of all folds together, "
                    'which no fold\'s curve says; draw it (type = "int"), or use penalised_cv '
                    'with metric = "spearman"'
                )
            return Staged(name, dimension)
    return None


def _trees_of(spec: EstimatorSpec | None) -> str:
    """Return what a plain estimator calls its number of boosted trees; "" if it has none."""
    if spec is None or isinstance(spec, CompositeSpec):
        return ""
    registered = find_entry(spec)
    if registered is None or registered.trees or ":" not in spec.name:
        return registered.trees if registered else ""
    factory = resolve(spec.name, "[estimator] name")
    if not hasattr(factory, "staged_predict"):
        return ""
    names = parameter_names(factory)
    return next((name for name in ("max_iter", "n_estimators") if name in names), "")
