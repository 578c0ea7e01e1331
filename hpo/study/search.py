"""Sampler, pruner and terminator that a study file names: found, made, refused if they cannot work.

A class is one of `optuna.samplers`, `optuna.pruners` or `optuna.terminator`, by its name, or any
other one as `module:Class`; there is no list of ours to keep up.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import optuna
import optuna.terminator
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import BasePruner
from optuna.samplers import (
    BaseSampler,
    BruteForceSampler,
    CmaEsSampler,
    GridSampler,
    PartialFixedSampler,
    QMCSampler,
    RandomSampler,
    nsgaii,
)
from optuna.study import StudyDirection
from optuna.terminator import BaseTerminator, Terminator
from optuna.trial import FrozenTrial, create_trial

from hpo.errors import SpecError, suggest
from hpo.plugins import check_params, missing_params, resolve
from hpo.records import part_key
from hpo.spec.objectives import ProgramSpec
from hpo.spec.search import OptunaSpec, PrunerSpec, SamplerSpec, TerminatorSpec, named_classes
from hpo.spec.sections import StudySpec
from hpo.spec.space import distributions
from hpo.study.trials import TrialsView
from hpo.wording import one_line

Space = Mapping[str, BaseDistribution]

# Where the subclasses of each base class are, and so what an argument of that kind may be.
_BASES: Mapping[str, ModuleType] = {
    "BaseSampler": optuna.samplers,
    "BasePruner": optuna.pruners,
    "BaseCrossover": nsgaii,
    "BaseMutation": nsgaii,
    "BaseTerminator": optuna.terminator,
    "BaseImprovementEvaluator": optuna.terminator,
    "BaseErrorEvaluator": optuna.terminator,
}
_BASE = re.compile(rf"\b({'|'.join(_BASES)})\b")
# Samplers are tried on so many trials at least, and on no more than this.
_N_TRIED, _MAX_TRIED = 20, 200
# How many complete trials a Terminator waits for, if it is not told.
_MIN_TERMINATED = inspect.signature(Terminator).parameters["min_n_trials"].default
# Where Optuna's `report_cross_validation_scores` keeps them.
_CV_SCORES_KEY = "terminator:cv_scores"
# A GridSampler makes a list of all points at once.
_MAX_POINTS = 1_000_000
# Stands in for the space of a function, which is known when it is called; finite, for BruteForce.
_SOME_SPACE: Space = {name: FloatDistribution(0.0, 1.0, step=0.01) for name in ("x", "y")}


def make_named_sampler(spec: SamplerSpec, seed: int, own_seed: int, space: Space) -> BaseSampler:
    """Return the sampler of the class that a study names, for one trial.

    Parameters
    ----------
    seed, own_seed
        The study's, and that of the trial's own stream. A sampler that takes a seed is given the
        latter; where all trials follow one sequence, as on a grid, the study's.
    space
        What is drawn; empty where a function says so as it is called. A GridSampler without values
        of its own has those of the space.

    Raises
    ------
    SpecError
        If there is no such class, or it does not take these arguments.
    """
    made: BaseSampler = _make("BaseSampler", spec, "sampler", _Drawing(seed, own_seed, space))
    return made


def make_optuna_pruner(spec: PrunerSpec) -> BasePruner:
    """Return the pruner that a study names.

    Raises
    ------
    SpecError
        If there is no such class, or it does not take these arguments.
    """
    made: BasePruner = _make("BasePruner", spec, "pruner", _Drawing(0, 0, {}))
    return made


def make_terminator(spec: TerminatorSpec, seed: int) -> BaseTerminator:
    """Return the terminator that a study names.

    Raises
    ------
    SpecError
        If there is no such class, it does not take these arguments, or lacks a package.
    """
    made: BaseTerminator = _make("BaseTerminator", spec, "terminator", _Drawing(seed, seed, {}))
    return made


def should_terminate(
    terminator: BaseTerminator, name: str, trials: Sequence[FrozenTrial], direction: StudyDirection
) -> bool:
    """Ask a terminator about the trials of a study.

    Scores of the parts of a table's trials are what it takes for those of cross-validation.
    """
    with _quietly():
        view = TrialsView(name, [direction], map(_with_cv_scores, trials))
        return terminator.should_terminate(view)


def check_search(spec: StudySpec, trials: int) -> None:
    """Refuse a sampler or a pruner that the study cannot run with, by trying it.

    Parameters
    ----------
    trials
        The budget: a grid must have so many points.

    Raises
    ------
    SpecError
        Naming the section, what is wrong with it, and what can be done.
    """
    n_objectives = max(1, len(spec.objective.directions))
    if not spec.sampler.is_short:
        space = distributions(spec.space)
        _check_space(spec.sampler, "sampler", space, trials)
        _try_sampler(spec, space, n_objectives)
    if spec.pruner is not None:
        with _refusing("pruner", spec.pruner.name), _quietly():
            _try_pruner(make_optuna_pruner(spec.pruner))
    if spec.terminator is not None:
        _check_terminator(spec, spec.terminator, trials, n_objectives)


def check_budget(spec: StudySpec, trials: int) -> None:
    """Refuse a budget that a grid has not enough points for; imports nothing of the user's own."""
    if not spec.sampler.is_short and not named_classes("sampler", spec.sampler):
        _check_space(spec.sampler, "sampler", distributions(spec.space), trials)


# Making ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Drawing:
    """What a class may be given beside what the study file says."""

    seed: int
    own_seed: int
    space: Space

    def arguments(self, cls: type, parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
        """Return what this class is given, if it takes it."""
        shared = issubclass(cls, GridSampler | QMCSampler)
        given: dict[str, Any] = {"seed": self.seed if shared else self.own_seed}
        if issubclass(cls, GridSampler) and self.space:
            given["search_space"] = _grid_of(self.space)
        if issubclass(cls, QMCSampler):
            # Trials that begin before any has ended are drawn by it.
            given["independent_sampler"] = RandomSampler(seed=self.own_seed)
        found = parameters.get("warn_independent_sampling")
        if found is not None and found.default is True:
            # Of every trial anew.
            given["warn_independent_sampling"] = False
        return {name: value for name, value in given.items() if name in parameters}


def _make(base: str, spec: OptunaSpec, where: str, drawing: _Drawing) -> Any:
    """Return an instance of a subclass of `base`, one of `_BASES`."""
    cls = _find(base, spec.name, where)
    parameters = inspect.signature(cls).parameters
    if "seed" in spec.params:
        raise SpecError(f"[{where}] params.seed: seed is the study's: write seed = ... above all")
    if issubclass(cls, PartialFixedSampler):
        fixed = spec.params.get("fixed_params", {})
        drawing = replace(
            drawing, space={name: at for name, at in drawing.space.items() if name not in fixed}
        )
    arguments = drawing.arguments(cls, parameters)
    check_params(cls, spec.params, where)
    for name, value in spec.params.items():
        inner = _base_of(parameters.get(name), value)
        below = f"{where}.params.{name}"
        arguments[name] = (
            _make(inner, _as_section(value, below), below, drawing) if inner else value
        )
    with _refusing(where, spec.name), _quietly():
        if missing := missing_params(cls, arguments):
            raise TypeError(f"needs params.{' and params.'.join(missing)}")
        return cls(**arguments)


def _find(base: str, name: str, where: str) -> type:
    module = _BASES[base]
    parent = getattr(module, base)
    if ":" in name:
        found = resolve(name, f"[{where}] name")
        if not (isinstance(found, type) and issubclass(found, parent)):
            raise SpecError(f"[{where}] name: '{name}' is no subclass of optuna's {base}")
        return found
    there = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, parent) and not inspect.isabstract(value)
    }
    if name not in there:
        valid = [*there, *(("tpe", "random") if where == "sampler" else ()), "module:Class"]
        raise SpecError(f"[{where}] name: unknown '{name}'; {suggest(name, valid)}")
    return there[name]


def _base_of(parameter: inspect.Parameter | None, value: Any) -> str:
    """Return which base class an argument is of, by its annotation; "" if it is a plain value."""
    if parameter is None or not isinstance(value, dict):
        return ""
    annotation = parameter.annotation
    found = _BASE.search(annotation if isinstance(annotation, str) else repr(annotation))
    return found[1] if found else ""


def _as_section(value: Mapping[str, Any], where: str) -> OptunaSpec:
    unknown = value.keys() - OptunaSpec.model_fields.keys()
    if unknown:
        wrong = min(unknown)
        hint = suggest(wrong, OptunaSpec.model_fields)
        raise SpecError(f"[{where}] {wrong}: unknown key; {hint}")
    if not isinstance(value.get("name"), str) or not isinstance(value.get("params", {}), dict):
        raise SpecError(f"[{where}]: must be a section with name and params, got {value}")
    return OptunaSpec(**value)


def _grid_of(space: Space) -> dict[str, list[Any]]:
    """Return the values of every dimension."""
    return {name: _values_of(name, at) for name, at in space.items()}


def _values_of(name: str, distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if isinstance(distribution, IntDistribution):
        values = range(distribution.low, distribution.high + 1, distribution.step)
        _check_size(f"[space.{name}]", len(values))
        return list(values)
    assert isinstance(distribution, FloatDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    if step is None:
        raise SpecError(
            f"[space.{name}]: a grid needs a step, and {low:g} to {high:g} has none; set step, or "
            f"name values for GridSampler: params = {{ search_space = {{ {name} = [...] }} }}"
        )
    n_steps = round((high - low) / step)
    _check_size(f"[space.{name}]", n_steps + 1)
    return [min(round(low + at * step, 12), high) for at in range(n_steps + 1)]


def _check_size(what: str, n_points: int) -> None:
    if n_points > _MAX_POINTS:
        raise SpecError(
            f"{what}: a grid of {n_points} points is larger than {_MAX_POINTS}: raise step"
        )


# Refusing ----------------------------------------------------------------------------------------


def _check_space(spec: OptunaSpec, where: str, space: Space, trials: int) -> None:
    """Refuse what Optuna would find out in the middle of a study, or never say."""
    cls = _find("BaseSampler", spec.name, where)
    if issubclass(cls, PartialFixedSampler):
        fixed, base = spec.params.get("fixed_params"), spec.params.get("base_sampler")
        if not isinstance(fixed, dict) or not isinstance(base, dict):
            raise SpecError(f"[{where}]: {spec.name} needs params.fixed_params and base_sampler")
        _check_values(f"{where}.params.fixed_params", {k: [v] for k, v in fixed.items()}, space)
        below = f"{where}.params.base_sampler"
        left = {name: at for name, at in space.items() if name not in fixed}
        _check_space(_as_section(base, below), below, left, trials)
    elif issubclass(cls, GridSampler):
        grid = spec.params.get("search_space") or _grid_of(space)
        if not grid:
            raise SpecError(f"[{where}]: GridSampler needs params.search_space: values by name")
        if not isinstance(grid, dict) or not all(isinstance(v, list) for v in grid.values()):
            raise SpecError(f"[{where}] params.search_space: must be a list of values by name")
        _check_values(f"{where}.params.search_space", grid, space)
        lacking = [name for name in space if name not in grid]
        if lacking:
            raise SpecError(f"[{where}] params.search_space: lacks {', '.join(lacking)} of [space]")
        n_points = math.prod(map(len, grid.values()))
        _check_size(f"[{where}]", n_points)
        _check_points(where, n_points, trials)
    elif issubclass(cls, BruteForceSampler) and space:
        _check_points(where, math.prod(map(len, _grid_of(space).values())), trials)
    elif issubclass(cls, CmaEsSampler) and space:
        drawn = [
            name
            for name, at in space.items()
            if not isinstance(at, CategoricalDistribution) and not at.single()
        ]
        if len(drawn) < 2:
            raise SpecError(
                f"[{where}]: {spec.name} needs two dimensions of numbers at least, and [space] has "
                f"{f'one, {drawn[0]}' if drawn else 'choices alone'}; use tpe"
            )


def _check_points(where: str, n_points: int, trials: int) -> None:
    if n_points < trials:
        raise SpecError(
            f"[{where}]: the grid has {n_points} points, and trials is {trials}: set trials = "
            f"{n_points} at most"
        )


def _check_values(where: str, values: Mapping[str, list[Any]], space: Space) -> None:
    """Refuse values of dimensions that there are not, or outside of their range."""
    for name, listed in values.items():
        if not space:
            continue
        if name not in space:
            raise SpecError(
                f"[{where}] {name}: no such dimension of [space]; {suggest(name, space)}"
            )
        for value in listed:
            try:
                at = {name: space[name]}
                create_trial(value=0.0, params={name: value}, distributions=at)
            except (ValueError, TypeError) as exc:
                raise SpecError(
                    f"[{where}] {name}: {value!r} is not in [space.{name}], {space[name]}"
                ) from exc


def _try_sampler(spec: StudySpec, space: Space, n_objectives: int) -> None:
    """Draw once after some trials that are made up."""
    made = make_named_sampler(spec.sampler, spec.seed, spec.seed, space)
    if isinstance(made, GridSampler) and not space:
        return
    drawn = space or _SOME_SPACE
    startup = spec.sampler.params.get("n_startup_trials", _N_TRIED)
    n_trials = min(max(startup, 1), _MAX_TRIED) if isinstance(startup, int) else _N_TRIED
    with _refusing("sampler", spec.sampler.name), _quietly():
        directions = [StudyDirection.MINIMIZE] * n_objectives
        study = optuna.create_study(directions=directions, sampler=RandomSampler(seed=0))
        for value in range(n_trials):
            study.tell(study.ask(dict(drawn)), [float(value)] * n_objectives)
        study.sampler = made
        study.ask(dict(drawn))


def _try_pruner(pruner: BasePruner) -> None:
    study = optuna.create_study(sampler=RandomSampler(seed=0), pruner=pruner)
    for _ in range(_N_TRIED):
        trial = study.ask()
        for step in (1, 2, 3):
            trial.report(float(step), step)
            trial.should_prune()
        study.tell(trial, 1.0)


def _check_terminator(
    spec: StudySpec, terminator: TerminatorSpec, trials: int, n_objectives: int
) -> None:
    """Refuse a terminator that never stops this study, or fails when it is asked."""
    if n_objectives > 1:
        raise SpecError(f"[terminator]: is for one objective, and the study has {n_objectives}")
    made = make_terminator(terminator, spec.seed)
    n_first = terminator.params.get("min_n_trials", _MIN_TERMINATED)
    if isinstance(made, Terminator) and n_first > trials:
        raise SpecError(
            f"[terminator]: it says nothing before {n_first} trials are complete, and trials is "
            f"{trials}: set params.min_n_trials"
        )
    n_trials = min(n_first, _MAX_TRIED) if isinstance(made, Terminator) else _N_TRIED
    with _quietly():
        study = optuna.create_study(sampler=RandomSampler(seed=0))
    for at in range(n_trials):
        trial = study.ask(dict(distributions(spec.space) or _SOME_SPACE))
        # A program has no way to tell scores of a cross-validation, a function may have.
        if not isinstance(spec.objective, ProgramSpec):
            trial.set_user_attr(part_key(0), {"score": 1.0 + at})
            trial.set_user_attr(part_key(1), {"score": 2.0 + at})
        study.tell(trial, float(at))
    with _refusing("terminator", terminator.name):
        should_terminate(made, "tried", study.trials, study.direction)


def _with_cv_scores(trial: FrozenTrial) -> FrozenTrial:
    """Return a trial with its parts' scores where `report_cross_validation_scores` keeps such."""
    scores: list[float | None] = []
    while part_key(len(scores)) in trial.user_attrs:
        scores.append(trial.user_attrs[part_key(len(scores))].get("score"))
    if len(scores) < 2 or None in scores or _CV_SCORES_KEY in trial.system_attrs:
        return trial
    told = copy.copy(trial)
    told.system_attrs = {**trial.system_attrs, _CV_SCORES_KEY: scores}
    return told


@contextlib.contextmanager
def _refusing(where: str, name: str) -> Iterator[None]:
    """Say which section an error is about, and what is to be installed where a package lacks."""
    try:
        yield
    except SpecError:
        raise
    except ImportError as exc:
        raise SpecError(f"[{where}]: {describe_missing(name, exc)}") from exc
    except Exception as exc:  # a user's class may raise anything
        raise SpecError(one_line(f"[{where}]: {name}: {exc or type(exc).__name__}")) from exc


def describe_missing(name: str, exc: ImportError) -> str:
    """Return which package a class needs, and how it is installed."""
    package = (exc.name or str(exc)).partition(".")[0]
    extra = " (hpo's extra 'gp')" if package == "torch" else ""
    return f"{name} needs the package '{package}', which is missing: pip install {package}{extra}"


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Let Optuna say nothing of what is experimental or deprecated, or of made-up trials."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)
