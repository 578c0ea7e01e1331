"""The section `[estimator]`: models by name, pipelines of steps, and models made of others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, JsonValue, Tag, model_validator

from hpo.spec.base import Section

PIPELINE = "Pipeline"


class StepSpec(Section):
    """A step of a pipeline: a class by its name, and its fixed parameters.

    `step` is what the pipeline calls it, as in `pca__n_components`; the class in small letters if
    it is not said.
    """

    name: str = Field(min_length=1)
    params: dict[str, JsonValue] = Field({})
    step: str = Field("", exclude_if=lambda step: not step)

    @property
    def key(self) -> str:
        """What the pipeline calls it."""
        return self.step or self.name.rpartition(":")[2].lower()


class EstimatorSpec(Section):
    """An estimator by the name of its class or as `module:attribute`, and its fixed parameters.

    The text "None" stands for None, and a section with `name` and `params` for an estimator, a
    transformer or a kernel within this one. `steps` make it a pipeline of scikit-learn's. An
    imputer and a scaler are put before an estimator that needs them, unless it is a pipeline or one
    of the user's own; `impute` and `scale` say it otherwise.
    """

    name: str = PIPELINE
    params: dict[str, JsonValue] = Field({})
    steps: tuple[StepSpec, ...] = Field((), exclude_if=lambda steps: not steps)
    impute: bool | None = Field(None, exclude_if=lambda impute: impute is None)
    scale: bool | None = Field(None, exclude_if=lambda scale: scale is None)

    @model_validator(mode="after")
    def _check_steps(self) -> EstimatorSpec:
        if (self.name == PIPELINE) != bool(self.steps):
            raise ValueError(
                f"steps make a {PIPELINE}, name is '{self.name}': the estimator is the last of them"
                if self.steps
                else "name: required and missing, or steps, as [[estimator.steps]] with a name each"
            )
        if self.steps and self.params:
            raise ValueError("params belong to the steps: write them there")
        keys = [one.key for one in self.steps]
        for key in keys:
            if keys.count(key) > 1 or "__" in key or "." in key:
                raise ValueError(
                    f"steps: '{key}' is no name for one step alone; give each a name of its own, "
                    'as in step = "first"'
                )
        return self

    @property
    def parts(self) -> Mapping[str, EstimatorSpec]:
        """The models that it is made of, by the section that describes each; "" is its own."""
        return {"": self}

    @property
    def fixed(self) -> dict[str, Any]:
        """Its fixed parameters, by the names that a search space would give them."""
        return {
            f"{part}.{key}" if part else key: value
            for part, model in self.parts.items()
            for key, value in model.own_params.items()
        }

    @property
    def own_params(self) -> dict[str, Any]:
        """Its fixed parameters without those of its parts; of a pipeline, `step__parameter`."""
        of_steps = {f"{one.key}__{k}": v for one in self.steps for k, v in one.params.items()}
        return {**self.params, **of_steps}


class ModelSpec(EstimatorSpec):
    """A part of a composite estimator; it sees every feature but those of some families."""

    without: tuple[str, ...] = ()


class SecondModelSpec(ModelSpec):
    """The model behind a gate.

    It is trained on all rows, or on those that pass the gate, and predicts the target, or what
    the base model leaves of it.
    """

    rows: Literal["all", "gated"] = "gated"
    predicts: Literal["target", "residual"] = "target"


class CombinerSpec(EstimatorSpec):
    """A model of the target from the base and the second prediction and some columns."""

    columns: tuple[str, ...] = ()


class CompositeSpec(EstimatorSpec):
    """An estimator made of others, each in a section of its own."""

    def section(self, part: str) -> str:
        """Return the section of a study file that describes a part, below [estimator]."""
        return part

    @model_validator(mode="after")
    def _check(self) -> CompositeSpec:
        if self.params or self.steps or self.impute is not None or self.scale is not None:
            sections = " or ".join(f"{self.section(part)}.params" for part in self.parts)
            raise ValueError(
                "params, steps, impute and scale belong to one of its models: write them below "
                f"{sections}"
            )
        for part, model in self.parts.items():
            if model.name in COMPOSITES:
                raise ValueError(f"{part}: {model.name} is made of models itself; name a plain one")
        return self


class GatedSpec(CompositeSpec):
    """A base model for all rows, and a second one for those whose gate columns are all 1.

    `base_predictions` are those from which residuals are taken and on which a combiner is
    trained: out-of-fold within the training rows (`inner_folds` interleaved folds), or those
    of a model that has seen the very rows, whose residuals are too small.
    """

    name: Literal["gated"]
    gate: tuple[str, ...] = Field(min_length=1)
    base: ModelSpec
    second: SecondModelSpec
    combiner: CombinerSpec | None = None
    base_predictions: Literal["out_of_fold", "in_sample"] = "out_of_fold"
    inner_folds: int = Field(5, ge=2)

    @property
    def parts(self) -> Mapping[str, EstimatorSpec]:
        """The models by their sections: base, second and, if there is one, combiner."""
        parts: dict[str, EstimatorSpec] = {"base": self.base, "second": self.second}
        return {**parts, "combiner": self.combiner} if self.combiner else parts


class BoundGatedSpec(GatedSpec):
    """The same over a certain table: every column by its position."""

    base_columns: tuple[int, ...]
    second_columns: tuple[int, ...]
    gate_columns: tuple[int, ...]
    combiner_columns: tuple[int, ...]


class StackingSpec(EstimatorSpec):
    """A model of the target from the members' predictions and, with `passthrough`, all columns."""

    passthrough: bool = False


class EnsembleSpec(CompositeSpec):
    """Several models of the same rows: the mean of their predictions, or stacking.

    With a `combiner`, that is trained on out-of-fold predictions of the members, in `inner_folds`
    folds of the training rows.
    """

    name: Literal["ensemble"]
    members: dict[str, ModelSpec] = Field(min_length=1)
    combiner: StackingSpec | None = None
    inner_folds: int = Field(5, ge=2)

    @property
    def parts(self) -> Mapping[str, EstimatorSpec]:
        """The members by their names and, if there is one, the combiner."""
        return {**self.members, "combiner": self.combiner} if self.combiner else {**self.members}

    def section(self, part: str) -> str:
        """Return the section of a study file that describes a part, below [estimator]."""
        return part if part == "combiner" else f"members.{part}"

    @model_validator(mode="after")
    def _check_members(self) -> EnsembleSpec:
        if len(self.members) < 2 and self.combiner is None:
            raise ValueError(
                f"members: the mean of {' and '.join(self.members)} alone is that model; name "
                "another member, or a combiner"
            )
        for member in self.members:
            if "." in member or member == "combiner":
                raise ValueError(f"members: '{member}' is no name for a member; choose another one")
        return self


class BoundEnsembleSpec(EnsembleSpec):
    """The same over a certain table: the columns that each member sees, by position."""

    member_columns: dict[str, tuple[int, ...]]


COMPOSITES = ("gated", "ensemble")


def _estimator_kind(value: Any) -> str:
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    return name if name in COMPOSITES else "plain"


AnyEstimatorSpec = Annotated[
    Annotated[EstimatorSpec, Tag("plain")]
    | Annotated[GatedSpec, Tag("gated")]
    | Annotated[EnsembleSpec, Tag("ensemble")],
    Discriminator(_estimator_kind),
]


def named_estimators(where: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield every estimator, transformer or kernel that a section or a value names, and where."""
    if isinstance(value, Mapping):
        name = value.get("name")
        if isinstance(name, str) and value.keys() <= {*EstimatorSpec.model_fields}:
            yield f"{where} name", name
        for key, inner in value.items():
            yield from named_estimators(f"{where} {key}", inner)
    elif isinstance(value, list | tuple):
        for at, inner in enumerate(value, 1):
            yield from named_estimators(f"{where} {at}", inner)
