"""Study files: one TOML file says what is optimised, over what, and how it is scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    JsonValue,
    field_validator,
    model_validator,
)

from features.table import OwnSpec, TableSpec
from hpo.spec.base import Section
from hpo.spec.cv import AnyCv, SplitterCv
from hpo.spec.estimators import AnyEstimatorSpec, CompositeSpec, named_estimators
from hpo.spec.limits import LimitsSpec, ResourcesSpec
from hpo.spec.objectives import (
    NAMED,
    CustomObjectiveSpec,
    FunctionSpec,
    ObjectiveSpec,
    PenalisedCvSpec,
    ProgramSpec,
)
from hpo.spec.search import (
    AnyPruningSpec,
    PrunerSpec,
    PruningSpec,
    SamplerSpec,
    TerminatorSpec,
    WarmStartSpec,
    named_classes,
)
from hpo.spec.space import CategoricalDimension, Dimension, StagedDimension


class FitSpec(Section):
    """How models are fitted, beside their parameters.

    In every fit a row has the weight size^-`group_weight`, `size` being the number of training
    rows of its group: at 0 all rows weigh alike, at 1 all groups do.
    """

    group_weight: float = Field(gt=0, le=1)


KeepTrialDirs = Literal["all", "best", "none"]


class StudySpec(Section):
    """One study file.

    `trials` is the budget: that many trials finish or are pruned, whatever dies on the way. `seed`
    feeds the sampler and, where the estimator takes one, its `random_state`.
    `allow_target_derived` names the columns made from the target that the study uses knowingly;
    any other one is refused. Scores of parts are stored with the result of their trial, and before
    that whenever a death would cost `checkpoint_s` seconds of work or more; 0 stores each at once.
    A trial that its objective refuses is worked on again up to `max_retry` times, with the same
    number and parameters, before it counts as failed; more than `max_failures` of those stop the
    study. `callbacks` are called after each trial, with the study and the trial. Of the trials' own
    folders, those of `keep_trial_dirs` stay when their trials have ended. Parameters of a composite
    estimator's parts are named `part.parameter` in `space`. `start_with_defaults` has the
    estimator's defaults tried first, then come the points of `enqueue` and the best ones of the
    studies of `warm_start`, each once, before anything that is drawn. Trials are compared with
    `baseline`, parameters that are scored once, beside the budget. `pruning` is on by itself for
    cross-validation, and off for an objective of the user's own; `pruner` is one of Optuna's in its
    place.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
    description: str = ""
    trials: int = Field(ge=1, lt=2**31)
    seed: int = Field(42, ge=0, lt=2**31)
    max_failures: int = Field(10, ge=0)
    max_retry: int = Field(0, ge=0)
    max_deaths: int = Field(3, ge=1)
    lease_s: float = Field(60.0, ge=1, allow_inf_nan=False)
    checkpoint_s: float = Field(1.0, ge=0, allow_inf_nan=False)
    keep_trial_dirs: KeepTrialDirs = "all"
    callbacks: tuple[Annotated[str, Field(pattern=NAMED)], ...] = ()
    limits: LimitsSpec = LimitsSpec()
    table: TableSpec | None = None
    allow_target_derived: tuple[str, ...] = ()
    cv: AnyCv | None = None
    estimator: AnyEstimatorSpec | None = None
    fit: FitSpec | None = None
    objective: ObjectiveSpec = PenalisedCvSpec()
    space: dict[str, Dimension] = Field({})
    enqueue: tuple[dict[str, Any], ...] = ()
    start_with_defaults: bool = False
    warm_start: tuple[WarmStartSpec, ...] = ()
    baseline: dict[str, JsonValue] | None = None
    sampler: SamplerSpec = SamplerSpec()
    pruning: AnyPruningSpec | None = None
    pruner: PrunerSpec | None = None
    terminator: TerminatorSpec | None = None
    resources: ResourcesSpec = ResourcesSpec()

    @property
    def named_modules(self) -> dict[str, str]:
        """What the study names as `module:attribute`, by the setting that names it."""
        named = {}
        if isinstance(self.objective, CustomObjectiveSpec):
            named["[objective] name"] = self.objective.name
        if isinstance(self.objective, FunctionSpec):
            named["[objective] function"] = self.objective.function
        scoring = getattr(self.objective, "scoring", None) or ""
        if ":" in scoring:
            named["[objective] scoring"] = scoring
        named |= self._named_estimators
        if isinstance(self.cv, SplitterCv) and ":" in self.cv.splitter:
            named["[cv] splitter"] = self.cv.splitter
        if isinstance(self.table, OwnSpec):
            named["[table] loader"] = self.table.loader
        for at, featurizer in enumerate(getattr(self.table, "named_featurizers", ()), 1):
            named[f"[[table.featurizers]] {at}"] = featurizer.name
        named |= self.named_callbacks
        for section in ("sampler", "pruner", "terminator"):
            named |= named_classes(section, getattr(self, section))
        return named

    @property
    def _named_estimators(self) -> dict[str, str]:
        """What is named so in [estimator], within it, and among its choices."""
        named: dict[str, str] = {}
        estimator = self.estimator
        for part, model in (estimator.parts if estimator else {}).items():
            below = f".{estimator.section(part)}" if isinstance(estimator, CompositeSpec) else ""
            named[f"[estimator{below}] name"] = model.name
            inner = {"params": model.params, "steps": [one.model_dump() for one in model.steps]}
            named |= dict(named_estimators(f"[estimator{below}]", inner))
        for name, dimension in self.space.items():
            if estimator is not None and isinstance(dimension, CategoricalDimension):
                named |= dict(named_estimators(f"[space] {name} choice", dimension.choices))
        return {what: name for what, name in named.items() if ":" in name}

    @property
    def named_callbacks(self) -> dict[str, str]:
        """What is called after each trial, by the setting that names it."""
        return {f"callbacks {at}": name for at, name in enumerate(self.callbacks, 1)}

    @property
    def validates(self) -> bool:
        """Whether an estimator is cross-validated; else the objective is of the user's own."""
        return not isinstance(self.objective, CustomObjectiveSpec | FunctionSpec | ProgramSpec)

    @property
    def has_several(self) -> bool:
        """Whether a trial has several values."""
        return len(self.objective.directions) > 1

    @property
    def pruned_by(self) -> PruningSpec | None:
        """How trials are ended early; None if they are not, or by a pruner of Optuna's."""
        if self.pruner is not None or self.has_several:
            return None
        if isinstance(self.pruning, PruningSpec):
            return self.pruning
        on = self.validates if self.pruning is None else self.pruning
        return PruningSpec() if on else None

    @model_validator(mode="after")
    def _check(self) -> StudySpec:
        sections = {"table": self.table, "cv": self.cv, "estimator": self.estimator}
        if self.validates:
            missing = [f"[{name}]" for name, section in sections.items() if section is None]
            if missing:
                raise ValueError(f"objective {self.objective.name} needs {' and '.join(missing)}")
        elif any(section is not None for section in (self.cv, self.estimator, self.fit)):
            raise ValueError(
                "[cv], [estimator] and [fit] belong to objectives penalised_cv, quantile and "
                "spearman alone"
            )
        self._check_pruning()
        staged = [name for name, d in self.space.items() if isinstance(d, StagedDimension)]
        if isinstance(self.objective, FunctionSpec | ProgramSpec):
            self._check_whole(self.objective, staged)
        if isinstance(self.objective, FunctionSpec):
            return self
        if len(self.space) == len(staged) and self.trials > 1:
            raise ValueError(
                f"every trial of an empty [space] is the same: trials must be 1, got {self.trials}"
            )
        if len(staged) > 1:
            raise ValueError(f"{', '.join(staged)}: one dimension alone can be staged")
        both = sorted(set(self.space) & set(self.estimator.fixed if self.estimator else ()))
        if both:
            raise ValueError(f"{', '.join(both)}: fixed in [estimator.params] and in [space]")
        return self

    @model_validator(mode="after")
    def _check_folds(self) -> StudySpec:
        fold = getattr(self.table, "fold", None)
        if fold is not None and self.validates and not isinstance(self.cv, SplitterCv):
            raise ValueError(
                f"[table] fold '{fold}' has no use with [cv] scheme; leave it out, or divide by "
                'it: [cv] splitter = "PredefinedSplit"'
            )
        return self

    @model_validator(mode="after")
    def _check_first_points(self) -> StudySpec:
        if self.start_with_defaults and self.estimator is None:
            raise ValueError(
                "start_with_defaults needs an [estimator], whose defaults are known; write a point "
                "of your own as [[enqueue]]"
            )
        for entry in self.warm_start:
            if entry.study == self.name:
                raise ValueError(f"warm_start: study '{self.name}' cannot begin with itself")
        return self

    @field_validator("warm_start", mode="before")
    @classmethod
    def _name_studies(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        return tuple({"study": one} if isinstance(one, str) else one for one in value)

    def _check_pruning(self) -> None:
        if self.pruner is not None and self.pruning not in (None, False):
            raise ValueError("[pruner] and [pruning] exclude each other: leave one of them out")
        if self.has_several and (self.pruner is not None or self.pruning):
            raise ValueError(
                f"[{'pruning' if self.pruner is None else 'pruner'}] trials of several values "
                "cannot be compared before they end: leave it out"
            )

    def _check_whole(self, objective: FunctionSpec | ProgramSpec, staged: Sequence[str]) -> None:
        """Refuse what does not concern an objective that evaluates a trial as a whole."""
        if self.table is not None or self.pruning:
            raise ValueError(
                f"[{'pruning' if self.table is None else 'table'}] does not concern a "
                "function or a program: leave it out"
            )
        if self.baseline is not None:
            raise ValueError("baseline is for objectives with parts: give the point as [[enqueue]]")
        if self.limits.part_s is not None:
            raise ValueError("limits.part_s is for trials with parts: use attempt_s or trial_s")
        if isinstance(objective, ProgramSpec):
            if staged:
                raise ValueError(f"{staged[0]}: a staged dimension belongs to an [estimator]")
            objective.check_parameters(self.space)
        elif self.space:
            raise ValueError(
                f"[space] does not concern function '{objective.function}', which draws by the "
                "trial that it is given: leave it out"
            )
