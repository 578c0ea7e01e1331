"""The sections of a study file that say how its space is searched: [sampler] and [pruning]."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from hpo.spec.base import Section


class SamplerSpec(Section):
    """Optuna's sampler. Every trial draws from a stream of its own, (seed, trial number).

    `max_history` limits how many trials TPE learns from, to the best ones and the latest: it takes
    time for each, and gives old ones little weight.
    """

    name: Literal["tpe", "random"] = "tpe"
    startup_trials: int = Field(10, ge=1)
    max_history: int = Field(500, ge=250)


class PruningSpec(Section):
    """Trials that are ended early, as PRUNED: `hpo.worker.pruner`.

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
