"""The section [objective] of a study file: what scores a trial."""

from __future__ import annotations

import operator
import re
from collections.abc import Collection
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

from hpo.redaction import is_secret_name
from hpo.spec.base import Section
from hpo.spec.placeholders import check_names, names_in, quoted_names
from hpo.wording import abridge

# `FILE.py:NAME` or `package.module:NAME`.
NAMED = r"^[^:]*[^:.]:[\w.]+$"
Direction = Literal["minimize", "maximize"]
MetricName = Literal["rmse", "mae", "r2", "spearman", "concordance"]
# What classes are scored by if a study file does not say it.
CLASS_SCORING = "neg_log_loss"


def _as_table(value: Any) -> Any:
    pairs = isinstance(value, list | tuple) and [isinstance(pair, list | tuple) for pair in value]
    # What comes from here is as strict as Python: of a tuple, no list is taken.
    return dict(value) if pairs and all(pairs) else _as_tuple(value)


def _in_order(value: Any) -> Any:
    return [[*pair] for pair in value.items()] if isinstance(value, dict) else value


# The direction of each value by its name. Stored as pairs: a stored table has no order.
NamedDirections = dict[str, Direction]
_Ordered = (BeforeValidator(_as_table), PlainSerializer(_in_order))


class BoundSpec(Section):
    """What a value must be: at least `low`, at most `high`."""

    low: float | None = Field(None, allow_inf_nan=False)
    high: float | None = Field(None, allow_inf_nan=False)

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        if self.low is None and self.high is None:
            raise ValueError("needs low, high or both")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low must not be above high, {self.high:g}, got {self.low:g}")
        return self

    def violation(self, value: float) -> float:
        """Return by how much a value breaks the rule, as Optuna has constraints: kept up to 0."""
        over = [] if self.high is None else [value - self.high]
        under = [] if self.low is None else [self.low - value]
        return max(over + under)


class _Scored(Section):
    """What combines scores of parts: its `score`, and further values by their names.

    Attributes
    ----------
    directions
        With several objectives: which of the figures that a trial keeps are its values, and which
        of each are better. The first is `score`; `wall_s` is how long scoring took, in seconds.
    constraints
        What figures that a trial keeps must be, by their names.
    """

    directions: Annotated[NamedDirections, *_Ordered] = Field({}, exclude_if=operator.not_)
    constraints: dict[str, BoundSpec] = Field({}, exclude_if=operator.not_)

    @field_validator("directions")
    @classmethod
    def _check_first(cls, value: dict[str, Direction]) -> dict[str, Direction]:
        if value and (len(value) == 1 or next(iter(value)) != "score"):
            raise ValueError(
                "must name several values, of which the first is 'score', as in "
                f"{{ score = 'minimize', wall_s = 'minimize' }}; names {', '.join(value)}"
            )
        return value


class PenalisedCvSpec(_Scored):
    """Cross-validation whose folds are penalised for the gap between validation and training.

    A fold is scored by `metric`, or by `scoring`, which is maximised: one of scikit-learn's
    scorers by its name, or `module:function` or `FILE.py:function`, called with a fitted
    estimator, X and y.
    """

    name: Literal["penalised_cv"] = "penalised_cv"
    metric: MetricName = "rmse"
    scoring: str | None = Field(None, min_length=1)
    penalty: float = Field(0.2, ge=0)

    @model_validator(mode="after")
    def _check_scoring(self) -> Self:
        if self.scoring is not None and "metric" in self.model_fields_set:
            raise ValueError("metric and scoring say the same thing in two ways; write one of them")
        if self.scoring is not None and ":" in self.scoring and not re.match(NAMED, self.scoring):
            raise ValueError(f"scoring: '{abridge(self.scoring)}' is no module:function")
        return self

    @model_serializer(mode="wrap")
    def _as_given(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = plain(self)
        unused = "scoring" if self.scoring is None else "metric"
        return {name: value for name, value in found.items() if name != unused}


class QuantileSpec(_Scored):
    """Cross-validated pinball loss of one quantile of the target; a study per level."""

    name: Literal["quantile"]
    level: float = Field(gt=0, lt=1)
    penalty: float = Field(0.0, ge=0)


class SpearmanSpec(_Scored):
    """Spearman's rho of all out-of-fold predictions together, maximised."""

    name: Literal["spearman"]


class CustomObjectiveSpec(_Scored):
    """An objective of the user's own, as `module:attribute`, and what it is called with."""

    name: str = Field(pattern=r"^[\w.]+:[\w.]+$")
    params: dict[str, Any] = Field({})


def _kind_of_directions(value: Any) -> str:
    return "table" if isinstance(value, dict) else "list"


class _Directed(Section):
    """What evaluates a trial as a whole: one value and its `direction`, or several `directions`.

    These are a list, as Optuna has them, or say by a table what each value is, too:
    `directions = { rmse = "minimize", width = "minimize" }`.
    """

    direction: Direction = "minimize"
    directions: Annotated[
        Annotated[tuple[Direction, ...], Tag("list")] | Annotated[NamedDirections, Tag("table")],
        Discriminator(_kind_of_directions),
        *_Ordered,
    ] = ()

    @property
    def all_directions(self) -> tuple[Direction, ...]:
        """The direction of every value."""
        given = self.directions
        return tuple(given.values() if isinstance(given, dict) else given) or (self.direction,)

    @property
    def value_names(self) -> tuple[str, ...]:
        """What each value is; empty if nothing is said of it."""
        return tuple(self.directions) if isinstance(self.directions, dict) else ()


class FunctionSpec(_Directed):
    """A function `objective(trial)` of the user's own, as `Study.optimize` of Optuna takes it.

    `function` is `FILE.py:NAME`, a file beside the study file, or `package.module:NAME`. It returns
    one value, or one for each of several `directions`. Constraints are what it sets by
    `trial.set_constraint`.
    """

    function: str = Field(pattern=NAMED)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.directions) == 1 and not self.value_names:
            raise ValueError(
                "directions belongs to several values; for one, direction = "
                f"'{self.all_directions[0]}'"
            )
        if self.directions and self.direction != "minimize":
            raise ValueError("direction belongs to one value; for several, write directions alone")
        return self

    @property
    def name(self) -> str:
        """The function, as every objective has a name."""
        return self.function


class ScoreSpec(Section):
    """Where a program leaves a score: in a JSON file, or in its output.

    Attributes
    ----------
    json
        A file in the trial's own folder, and with it `key`: the number's place, as `metrics.rmse`.
    regex
        A regular expression whose one group is the number; the last line that matches counts.
    """

    # A model of pydantic has a method of the name that the file has for it.
    file: str | None = Field(None, alias="json")
    key: str | None = Field(None, min_length=1)
    regex: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.file is None) == (self.regex is None):
            raise ValueError("needs one of json (a file, with key) and regex (over the output)")
        if (self.file is None) != (self.key is None):
            raise ValueError("json and key belong together: json = 'result.json', key = 'rmse'")
        if self.file is not None:
            path = PurePosixPath(self.file)
            if path.is_absolute() or ".." in path.parts or not path.name:
                raise ValueError(
                    f"json must be a file within the trial's own folder, got '{abridge(self.file)}'"
                )
        if self.regex is not None:
            groups = _compiled(self.regex).groups
            if groups != 1:
                raise ValueError(f"regex must have one group, which is the number, has {groups}")
        return self

    @property
    def label(self) -> str:
        """What the score is: its key, or the name of its group; "score" where that has none."""
        if self.key is not None:
            return self.key
        return next(iter(re.compile(self.regex or "").groupindex), "score")

    @model_serializer
    def _as_written(self) -> dict[str, str | None]:
        return {"json": self.file, "key": self.key, "regex": self.regex}


class ConstraintSpec(ScoreSpec, BoundSpec):
    """Where a program leaves a number, and what it must be."""

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        found = {"json": self.file, "key": self.key, "regex": self.regex}
        return {**found, "low": self.low, "high": self.high}


class ReportSpec(Section):
    """What a program says of its progress: a regular expression with the groups step and value.

    Every line of its output that matches is reported as an intermediate value of the trial.
    """

    regex: str

    @model_validator(mode="after")
    def _check(self) -> Self:
        missing = {"step", "value"}.difference(_compiled(self.regex).groupindex)
        if missing:
            wanted = " and ".join(f"(?P<{name}>…)" for name in sorted(missing))
            raise ValueError(f"regex needs the group {wanted}, got '{abridge(self.regex)}'")
        return self


class ProgramSpec(_Directed):
    """A program that is started once for each trial, with its parameters.

    Attributes
    ----------
    command
        The program and its arguments, with placeholders: `{lr}` for a parameter of [space],
        `{trial_dir}` for the trial's own folder, `{number}` and `{seed}` for the trial's number
        and a seed of its own, an integer in [0, 2**31). Numbers are written so that they read back
        as the same, true and false in small letters.
    score
        Where the score is; a list of several, for as many objectives.
    direction, directions
        Which scores are better: of the one, or of each of several.
    constraints
        Where further numbers are, by their names, and what each must be.
    report
        What is reported while it runs, by which the trial may be pruned.
    shell
        Whether `command` is one text, which /bin/sh runs.
    cwd
        The folder that it runs in, with the same placeholders; without it where the study was
        started.
    env
        Further environment variables; none that holds a password or key.
    """

    command: tuple[str, ...] | str
    score: tuple[ScoreSpec, ...] = Field(min_length=1)
    constraints: dict[str, ConstraintSpec] = Field({}, exclude_if=operator.not_)
    report: ReportSpec | None = None
    shell: bool = False
    cwd: str | None = Field(None, min_length=1)
    env: dict[str, str] = Field({})

    @property
    def name(self) -> str:
        """What messages call an objective of this kind."""
        return "program"

    @property
    def words(self) -> tuple[str, ...]:
        """The texts of the command: its program and arguments, or the one that a shell runs."""
        return (self.command,) if isinstance(self.command, str) else self.command

    def check_parameters(self, parameters: Collection[str]) -> None:
        """Refuse parameters that the program could not be given.

        Raises
        ------
        ValueError
            If a placeholder stands for none of them, or two are the same environment variable.
        """
        for key, text in [("command", word) for word in self.words] + [("cwd", self.cwd or "")]:
            try:
                check_names(names_in(text), parameters)
            except ValueError as exc:
                raise ValueError(f"[objective] {key}: {exc}") from None
        names: dict[str, str] = {}
        for parameter in parameters:
            variable = variable_of(parameter)
            other = names.setdefault(variable, parameter)
            if other != parameter:
                raise ValueError(
                    f"[space] {other} and {parameter}: both are the environment variable "
                    f"{variable}; give one of them another name"
                )

    @field_validator("command", mode="before")
    @classmethod
    def _check_kind(cls, value: Any) -> Any:
        if not value or not (
            isinstance(value, str)
            or (isinstance(value, list | tuple) and all(isinstance(word, str) for word in value))
        ):
            raise ValueError(
                'must be a list of texts, as in ["python", "train.py", "{lr}"], got '
                f"{abridge(repr(value))}"
            )
        return _as_tuple(value)

    @field_validator("command")
    @classmethod
    def _check_program(cls, value: tuple[str, ...] | str) -> tuple[str, ...] | str:
        first = value if isinstance(value, str) else value[0]
        if not first.strip():
            raise ValueError("must begin with a program, and begins with an empty text")
        return value

    @field_validator("score", mode="before")
    @classmethod
    def _in_list(cls, value: Any) -> Any:
        # Not a list: what comes from here is as strict as Python, and no JSON any more.
        return (value,) if isinstance(value, dict) else _as_tuple(value)

    @field_validator("env")
    @classmethod
    def _check_env(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not name or "=" in name:
                raise ValueError(f"'{abridge(name)}' is no name of an environment variable")
            if name.startswith("HPO_"):
                raise ValueError(f"{abridge(name)}: names that begin with HPO_ are set by hpo")
            if is_secret_name(name):
                raise ValueError(
                    f"{abridge(name)}: a password or key does not belong in a study file, which is "
                    "stored and shown; set it where workers are started: programs get it, too"
                )
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if isinstance(self.command, str) != self.shell:
            raise ValueError(
                'command must be one text with shell = true, as in "python train.py {lr}"'
                if self.shell
                else "command of one text needs shell = true; without a shell it is a list: "
                '["python", "train.py", "{lr}"]'
            )
        if isinstance(self.command, str):
            quoted = quoted_names(self.command)
            if quoted:
                raise ValueError(
                    f"command: leave out the quotes around {{{quoted[0]}}}, which is quoted by "
                    f"itself{_within_quotes(quoted[0])}"
                )
        count = len(self.score)
        if len(self.directions) != (count if count > 1 else 0):
            raise ValueError(
                f"directions must be a list of {count}, one for each score, has "
                f"{len(self.directions)}"
                if count > 1
                else "directions belongs to a list of several scores; for one, write direction"
            )
        if count > 1 and self.report is not None:
            raise ValueError("report belongs to one score: several cannot be pruned by")
        if count > 1 and self.direction != "minimize":
            raise ValueError("direction belongs to one score; for several, write directions")
        return self


def variable_of(parameter: str) -> str:
    """Return the environment variable that a program finds a parameter in."""
    return f"HPO_PARAM_{re.sub(r'[^0-9A-Za-z_]', _kept, parameter).upper()}"


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _kept(character: re.Match[str]) -> str:
    # Letters of other alphabets stay what they are.
    return character[0] if character[0].isalnum() else "_"


def _within_quotes(name: str) -> str:
    variable = "HPO_TRIAL_DIR" if name == "trial_dir" else variable_of(name)
    return "" if name in ("number", "seed") else f"; within quotes, write ${variable}"


def _compiled(regex: str) -> re.Pattern[str]:
    try:
        return re.compile(regex)
    except (re.error, OverflowError, RecursionError) as exc:
        raise ValueError(f"regex '{abridge(regex)}' is not valid: {exc}") from None


def objective_kind(value: Any) -> str:
    """Return the tag of an `[objective]` section, by which pydantic chooses its model."""
    if isinstance(value, FunctionSpec) or (isinstance(value, dict) and "function" in value):
        return "function"
    if isinstance(value, ProgramSpec):
        return "program"
    # What has a score to find is a program whose command is missing, or misspelt.
    if isinstance(value, dict) and ("command" in value or "score" in value):
        return "program"
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    if not isinstance(name, str):
        return "penalised_cv"
    return "custom" if ":" in name else name


ObjectiveSpec = Annotated[
    Annotated[PenalisedCvSpec, Tag("penalised_cv")]
    | Annotated[QuantileSpec, Tag("quantile")]
    | Annotated[SpearmanSpec, Tag("spearman")]
    | Annotated[CustomObjectiveSpec, Tag("custom")]
    | Annotated[FunctionSpec, Tag("function")]
    | Annotated[ProgramSpec, Tag("program")],
    Discriminator(objective_kind),
]
