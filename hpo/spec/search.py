"""The sections of a study file that say how its space is searched: sampler, pruner, pruning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Discriminator, Field, Tag, model_validator

from hpo.redaction import redact_argument
from hpo.spec.base import Section

STARTUP_TRIALS, MAX_HISTORY = 10, 500
# As many of another study's trials are tried first.
WARM_TRIALS = 5


class OptunaSpec(Section):
    """A class of Optuna's by its name, or any other as `module:Class`, and keyword arguments.

    An argument that is such a class itself is a section of its own: `{ name = ..., params = ... }`.
    """

    name: str = Field(min_length=1)
    params: dict[str, Any] = Field({})


class SamplerSpec(OptunaSpec):
    """Optuna's sampler. Every trial draws from a stream of its own, (seed, trial number).

    `tpe` and `random` are Optuna's TPESampler and RandomSampler as most studies need them:
    `startup_trials` is all there is to set. `max_history` limits how many trials TPE learns from,
    to the best ones and the latest: it takes time for each, and gives old ones little weight.
    A sampler's `after_trial` is not called for trials of a table.
    """

    name: str = Field("tpe", min_length=1)
    startup_trials: int = Field(STARTUP_TRIALS, ge=1)
    max_history: int = Field(MAX_HISTORY, ge=250)

    @property
    def is_short(self) -> bool:
        """Whether it is one of those that are named shortly."""
        return self.name in ("tpe", "random")

    @property
    def history(self) -> int | None:
        """How many trials that have ended it is shown; None for all of them."""
        return self.max_history if self.is_short or self.name == "TPESampler" else None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.is_short and self.params:
            name = "TPESampler" if self.name == "tpe" else "RandomSampler"
            raise ValueError(
                f"params are for a class of Optuna's, such as name = '{name}', got '{self.name}'"
            )
        if not self.is_short and self.startup_trials != STARTUP_TRIALS:
            raise ValueError(
                f"startup_trials belongs to name = 'tpe', got '{self.name}'; write "
                f"params = {{ n_startup_trials = {self.startup_trials} }} if it has that"
            )
        if self.history is None and self.max_history != MAX_HISTORY:
            raise ValueError(f"max_history belongs to TPE alone, got '{self.name}'")
        return self


class PrunerSpec(OptunaSpec):
    """Optuna's pruner, told the mean of the part scores so far after every part but the last."""


class TerminatorSpec(OptunaSpec):
    """Optuna's terminator, which says that no better trial is to be expected.

    `improvement_evaluator` and `error_evaluator` among the `params` are classes of
    `optuna.terminator`. It is asked after trials, at most for a tenth of a worker's time.
    """

    name: str = Field("Terminator", min_length=1)


class WarmStartSpec(Section):
    """Another study whose best trials are tried first: `STORAGE/NAME`, or `NAME` of the same one.

    `trials` is how many of them. The storage is what `--storage` takes: a URL, the folder of a
    server of one's own, or a file with a URL in it, which keeps a password out of study files.
    """

    study: str
    trials: int = Field(WARM_TRIALS, ge=1, le=1000)

    @property
    def storage(self) -> str:
        """Where the study is; "" if it is where the one is that begins with it."""
        return self.study.rpartition("/")[0]

    @property
    def name(self) -> str:
        """The study's name."""
        return self.study.rpartition("/")[2]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if redact_argument(self.study) != self.study:
            raise ValueError(
                "a password does not belong in a study file, which is stored and shown: name a "
                "file with the URL in it, or the folder of the server, in its place"
            )
        if not self.name or self.storage.endswith(("/", ":")):
            raise ValueError(
                f"study must be STORAGE/NAME or NAME, as in sqlite:///other.db/NAME, got "
                f"'{self.study}'"
            )
        return self


def named_classes(section: str, spec: OptunaSpec | None) -> dict[str, str]:
    """Return what a section names as `module:Class`, by the setting that names it."""
    found: dict[str, str] = {}
    waiting: list[tuple[str, Any]] = [] if spec is None else [(section, spec.model_dump())]
    while waiting:
        where, value = waiting.pop()
        if isinstance(value, Mapping):
            name = value.get("name")
            if (
                isinstance(name, str)
                and ":" in name
                and value.keys() <= {*SamplerSpec.model_fields}
            ):
                found[f"[{where}] name"] = name
            waiting += [(f"{where}.{key}", inner) for key, inner in value.items()]
    return found


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
