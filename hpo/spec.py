"""Study files: one TOML file says what is optimised, over what, and how it is scored."""

from __future__ import annotations

import difflib
import json
import tomllib
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from features.table import TableSpec
from hpo.errors import AbsentError, SpecError, suggest
from hpo.space import Dimension, StagedDimension

MetricName = Literal["rmse", "mae", "r2", "spearman"]
ParamValue = bool | int | float | str


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Cv(_Section):
    """Folds of the training rows.

    With `outer`, that fold is held out in place of the table's held-out rows, which are left
    alone, and what remains is divided anew: one step of a nested cross-validation.
    """

    folds: int = Field(5, ge=2)
    outer: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _check_outer(self) -> Self:
        if self.outer is not None and self.outer >= self.folds:
            raise ValueError(f"outer must be below folds, {self.folds}, got {self.outer}")
        return self


class InterleavedCv(_Cv):
    """Row i of the training part is validated in fold i mod `folds`; file order, no shuffle."""

    scheme: Literal["interleaved"]


class KFoldCv(_Cv):
    """Shuffled k-fold."""

    scheme: Literal["kfold"]
    seed: int = Field(42, ge=0)


class GroupKFoldCv(_Cv):
    """No group has rows on both sides of a fold."""

    scheme: Literal["group_kfold"]


class LikeTestCv(_Cv):
    """Grouped folds that validate on small groups alone; larger groups are always trained on."""

    scheme: Literal["test_like"]
    max_group_rows: int = Field(24, ge=1)


CvSpec = Annotated[
    InterleavedCv | KFoldCv | GroupKFoldCv | LikeTestCv, Field(discriminator="scheme")
]


class EstimatorSpec(_Section):
    """A regressor by its registered name or as `module:attribute`, and its fixed parameters."""

    name: str
    params: dict[str, ParamValue] = {}

    @property
    def parts(self) -> Mapping[str, EstimatorSpec]:
        """The models that it is made of, by the section that describes each; "" is its own."""
        return {"": self}

    @property
    def fixed(self) -> dict[str, ParamValue]:
        """Its fixed parameters, by the names that a search space would give them."""
        return {
            f"{part}.{key}" if part else key: value
            for part, model in self.parts.items()
            for key, value in model.params.items()
        }


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
        if self.params:
            sections = " or ".join(f"{self.section(part)}.params" for part in self.parts)
            raise ValueError(f"params belong to one of its models: write them below {sections}")
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


class FitSpec(_Section):
    """How models are fitted, beside their parameters.

    In every fit a row has the weight size^-`group_weight`, `size` being the number of training
    rows of its group: at 0 all rows weigh alike, at 1 all groups do.
    """

    group_weight: float = Field(gt=0, le=1)


class PenalisedCvSpec(_Section):
    """Cross-validation whose folds are penalised for the gap between validation and training."""

    name: Literal["penalised_cv"] = "penalised_cv"
    metric: MetricName = "rmse"
    penalty: float = Field(0.2, ge=0)


class QuantileSpec(_Section):
    """Cross-validated pinball loss of one quantile of the target; a study per level."""

    name: Literal["quantile"]
    level: float = Field(gt=0, lt=1)
    penalty: float = Field(0.0, ge=0)


class SpearmanSpec(_Section):
    """Spearman's rho of all out-of-fold predictions together, maximised."""

    name: Literal["spearman"]


class CustomObjectiveSpec(_Section):
    """An objective of the user's own, as `module:attribute`, and what it is called with."""

    name: str = Field(pattern=r"^[\w.]+:[\w.]+$")
    params: dict[str, Any] = {}


def _objective_kind(value: Any) -> str:
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    if not isinstance(name, str):
        return "penalised_cv"
    return "custom" if ":" in name else name


ObjectiveSpec = Annotated[
    Annotated[PenalisedCvSpec, Tag("penalised_cv")]
    | Annotated[QuantileSpec, Tag("quantile")]
    | Annotated[SpearmanSpec, Tag("spearman")]
    | Annotated[CustomObjectiveSpec, Tag("custom")],
    Discriminator(_objective_kind),
]


class SamplerSpec(_Section):
    """Optuna's sampler. Every trial draws from a stream of its own, (seed, trial number).

    `max_history` limits how many trials TPE learns from, to the best ones and the latest: it takes
    time for each, and gives old ones little weight.
    """

    name: Literal["tpe", "random"] = "tpe"
    startup_trials: int = Field(10, ge=1)
    max_history: int = Field(500, ge=250)


class PruningSpec(_Section):
    """Trials that are ended early, as PRUNED: `hpo.pruning`.

    A trial ends where the mean of its part scores so far is worse than this `percentile` of the
    complete trials' means at the same part; not before `after` parts, and not before
    `startup_trials` are complete.
    """

    percentile: float = Field(75.0, gt=0, lt=100)
    after: int = Field(1, ge=1)
    startup_trials: int = Field(10, ge=1)


def _is_switch(value: Any) -> str:
    return "section" if isinstance(value, dict | PruningSpec) else "switch"


AnyPruningSpec = Annotated[
    Annotated[PruningSpec, Tag("section")] | Annotated[bool, Tag("switch")],
    Discriminator(_is_switch),
]


class StudySpec(_Section):
    """One study file.

    `trials` is the budget: that many trials finish or are pruned, whatever dies on the way. `seed`
    feeds the sampler and, where the estimator takes one, its `random_state`.
    `allow_target_derived` names the columns made from the target that the study uses knowingly;
    any other one is refused. Scores of parts are stored with the result of their trial, and before
    that whenever a death would cost `checkpoint_s` seconds of work or more; 0 stores each at once.
    Parameters of a composite estimator's parts are named `part.parameter` in `space`. `pruning` is
    on by itself for cross-validation, and off for an objective of the user's own.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
    description: str = ""
    trials: int = Field(ge=1)
    seed: int = Field(42, ge=0, lt=2**31)
    max_failures: int = Field(10, ge=0)
    max_deaths: int = Field(3, ge=1)
    lease_s: float = Field(60.0, ge=1)
    checkpoint_s: float = Field(1.0, ge=0)
    table: TableSpec | None = None
    allow_target_derived: tuple[str, ...] = ()
    cv: CvSpec | None = None
    estimator: AnyEstimatorSpec | None = None
    fit: FitSpec | None = None
    objective: ObjectiveSpec = PenalisedCvSpec()
    space: dict[str, Dimension] = {}
    sampler: SamplerSpec = SamplerSpec()
    pruning: AnyPruningSpec | None = None

    @property
    def pruned_by(self) -> PruningSpec | None:
        """How trials are ended early; None if they are not."""
        if isinstance(self.pruning, PruningSpec):
            return self.pruning
        by_itself = not isinstance(self.objective, CustomObjectiveSpec)
        on = by_itself if self.pruning is None else self.pruning
        return PruningSpec() if on else None

    @model_validator(mode="after")
    def _check(self) -> StudySpec:
        sections = {"table": self.table, "cv": self.cv, "estimator": self.estimator}
        if not isinstance(self.objective, CustomObjectiveSpec):
            missing = [f"[{name}]" for name, section in sections.items() if section is None]
            if missing:
                raise ValueError(f"objective {self.objective.name} needs {' and '.join(missing)}")
        elif any(section is not None for section in (self.cv, self.estimator, self.fit)):
            raise ValueError(
                "[cv], [estimator] and [fit] belong to objectives penalised_cv, quantile and "
                "spearman alone"
            )
        staged = [name for name, d in self.space.items() if isinstance(d, StagedDimension)]
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


def load(path: Path, overrides: Sequence[str] = ()) -> StudySpec:
    """Read and validate a study file.

    Parameters
    ----------
    path
        The TOML file. Without a `name` of its own, the study has the file's.
    overrides
        `key=value` texts, see `apply_overrides`.

    Raises
    ------
    SpecError
        With file, key, rule and value of everything that is wrong.
    """
    raw = read_toml(path)
    apply_overrides(raw, overrides)
    raw.setdefault("name", path.stem)
    return validate(raw, str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    SpecError
        If it cannot be read or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise SpecError(f"{path}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise SpecError(f"{path}: not UTF-8 text: {exc.reason} at byte {exc.start}") from exc
    except tomllib.TOMLDecodeError as exc:
        raise SpecError(f"{path}: not valid TOML: {exc}") from exc


def validate(raw: Mapping[str, Any], source: str) -> StudySpec:
    """Return the spec that a mapping describes; `source` is named in errors."""
    if isinstance(raw.get("space"), dict):
        raw = {**raw, "space": _name_by_part(raw["space"])}
    spec: StudySpec = validate_as(StudySpec, raw, source)
    return spec


def _name_by_part(space: Mapping[str, Any]) -> dict[str, Any]:
    """Return a space by names such as second.max_depth, which TOML reads as nested sections."""
    named: dict[str, Any] = {}
    for name, value in space.items():
        is_section = isinstance(value, dict) and any(isinstance(v, dict) for v in value.values())
        named |= {f"{name}.{key}": v for key, v in value.items()} if is_section else {name: value}
    return named


def validate_as(kind: Any, raw: Any, source: str) -> Any:
    """Return `raw` as an instance of a pydantic type, or say all that is wrong with it."""
    try:
        # JSON mode: strict, and still a list is a tuple and a text is a path.
        return TypeAdapter(kind).validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as exc:
        lines = [_describe(kind, error) for error in exc.errors()]
        raise SpecError("\n".join(f"{source}: {line}" for line in lines)) from exc


def canonical(spec: BaseModel | None) -> str:
    """Return the one text that equal specs share, whatever the order or spelling of the file."""
    dump = None if spec is None else spec.model_dump(mode="json")
    return json.dumps(dump, sort_keys=True, separators=(",", ":"))


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set `key=value` texts in a mapping, in place.

    Dotted keys reach into sections; values are TOML, or else text. `key+=value` puts a value at
    the end of a list, `key-=value` takes it out.

    Raises
    ------
    AbsentError
        If a value is to be taken out of a list that does not have it.
    SpecError
        If a text is none of these, or a section is a value.
    """
    for override in overrides:
        _override(raw, override)


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    change = key[-1:] if key[-1:] in ("+", "-") else ""
    key = key.removesuffix(change)
    if not equals or not key.strip():
        raise SpecError(f"--set {override}: must be key=value, as in --set trials=100")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, last = key.strip().split(".")
    target = raw
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise SpecError(f"--set {override}: '{section}' is a value, not a section")
    if change:
        target[last] = _changed(target.get(last, []), change, value, override)
    else:
        target[last] = value


def _changed(values: Any, change: str, value: Any, override: str) -> list[Any]:
    if not isinstance(values, list):
        raise SpecError(f"--set {override}: is for a list, and there is {values!r}")
    if change == "+":
        return [*values, value]
    if value not in values:
        raise AbsentError(f"--set {override}: the list {values!r} has no {value!r}")
    return [item for item in values if item != value]


def _describe(kind: Any, error: Any) -> str:
    """Return `key: rule, got value` for one pydantic error."""
    location, valid = _locate(kind, error["loc"])
    rule = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return f"{location}: unknown key; {suggest(str(error['loc'][-1]), valid)}"
    if error["type"] == "missing":
        return f"{location}: required and missing"
    if error["type"] == "union_tag_invalid":
        context = error["ctx"]
        tags = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        key = context["discriminator"].strip("'")
        if key == f"{_objective_kind.__name__}()":
            key, tags = "name", ["module:attribute" if tag == "custom" else tag for tag in tags]
        return f"{location}.{key}: unknown '{context['tag']}'; {suggest(context['tag'], tags)}"
    if error["type"] == "union_tag_not_found":
        key = error["ctx"]["discriminator"].strip("'")
        near = difflib.get_close_matches(key, map(str, error["input"]), n=1)
        hint = f"; '{near[0]}' is unknown, did you mean '{key}'?" if near else ""
        return f"{location}: required key '{key}' is missing{hint}"
    if error["type"] == "literal_error" and isinstance(error["input"], str):
        options = [option.strip(" '") for option in error["ctx"]["expected"].split(" or ")]
        options = [part.strip(" '") for option in options for part in option.split(",")]
        return f"{location}: unknown '{error['input']}'; {suggest(error['input'], options)}"
    if error["type"] == "value_error":
        return f"{location}: {rule}" if location else rule
    return f"{location}: {rule[0].lower()}{rule[1:]}, got {error['input']!r}"


def _locate(kind: Any, loc: Sequence[int | str]) -> tuple[str, list[str]]:
    """Return an error's dotted key without pydantic's union tags, and the keys valid beside it."""
    names: list[str] = []
    valid: list[str] = []
    for item in loc:
        kind = _strip(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            valid = list(kind.model_fields)
            field = kind.model_fields.get(str(item))
            kind = field.annotation if field else None
            names.append(str(item))
        elif _is_union(kind):
            members = [_strip(member) for member in get_args(kind)]
            models = [member for member in members if hasattr(member, "model_fields")]
            if len(models) == 1 and not _has_tag(models[0], item):
                kind, names = None, [*names, str(item)]
                continue
            kind = next((model for model in models if _has_tag(model, item)), None)
        elif get_origin(kind) in (dict, tuple, list):
            kind = next((a for a in reversed(get_args(kind)) if a is not Ellipsis), None)
            names.append(str(item))
        elif kind is not None:
            kind = None  # pydantic's own name of a member of a union of plain types
        else:
            names.append(str(item))
    return ".".join(names), valid


def _strip(kind: Any) -> Any:
    """Return a type without Annotated and Optional around it."""
    while True:
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        elif _is_union(kind) and type(None) in get_args(kind):
            rest = [member for member in get_args(kind) if member is not type(None)]
            kind = rest[0] if len(rest) == 1 else Union[tuple(rest)]  # noqa: UP007
        else:
            return kind


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


# Tags of the members of a union that no fixed word tells apart.
_TAGS: Mapping[str, type[BaseModel]] = {
    "custom": CustomObjectiveSpec,
    "plain": EstimatorSpec,
    "section": PruningSpec,
}


def _has_tag(model: type[BaseModel], tag: int | str) -> bool:
    # A tag is the one value that its field can have; other literals are choices.
    literals = [
        get_args(field.annotation)
        for field in model.model_fields.values()
        if get_origin(field.annotation) is Literal
    ]
    return (tag,) in literals or _TAGS.get(str(tag)) is model
