"""The objective that a study file names."""

from __future__ import annotations

from features.table import FeatureTable
from hpo.errors import ObjectiveError
from hpo.objectives.cross_validation import cross_validation
from hpo.objectives.protocol import Objective
from hpo.plugins import resolve
from hpo.spec.sections import CustomObjectiveSpec, StudySpec


def make_objective(spec: StudySpec, table: FeatureTable | None) -> Objective:
    """Build the objective of a study over its table.

    Raises
    ------
    ObjectiveError
        If the table does not allow the folds, or a user's own objective is not one.
    SpecError
        If the estimator cannot predict what the objective scores.
    """
    if isinstance(spec.objective, CustomObjectiveSpec):
        return _custom_objective(spec.objective, spec, table)
    if table is None or spec.cv is None or spec.estimator is None:
        raise ObjectiveError(f"objective {spec.objective.name} needs a table, [cv] and [estimator]")
    return cross_validation(spec.objective, spec, table)


def _custom_objective(
    objective: CustomObjectiveSpec, spec: StudySpec, table: FeatureTable | None
) -> Objective:
    factory = resolve(objective.name, "[objective] name")
    try:
        made = factory(table, seed=spec.seed, **objective.params)
    except TypeError as exc:
        raise ObjectiveError(
            f"[objective] {objective.name}: cannot be called as "
            f"(table, seed={spec.seed}, **{dict(objective.params)}): {exc}"
        ) from exc
    if not isinstance(made, Objective):
        missing = [
            name
            for name in ("direction", "score_name", "parts", "splits_hash", "score_part", "combine")
            if not hasattr(made, name)
        ]
        raise ObjectiveError(f"[objective] {objective.name}: lacks {', '.join(missing)}")
    return made
