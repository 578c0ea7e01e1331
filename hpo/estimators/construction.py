"""From a section of a study file and the parameters of a trial to one estimator of scikit-learn's.

A section names a class and its parameters; among these may be estimators, transformers and kernels
in sections of their own, and the texts and lists that stand for what TOML has not. Parameters of
what is within, or of the steps of a pipeline, have scikit-learn's names: `step__parameter`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpo.errors import SpecError, suggest
from hpo.estimators.protocol import Regressor
from hpo.estimators.registry import (
    AUTO_ROWS,
    EARLY_STOPPING,
    Registered,
    check_names,
    find,
    find_entry,
    is_function,
    near,
    parameter_names,
    stops_by_rows,
)
from hpo.plugins import resolve
from hpo.spec.estimators import COMPOSITES, EstimatorSpec, StepSpec

# The keys of a section that describes an estimator within another one.
_SECTION = frozenset({"name", "params"})
PASSTHROUGH = "passthrough"


@dataclass(frozen=True)
class TableNames:
    """What a study file may name of a table, in place of positions.

    Attributes
    ----------
    columns
        Names of all columns that an estimator sees, in their order; none where that is not known,
        or where it does not see all.
    labels
        Labels of the target's classes, in their order; none where they are not known.
    """

    columns: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


NO_NAMES = TableNames()


def make_model(
    spec: EstimatorSpec,
    params: Mapping[str, Any],
    seed: int,
    section: str,
    names: TableNames = NO_NAMES,
) -> Regressor:
    """Return a fresh estimator with the fixed and the given parameters.

    Parameters
    ----------
    spec
        One that is not made of others by sections of ours.
    params
        Parameters of a trial, or a subset, as Optuna stores them.
    seed
        `random_state` of it and of all within it, where the study file does not say it.
    section
        What errors call the section, as "[estimator]".
    names
        Of the table that it is of.

    Raises
    ------
    SpecError
        If the name of it, of something within it, or of a parameter is unknown.
    """
    maker = _Maker(seed, section, names)
    decoded = {name: _decode(value) for name, value in params.items()}
    model: Regressor = maker.pipeline(spec, decoded) if spec.steps else maker.model(spec, decoded)
    before = _put_before(spec, model, scale=maker.needs_scale)
    if not before:
        return model
    from sklearn.pipeline import make_pipeline

    made: Regressor = make_pipeline(*before, model)
    return made


def describe_put_before(spec: EstimatorSpec, section: str, names: TableNames) -> str:
    """Return in a sentence what is put before an estimator with its fixed parameters; or ""."""
    maker = _Maker(0, section, names)
    model = maker.pipeline(spec, {}) if spec.steps else maker.model(spec, {})
    before = _put_before(spec, model, scale=maker.needs_scale)
    if not before:
        return ""
    named = " and ".join(type(one).__name__ for one in before)
    verb = "are" if len(before) > 1 else "is"
    return f"{named} {verb} put before {spec.name}"


def describe_stopping(
    spec: EstimatorSpec, section: str, names: TableNames, n_rows: int
) -> list[str]:
    """Return in sentences which estimators stop early on so many rows, or would by default."""
    made: Any = make_model(spec, {}, 0, section, names)
    params = made.get_params(deep=True) if hasattr(made, "get_params") else {}
    said = []
    for key, value in params.items():
        owner, _, name = key.rpartition("__")
        model = params[owner] if owner else made
        if name != EARLY_STOPPING or not type(model).__module__.startswith("sklearn."):
            continue
        named = f"{type(model).__name__} has {EARLY_STOPPING} = {json.dumps(value)}"
        if value is False and stops_by_rows(model.__class__) and n_rows > AUTO_ROWS:
            said.append(
                f'{named}: scikit-learn\'s "auto" would hold out rows here, whatever their groups; '
                "[estimator] says it otherwise"
            )
        elif value is True or (value == "auto" and n_rows > AUTO_ROWS):
            said.append(f"{named}: it holds out rows of its own, whatever their groups")
    return said


def for_targets(model: Regressor, n_targets: int) -> Regressor:
    """Return an estimator of several targets: one for each if it takes one alone."""
    if n_targets == 1 or not _takes_one(model):
        return model
    from sklearn.multioutput import MultiOutputRegressor

    made: Regressor = MultiOutputRegressor(model)
    return made


def of_one_target(model: Any) -> Any:
    """Return what is fitted to each target; the estimator itself if it takes all together."""
    return model.estimator if type(model).__name__ == "MultiOutputRegressor" else model


def _takes_one(model: Any) -> bool:
    from sklearn.utils import get_tags

    try:
        return not get_tags(model).target_tags.multi_output
    except AttributeError:  # one of the user's own: if it can be copied, for each
        return hasattr(model, "get_params")


def _put_before(spec: EstimatorSpec, model: Any, *, scale: bool) -> list[Any]:
    """Return the transformers that an estimator needs, or that are asked for, fresh."""
    entry = find_entry(spec)
    own = entry is None or entry.own
    impute = spec.impute if spec.impute is not None else not own and _refuses_gaps(model)
    scaled = spec.scale if spec.scale is not None else not own and scale
    if not impute and not scaled:
        return []
    # For some estimators alone, and not before a worker makes one.
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import StandardScaler

    # A column that is empty in one fold must not change the number of columns.
    imputer = [SimpleImputer(missing_values=np.nan, keep_empty_features=True)] if impute else []
    return [*imputer, *([StandardScaler()] if scaled else [])]


def _refuses_gaps(model: Any) -> bool:
    from sklearn.utils import get_tags

    try:
        return not get_tags(model).input_tags.allow_nan
    except AttributeError:  # what boosts trees need not be scikit-learn's
        return False


def _decode(value: Any) -> Any:
    """Return what a choice stands for: a list or a section that is stored as text of JSON."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


@dataclass
class _Maker:
    """Makes an estimator and all within it.

    Attributes
    ----------
    seed, section, names
        As of `make_model`.
    needs_scale
        Whether something that was made needs columns of equal scale, and is given them as they are.
    """

    seed: int
    section: str
    names: TableNames = NO_NAMES
    needs_scale: bool = False

    def model(self, spec: EstimatorSpec, params: Mapping[str, Any]) -> Any:
        """Return the estimator of a section without steps."""
        return self._make(spec.name, {**spec.params, **params}, f"{self.section} name")

    def pipeline(self, spec: EstimatorSpec, params: Mapping[str, Any]) -> Any:
        """Return the steps of a section as a pipeline of scikit-learn's."""
        from sklearn.pipeline import Pipeline

        keys = [one.key for one in spec.steps]
        deep: dict[str, dict[str, Any]] = {key: {} for key in keys}
        for name, value in params.items():
            key, dunder, inner = name.partition("__")
            if key not in deep:
                named = [f"{key}__parameter" for key in keys] if dunder else keys
                raise SpecError(
                    f"{self.section}: '{name}' is no parameter of a step; {suggest(key, named)}"
                )
            if dunder:
                deep[key][inner] = value
        steps = [(one.key, self._step(one, params, deep[one.key])) for one in spec.steps]
        return Pipeline(steps)

    def _step(self, step: StepSpec, params: Mapping[str, Any], deep: Mapping[str, Any]) -> Any:
        """Return a step, or what a trial has in its place, with its own parameters."""
        chosen = params.get(step.key, {"name": step.name, "params": step.params})
        if isinstance(chosen, str):
            chosen = {"name": chosen}
        if not _is_section(chosen):
            raise SpecError(
                f"{self.section}: step '{step.key}' must be the name of a class, a section with "
                f"name and params, or '{PASSTHROUGH}', got {chosen!r}"
            )
        if chosen["name"] == PASSTHROUGH:
            # What is searched of a step that is left out has no effect.
            return PASSTHROUGH
        return self._make(
            chosen["name"],
            {**chosen.get("params", {}), **deep},
            f"{self.section} step '{step.key}'",
        )

    def _make(self, name: str, params: Mapping[str, Any], what: str) -> Any:
        """Return an instance of a class, by its name, with what is within it."""
        entry, factory = find(name, what, COMPOSITES if what == "[estimator] name" else ())
        self.needs_scale = self.needs_scale or entry.needs_scale
        valid, fixed = self._parameters(entry, factory)
        shallow = {k: v for k, v in params.items() if k in valid or "__" not in k}
        deep = {k: v for k, v in params.items() if k not in shallow}
        shown = f"{self.section} {name}"
        check_names(shallow, valid, fixed, shown)
        shallow = {k: self._by_name(k, v, f"{what}: {k}") for k, v in shallow.items()}
        given = {k: self._value(v, f"{what}: {k}", _of(factory, k)) for k, v in shallow.items()}
        if "random_state" in valid and not {"random_state", "random_seed"} & given.keys():
            fixed["random_state"] = self.seed
        if not entry.own and stops_by_rows(factory):
            # What it holds out by itself would ignore groups, and only above 10,000 rows.
            fixed[EARLY_STOPPING] = False
        if fixed.get("n_jobs") == 1 and "n_jobs" not in entry.fixed:
            # None is one, too, and the only value that some do not warn of.
            fixed.pop("n_jobs")
        made = factory(**{**fixed, **given})
        if deep:
            self._set_deep(made, deep, shown)
        return made

    def _parameters(self, entry: Registered, factory: Any) -> tuple[frozenset[str], dict[str, Any]]:
        """Return the parameters that a class takes, and those that every worker sets."""
        valid, fixed = parameter_names(factory) | entry.extra, dict(entry.fixed)
        if not entry.own and "n_jobs" in valid:
            fixed["n_jobs"] = 1
        return valid, fixed

    def _set_deep(self, made: Any, deep: Mapping[str, Any], shown: str) -> None:
        known = made.get_params(deep=True) if hasattr(made, "get_params") else {}
        for name, value in deep.items():
            if name not in known:
                near = [key for key in known if "__" in key]
                raise SpecError(f"{shown} has no parameter '{name}'; {suggest(name, near)}")
            what = f"{shown}: {name}"
            named = self._by_name(name.rpartition("__")[2], value, what)
            made.set_params(**{name: self._value(named, what)})

    def _by_name(self, key: str, value: Any, what: str) -> Any:
        """Return a parameter whose value is of classes by label, or of columns by name."""
        if key == "class_weight" and isinstance(value, Mapping) and self.names.labels:
            labels = self.names.labels
            for label in value:
                if label not in labels:
                    raise SpecError(f"{what}: '{label}' is no class; {suggest(label, labels)}")
            return {labels.index(label): weight for label, weight in value.items()}
        if key == "transformers" and isinstance(value, list | tuple):
            return [self._transformer(one, what) for one in value]
        return value

    def _transformer(self, value: Any, what: str) -> Any:
        """Return what a ColumnTransformer has of some columns, these by their positions."""
        columns = value[2] if isinstance(value, list | tuple) and len(value) == 3 else None
        named = [columns] if isinstance(columns, str) else columns
        if not isinstance(named, list) or not all(isinstance(one, str) for one in named):
            return value
        known = self.names.columns
        for one in named:
            if known and one not in known:
                raise SpecError(f"{what}: the table has no column '{one}'; {near(one, known)}")
        if not known:
            return value
        return [value[0], value[1], [known.index(one) for one in named]]

    def _value(self, value: Any, what: str, as_kind: Callable[[Any], Any] | None = None) -> Any:
        """Return a parameter's value with what stands for something else put right."""
        if value == "None" and isinstance(value, str):
            return None
        if isinstance(value, str) and is_function(value):
            return resolve(value, what)
        if _is_section(value):
            return self._make(value["name"], value.get("params", {}), what)
        if isinstance(value, Mapping) and value and all(map(_is_section, value.values())):
            # What scikit-learn wants as pairs, as of a StackingRegressor.
            return [(key, self._value(inner, what)) for key, inner in value.items()]
        if isinstance(value, Mapping):
            return {key: self._value(inner, what) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            found = [self._value(inner, what) for inner in value]
            return as_kind(found) if as_kind else found
        return value


def _is_section(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("name"), str)
        and value.keys() <= _SECTION
        and isinstance(value.get("params", {}), Mapping)
    )


def _of(factory: Any, name: str) -> Callable[[Any], Any] | None:
    """Return `tuple` where a class of scikit-learn's takes no list for a parameter; else None."""
    allowed = getattr(factory, "_parameter_constraints", {}).get(name, ())
    if not isinstance(allowed, list) or tuple not in allowed:
        return None
    return None if list in allowed or "array-like" in allowed else tuple
