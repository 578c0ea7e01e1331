"""The section [objective] of a study file: what scores a trial."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from hpo.spec.base import Section

Direction = Literal["minimize", "maximize"]
MetricName = Literal["rmse", "mae", "r2", "spearman"]


class PenalisedCvSpec(Section):
    """Cross-validation whose folds are penalised for the gap between validation and training."""

    name: Literal["penalised_cv"] = "penalised_cv"
    metric: MetricName = "rmse"
    penalty: float = Field(0.2, ge=0)


class QuantileSpec(Section):
    """Cross-validated pinball loss of one quantile of the target; a study per level."""

    name: Literal["quantile"]
    level: float = Field(gt=0, lt=1)
    penalty: float = Field(0.0, ge=0)


class SpearmanSpec(Section):
    """Spearman's rho of all out-of-fold predictions together, maximised."""

    name: Literal["spearman"]


class CustomObjectiveSpec(Section):
    """An objective of the user's own, as `module:attribute`, and what it is called with."""

    name: str = Field(pattern=r"^[\w.]+:[\w.]+$")
    params: dict[str, Any] = Field({})


class FunctionSpec(Section):
    """A function `objective(trial)` of the user's own, as `Study.optimize` of Optuna takes it.

    `function` is `FILE.py:NAME`, a file beside the study file, or `package.module:NAME`. It returns
    one value, or one for each of several `directions`.
    """

    function: str = Field(pattern=r"^[^:]*[^:.]:[\w.]+$")
    directions: tuple[Direction, ...] = Field(("minimize",), min_length=1)

    @property
    def name(self) -> str:
        """The function, as every objective has a name."""
        return self.function


def objective_kind(value: Any) -> str:
    """Return the tag of an `[objective]` section, by which pydantic chooses its model."""
    if isinstance(value, FunctionSpec) or (isinstance(value, dict) and "function" in value):
        return "function"
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    if not isinstance(name, str):
        return "penalised_cv"
    return "custom" if ":" in name else name


ObjectiveSpec = Annotated[
    Annotated[PenalisedCvSpec, Tag("penalised_cv")]
    | Annotated[QuantileSpec, Tag("quantile")]
    | Annotated[SpearmanSpec, Tag("spearman")]
    | Annotated[CustomObjectiveSpec, Tag("custom")]
    | Annotated[FunctionSpec, Tag("function")],
    Discriminator(objective_kind),
]
