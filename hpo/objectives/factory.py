"""The objective that a study file names."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, TypeAlias, get_args

from features.table import FeaturesError, FeatureTable, describe_failure
from hpo.errors import HpoError, ObjectiveError
from hpo.objectives.cv_objectives import cross_validation
from hpo.objectives.function import FunctionObjective, function_objective
from hpo.objectives.programs.program import Program
from hpo.objectives.protocol import Objective
from hpo.objectives.values import Values
from hpo.plugins import is_module, resolve
from hpo.records import WALL_KEY
from hpo.spec.objectives import CustomObjectiveSpec, Direction, FunctionSpec, ProgramSpec
from hpo.spec.sections import StudySpec

AnyObjective: TypeAlias = Objective | FunctionObjective

_MEMBERS = ("direction", "score_name", "parts", "splits_hash", "score_part", "combine")


def objective_of(spec: StudySpec, table: FeatureTable | None) -> AnyObjective:
    """Return the objective of a study, which has parts or evaluates a trial as a whole.

    Raises
    ------
    ObjectiveError, SpecError
        As `make_objective`.
    """
    if isinstance(spec.objective, FunctionSpec):
        return function_objective(spec.objective)
    if isinstance(spec.objective, ProgramSpec):
        return program_objective(spec.objective, spec)
    made = make_objective(spec, table)
    if spec.objective.directions:
        directions_of(spec, made)
    return made


def make_objective(spec: StudySpec, table: FeatureTable | None) -> Objective:
    """Build the objective with parts of a study over its table.

    Raises
    ------
    ObjectiveError
        If the table does not allow the folds, or a user's own objective is not one.
    SpecError
        If the estimator cannot predict what the objective scores.
    """
    if isinstance(spec.objective, FunctionSpec | ProgramSpec):
        raise ObjectiveError(f"[objective] {spec.objective.name}: a trial of it has no parts")
    if isinstance(spec.objective, CustomObjectiveSpec):
        return _custom_objective(spec.objective, spec, table)
    if table is None or spec.cv is None or spec.estimator is None:
        raise ObjectiveError(f"objective {spec.objective.name} needs a table, [cv] and [estimator]")
    made = cross_validation(spec.objective, spec, table)
    Values.of_spec(spec).check((*made.score_names, WALL_KEY))
    return made


def program_objective(objective: ProgramSpec, spec: StudySpec) -> FunctionObjective:
    """Return a function that runs the program of a study."""
    program = Program(objective, spec.space, spec.seed)
    return FunctionObjective(
        program, objective.name, objective.all_directions, program.score_names, program.code_files
    )


def directions_of(spec: StudySpec, objective: AnyObjective) -> Sequence[Direction]:
    """Return which values of a trial are better, one for each.

    Raises
    ------
    ObjectiveError
        If the study asks for another direction of the score than its objective has.
    """
    if isinstance(objective, FunctionObjective):
        return objective.directions
    assert not isinstance(spec.objective, FunctionSpec | ProgramSpec)
    asked = tuple(spec.objective.directions.values())
    if asked and asked[0] != objective.direction:
        raise ObjectiveError(
            f"[objective] directions: score must be '{objective.direction}', which "
            f"{spec.objective.name} asks for, is '{asked[0]}'"
        )
    return asked or (objective.direction,)


def names_of(spec: StudySpec, objective: AnyObjective) -> list[str]:
    """Return what each value of a trial is."""
    if isinstance(objective, FunctionObjective):
        return [*objective.value_names]
    return [objective.score_name, *Values.of_spec(spec).names[1:]]


def _custom_objective(
    objective: CustomObjectiveSpec, spec: StudySpec, table: FeatureTable | None
) -> Objective:
    what = f"[objective] {objective.name}"
    factory = resolve(objective.name, "[objective] name")
    try:
        inspect.signature(factory).bind(table, seed=spec.seed, **objective.params)
    except (TypeError, ValueError) as exc:
        raise ObjectiveError(
            f"{what}: cannot be called as (table, seed={spec.seed}, **{dict(objective.params)}): "
            f"{exc}; name a class, or a function that makes an objective: one with "
            f"{', '.join(_MEMBERS)}"
        ) from exc
    try:
        made = factory(table, seed=spec.seed, **objective.params)
    except (HpoError, FeaturesError):
        raise
    except (Exception, SystemExit) as exc:  # somebody else's class may raise anything
        raise ObjectiveError(f"{what}: cannot be made: {describe_failure(exc)}") from exc
    wrong = _faults(made)
    if wrong:
        raise ObjectiveError(f"{what}: {'; '.join(wrong)}")
    found: Objective = made
    return found


def _faults(made: object) -> list[str]:
    """Return what keeps something from being an objective.

    What it computes when it is asked, by a property, is not asked for: that may take long.
    """
    missing = [name for name in _MEMBERS if _stored(made, name) is None]
    if missing:
        return [f"lacks {', '.join(missing)}"]
    faults = [
        f"{name} must be a method, is {getattr(made, name)!r}"
        for name in ("score_part", "combine")
        if not callable(getattr(made, name))
    ]
    direction, parts = _stored(made, "direction"), _stored(made, "parts")
    if not _is_computed(direction) and direction not in get_args(Direction):
        faults.append(f"direction must be {' or '.join(get_args(Direction))}, is {direction!r}")
    for name in ("score_name", "splits_hash"):
        value = _stored(made, name)
        if not _is_computed(value) and not isinstance(value, str):
            faults.append(f"{name} must be a text, is {value!r}")
    if not _is_computed(parts) and not _are_parts(parts):
        faults.append(f"parts must be one name or more, no two alike, are {parts!r}")
    modules = _stored(made, "scoring_modules")
    if modules is not None and not _is_computed(modules):
        faults += [f"scoring_modules: there is no {m!r}" for m in modules if not is_module(m)]
    return faults


def _stored(made: object, name: str) -> Any:
    """Return a member without computing it; None if there is none."""
    found = inspect.getattr_static(made, name, None)
    return getattr(made, name, None) if found is None else found


def _is_computed(member: object) -> bool:
    return hasattr(type(member), "__get__")


def _are_parts(parts: object) -> bool:
    if not isinstance(parts, Sequence) or isinstance(parts, str | bytes):
        return False
    return 0 < len(parts) == len(set(map(str, parts))) and all(isinstance(p, str) for p in parts)
