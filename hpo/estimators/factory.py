"""From the `[estimator]` of a study file to regressors: bound to a table, then made per trial."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from features.table import Column
from hpo.errors import ObjectiveError, SpecError, suggest
from hpo.estimators.construction import (
    NO_NAMES,
    PASSTHROUGH,
    TableNames,
    describe_put_before,
    describe_stopping,
    for_targets,
    make_model,
    of_one_target,
)
from hpo.estimators.protocol import Floats, Regressor
from hpo.estimators.registry import (
    REGISTRY,
    bounds_argument,
    extra_packages,
    find,
    find_entry,
    near,
    ranks_only,
    weight_argument,
)
from hpo.estimators.searched_families import SearchedFamilies, searched_families, seeing
from hpo.estimators.staged_trees import Staged, staged_of
from hpo.spec.estimators import (
    BoundEnsembleSpec,
    BoundGatedSpec,
    CompositeSpec,
    EnsembleSpec,
    EstimatorSpec,
    GatedSpec,
    ModelSpec,
)
from hpo.spec.objectives import ObjectiveSpec, PenalisedCvSpec, QuantileSpec, SpearmanSpec
from hpo.spec.sections import StudySpec
from hpo.spec.space import as_choice


@dataclass(frozen=True)
class BoundEstimator:
    """The estimator of a study over the columns of its table.

    Attributes
    ----------
    spec
        The study file's `[estimator]` as its objective needs it: a composite one with the
        positions of its columns, one of objective `quantile` with the parameters of that quantile.
    seed
        The `random_state` of what it makes.
    staged
        The parameter that is read off a curve; None if there is none.
    classifies
        Whether the target has classes.
    families
        The parameter that says which feature families are seen; None if there is none.
    n_targets
        Number of targets; an estimator of one target alone is made for each.
    names
        What may be named of the table.
    """

    spec: EstimatorSpec
    seed: int = 42
    staged: Staged | None = None
    classifies: bool = False
    families: SearchedFamilies | None = None
    n_targets: int = 1
    names: TableNames = NO_NAMES

    @property
    def ranks_only(self) -> bool:
        """Whether it predicts scores without a unit, which only rank rows."""
        return ranks_only(self.spec)

    @functools.cached_property
    def weight_argument(self) -> str:
        """What the weights of rows are called in its `fit`; "" if it takes none."""
        return weight_argument(of_one_target(self.make({})))

    @functools.cached_property
    def take_bounds(self) -> dict[str, bool]:
        """Whether its `fit` takes bounds of the target, or that of each of its parts, by name."""
        made = {
            model.name: make_model(model, {}, self.seed, "[estimator]", self.names)
            for model in self.spec.parts.values()
        }
        return {name: bool(bounds_argument(model)) for name, model in made.items()}

    def make(self, params: Mapping[str, Any]) -> Regressor:
        """Return a fresh regressor with the fixed parameters and these.

        Raises
        ------
        SpecError
            If the estimator's name or a parameter is unknown.
        """
        return for_targets(self._make(params), self.n_targets)

    def _make(self, params: Mapping[str, Any]) -> Regressor:
        seen = self.families
        if seen is None or seen.name not in params:
            return make_estimator(self.spec, params, self.seed, self.names)
        columns = seen.columns[as_choice(params[seen.name])]
        others = {name: value for name, value in params.items() if name != seen.name}
        if isinstance(self.spec, CompositeSpec):
            return make_estimator(_seeing(self.spec, columns), others, self.seed, self.names)
        names = replace(self.names, columns=())
        return seeing(make_estimator(self.spec, others, self.seed, names), columns)

    @property
    def put_before(self) -> list[str]:
        """What is put before its models by itself or as asked for, in a sentence for each."""
        found = [
            describe_put_before(model, f"[estimator{f'.{part}' if part else ''}]", self.names)
            for part, model in self.spec.parts.items()
        ]
        return [*dict.fromkeys(filter(None, found))]

    @property
    def put_around(self) -> list[str]:
        """What is put around it because it takes one target alone, in a sentence; or nothing."""
        if self.n_targets == 1:
            return []
        made = self._make({})
        if for_targets(made, self.n_targets) is made:
            return []
        return [
            f"MultiOutputRegressor is put around {self.spec.name}, which takes one target: it fits "
            f"one for each of the {self.n_targets}"
        ]

    def notes(self, n_rows: int) -> list[str]:
        """Return what is put around it, and what stops early on so many rows, in sentences."""
        stopping = [
            line
            for part, model in self.spec.parts.items()
            for line in describe_stopping(
                model, f"[estimator{f'.{part}' if part else ''}]", self.names, n_rows
            )
        ]
        return [*self.put_around, *dict.fromkeys(stopping)]

    @property
    def packages(self) -> tuple[str, ...]:
        """Packages that its predictions depend on, beside those that are always installed."""
        return extra_packages(self.spec)

    def load(self) -> None:
        """Load the packages of its models, which the first fit would load otherwise."""
        for model in self.spec.parts.values():
            for name in [one.name for one in model.steps] or [model.name]:
                if name != PASSTHROUGH:
                    find(name, "[estimator] name")

    def check_rows(self, X: Floats) -> None:
        """Refuse training rows, of shape (n_rows, n_columns), none of which passes the gate.

        Raises
        ------
        SpecError
            If the second model would have nothing to learn from.
        """
        if not isinstance(self.spec, BoundGatedSpec):
            return
        if not (X[:, self.spec.gate_columns] == 1.0).all(axis=1).any():
            raise SpecError(
                f"[estimator] gate: {' and '.join(self.spec.gate)} must be 1, which holds for none "
                f"of the {len(X)} training rows: the second model would have nothing to learn from"
            )


def prepare(
    spec: StudySpec,
    columns: Sequence[Column],
    *,
    classifies: bool = False,
    n_targets: int = 1,
    labels: Sequence[str] = (),
) -> BoundEstimator:
    """Return the estimator of a study over the columns of its table, in the table's order.

    `classifies` says whether the target has classes; then short names stand for classifiers.
    `n_targets` is the number of targets, `labels` the classes' where they are known.

    Raises
    ------
    SpecError
        If a column or a family that it names is not in the table, if it cannot predict what the
        objective scores, or if a parameter that the objective sets is set otherwise or searched.
    """
    if classifies:
        spec = _classifying(spec)
    if n_targets > 1 and isinstance(spec.objective, QuantileSpec):
        raise SpecError(
            f'[objective] name = "quantile" takes one target, and there are {n_targets}; make a '
            "study for each"
        )
    staged, families = staged_of(spec), searched_families(spec.space, columns)
    if staged is not None and families is not None:
        raise SpecError(
            f"[space] {staged.name}: a staged dimension is of an estimator that sees all columns; "
            f'draw it (type = "int"), or leave {families.name} out'
        )
    if staged is not None and n_targets > 1:
        raise SpecError(
            f"[space] {staged.name}: a staged dimension is of one target, and there are "
            f'{n_targets}; draw it (type = "int")'
        )
    bound = _bind(_adapt(spec), columns)
    names = TableNames(tuple(column.name for column in columns), tuple(labels))
    return BoundEstimator(bound, spec.seed, staged, classifies, families, n_targets, names)


def make_estimator(
    spec: EstimatorSpec, params: Mapping[str, Any], seed: int, names: TableNames = NO_NAMES
) -> Regressor:
    """Return a fresh regressor with the fixed and the given parameters.

    Parameters
    ----------
    spec
        The study file's `[estimator]`; a composite one as `prepare` returns it.
    params
        Parameters of a trial, or a subset; `part.parameter` for a part of a composite.
    seed
        Its `random_state`, where it has one and the study file does not set it.
    names
        What may be named of the table.

    Raises
    ------
    SpecError
        If the estimator's name or a parameter is unknown.
    ObjectiveError
        If a composite estimator does not know the columns of its table.
    """
    if not isinstance(spec, CompositeSpec):
        return make_model(spec, params, seed, "[estimator]", names)
    if not isinstance(spec, BoundGatedSpec | BoundEnsembleSpec):
        raise ObjectiveError(f"[estimator] {spec.name}: needs the columns of a table (prepare)")
    by_part = _by_part(spec, params)
    made = {
        part: make_model(
            model,
            by_part[part],
            seed,
            f"[estimator.{spec.section(part)}]",
            replace(names, columns=()),  # a part need not see all
        )
        for part, model in spec.parts.items()
    }
    # With scikit-learn's divisions, half a second that a plain estimator does not need.
    from hpo.estimators.composite import EnsembleRegressor, GatedRegressor

    if isinstance(spec, BoundEnsembleSpec):
        combiner = made.pop("combiner", None)
        return EnsembleRegressor(
            made,
            columns=spec.member_columns,
            combiner=combiner,
            passthrough=spec.combiner is not None and spec.combiner.passthrough,
            inner_folds=spec.inner_folds,
        )
    return GatedRegressor(
        **made,
        base_columns=spec.base_columns,
        second_columns=spec.second_columns,
        gate_columns=spec.gate_columns,
        combiner_columns=spec.combiner_columns,
        rows=spec.second.rows,
        predicts=spec.second.predicts,
        base_predictions=spec.base_predictions,
        inner_folds=spec.inner_folds,
    )


def _bind(spec: EstimatorSpec, columns: Sequence[Column]) -> EstimatorSpec:
    """Return an estimator's spec with the columns that it names as positions in a table.

    One that names no columns is returned as it is.
    """
    if isinstance(spec, EnsembleSpec):
        seen = {
            name: _seen(member, columns, f"[estimator.members.{name}] without")
            for name, member in spec.members.items()
        }
        return BoundEnsembleSpec(**dict(spec), member_columns=seen)
    if not isinstance(spec, GatedSpec):
        return spec
    combiner = spec.combiner.columns if spec.combiner else ()
    return BoundGatedSpec(
        **dict(spec),
        base_columns=_seen(spec.base, columns, "[estimator.base] without"),
        second_columns=_seen(spec.second, columns, "[estimator.second] without"),
        gate_columns=_find(spec.gate, columns, "[estimator] gate"),
        combiner_columns=_find(combiner, columns, "[estimator.combiner] columns"),
    )


def _find(names: Sequence[str], columns: Sequence[Column], what: str) -> tuple[int, ...]:
    position = {column.name: i for i, column in enumerate(columns)}
    for name in names:
        if name not in position:
            raise SpecError(f"{what}: the table has no column '{name}'; {near(name, position)}")
    return tuple(position[name] for name in names)


def _seen(model: ModelSpec, columns: Sequence[Column], what: str) -> tuple[int, ...]:
    families = {column.family for column in columns}
    for family in model.without:
        if family not in families:
            raise SpecError(f"{what}: the table has no family '{family}'; {near(family, families)}")
    seen = tuple(i for i, column in enumerate(columns) if column.family not in model.without)
    if not seen:
        raise SpecError(f"{what}: leaves the model no feature of {', '.join(sorted(families))}")
    return seen


def _seeing(spec: CompositeSpec, columns: Sequence[int]) -> CompositeSpec:
    """Return a composite whose models see none but these columns; its gate sees what it did."""
    kept = frozenset(columns)

    def cut(what: str, seen: Sequence[int]) -> tuple[int, ...]:
        left = tuple(column for column in seen if column in kept)
        if not left:
            raise SpecError(
                f"[space] a choice of families leaves {what} no feature; name one that it sees"
            )
        return left

    if isinstance(spec, BoundEnsembleSpec):
        members = {name: cut(f"member {name}", seen) for name, seen in spec.member_columns.items()}
        return spec.model_copy(update={"member_columns": members})
    assert isinstance(spec, BoundGatedSpec)
    update = {
        "base_columns": cut("base", spec.base_columns),
        "second_columns": cut("second", spec.second_columns),
    }
    return spec.model_copy(update=update)


def _by_part(spec: CompositeSpec, params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    by_part: dict[str, dict[str, Any]] = {part: {} for part in spec.parts}
    for name, value in params.items():
        part, dot, key = name.partition(".")
        if not dot:
            named = ", ".join(f"{part}.{name}" for part in by_part)
            raise SpecError(
                f"[estimator] {spec.name}: '{name}' belongs to one of its models; name which "
                f"({named})"
            )
        if part not in by_part:
            raise SpecError(
                f"[estimator] {spec.name} has no model '{part}' to set '{name}' of; "
                f"{suggest(part, by_part)}"
            )
        by_part[part][key] = value
    return by_part


def _classifying(spec: StudySpec) -> StudySpec:
    """Return a study over a target with classes, its estimator by the name of a classifier.

    Raises
    ------
    SpecError
        If its objective or its estimator is for numbers alone.
    """
    objective, estimator = spec.objective, spec.estimator
    if isinstance(objective, QuantileSpec | SpearmanSpec):
        raise SpecError(
            f'[objective] name = "{objective.name}" is for numbers, and the target has classes; '
            "use penalised_cv with scoring"
        )
    if isinstance(objective, PenalisedCvSpec) and objective.scoring is None:
        raise SpecError(
            f'[objective] metric = "{objective.metric}" is for numbers, and the target has '
            'classes; write scoring, such as "neg_log_loss" or "roc_auc"'
        )
    registered = REGISTRY.get(estimator.name) if estimator else None
    short = registered is not None and not registered.factory.endswith("Classifier")
    if estimator is None or not (short or isinstance(estimator, CompositeSpec)):
        return spec
    if registered is None or not registered.classifier:
        able = [name for name, entry in REGISTRY.items() if entry.classifier and name[0].islower()]
        raise SpecError(
            f"[estimator] {estimator.name}: predicts numbers, and the target has classes; for "
            f"these there are {', '.join(able)}, any classifier of scikit-learn's by its class, or "
            "module:attribute"
        )
    scale = registered.scaled if estimator.scale is None else estimator.scale
    named = estimator.model_copy(update={"name": registered.classifier, "scale": scale})
    return spec.model_copy(update={"estimator": named})


def _adapt(spec: StudySpec) -> EstimatorSpec:
    """Return the estimator of a study as its objective needs it.

    For objective `quantile` it has the parameters that make it predict that quantile.
    """
    estimator, objective = spec.estimator, spec.objective
    if estimator is None:
        raise SpecError(f"objective {objective.name} needs [estimator]")
    if ranks_only(estimator):
        by_rank = isinstance(objective, SpearmanSpec) or (
            isinstance(objective, PenalisedCvSpec) and objective.metric == "spearman"
        )
        if not by_rank:
            raise SpecError(
                f"[estimator] {estimator.name} predicts scores that have no unit and only rank "
                'rows: it takes [objective] name = "spearman", or penalised_cv with metric = '
                f'"spearman", got {_name_objective(objective)}'
            )
    for part, model in estimator.parts.items():
        if part and ranks_only(model):
            raise SpecError(
                f"[estimator] {part}: {model.name} predicts scores that have no unit, which cannot "
                "be combined with predictions of the target"
            )
    if not isinstance(objective, QuantileSpec):
        return estimator
    if isinstance(estimator, EnsembleSpec) and estimator.combiner is not None:
        # What the members predict is for the combiner, whose prediction counts.
        combiner = _predicting_quantile(estimator.combiner, objective.level, spec, "combiner.")
        return estimator.model_copy(update={"combiner": combiner})
    if isinstance(estimator, EnsembleSpec):
        members = {
            name: _predicting_quantile(member, objective.level, spec, f"{name}.")
            for name, member in estimator.members.items()
        }
        return estimator.model_copy(update={"members": members})
    return _predicting_quantile(estimator, objective.level, spec)


def _predicting_quantile(
    model: EstimatorSpec, level: float, spec: StudySpec, prefix: str = ""
) -> EstimatorSpec:
    """Return a model with the parameters that make it predict a quantile."""
    registered = find_entry(model)
    if registered is None or registered.quantile is None:
        able = [name for name, entry in REGISTRY.items() if entry.quantile is not None]
        raise SpecError(
            f"[estimator] name: '{model.name}' predicts no quantiles; objective quantile takes "
            f"{' or '.join(able)}, alone or in an ensemble"
        )
    needed = registered.quantile(level)
    for name, value in needed.items():
        if f"{prefix}{name}" in spec.space or model.params.get(name, value) != value:
            raise SpecError(
                f"[estimator] {model.name}: '{prefix}{name}' is set to {value!r} by objective "
                "quantile and cannot be changed or searched"
            )
    return model.model_copy(update={"params": {**model.params, **needed}})


def _name_objective(objective: ObjectiveSpec) -> str:
    metric = getattr(objective, "metric", None)
    return f'{objective.name} with metric = "{metric}"' if metric else objective.name
