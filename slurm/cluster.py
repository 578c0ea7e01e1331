"""Clusters: what a site asks of a job, in one TOML file with a section for each cluster."""

from __future__ import annotations

import codecs
import json
import os
import re
import stat
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from pydantic import (
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from slurm.errors import ClusterError, suggest
from slurm.shape import MEMORY, JobShape, Line, Word

FILE_NAME = "clusters.toml"
FILE_VARIABLE = "HPO_CLUSTERS"
FIELD_VARIABLE = "HPO_SLURM_"
# SLURM signals a job up to a minute off and a requeue takes minutes, so the time in which workers
# leave must stay a small part of the whole.
MAX_BYTES, MAX_LINES, MAX_QUOTED = 1_000_000, 20, 200  # of a file, of errors, of a value in one
MAX_LEAVING_SHARE = 0.2
DEFAULT_LEAVING_S = 120
DEFAULT_LEAVING_SHARE = 0.08

# sbatch's options that are fields here, or that a submission sets by itself.
_FIELD_OF_OPTION = {
    "partition": "partition",
    "time": "time_limit",
    "mem": "memory_gb",
    "mem-per-cpu": "memory_per_cpu_gb",
    "mem-per-gpu": "memory_gb",
    "cpus-per-task": "cpus_per_worker",
    "gpus": "gpus_per_worker",
    "gpus-per-node": "gpus_per_worker",
    "gpus-per-task": "gpus_per_worker",
    "nodes": "nodes_per_trial",
    "exclusive": "exclusive",
    "account": "account",
    "qos": "qos",
    "constraint": "constraint",
    "reservation": "reservation",
    "nodelist": "nodelist",
    "exclude": "exclude",
    "gres": "gres",
    "nice": "nice",
    "requeue": "requeue",
    "no-requeue": "requeue",
    "signal": "leave_before_s",
}
_SET_BY_SUBMISSION = {
    "array", "comment", "error", "job-name", "ntasks", "ntasks-per-node", "open-mode", "output",
    "parsable", "wait", "wrap",
}  # fmt: skip
# Keys of earlier versions.
_RENAMED = {"cpus": "cpus_per_worker"}


class ClusterSpec(JobShape):
    """One section of a cluster file. What is None is left to the site.

    The shape of a job is that of `JobShape`.

    Attributes
    ----------
    time_limit
        As `D-HH:MM:SS`, `HH:MM:SS` or minutes; kept in SLURM's own form.
    python
        What starts Python in a job, such as `conda run -n env python` or
        `apptainer exec image.sif python`; None is the Python of who submits.
    setup
        Lines of shell before a worker starts, such as `module load`; one that fails ends the job.
    max_array
        Largest job array of the site; None asks SLURM.
    throttle
        At most this many jobs of an array run at once; 0 is all.
    leave_before_s, stagger_s
        Workers leave so long before the time limit, spread over so many further seconds. By
        default 120 each, or 8 % of a time limit for which that would be too long.
    srun
        Further arguments of the srun that starts the workers of a job, where one does: not with
        `nodes_per_trial`, and not in a script that is submitted by hand.
    extra
        Any other option of sbatch; True for one without a value.
    """

    name: str
    partition: Line | None = None
    time_limit: Line | None = None
    account: Line | None = None
    qos: Line | None = None
    constraint: Line | None = None
    reservation: Line | None = None
    nodelist: Line | None = None
    exclude: Line | None = None
    nice: int | None = None
    python: Line | None = None
    setup: tuple[Line, ...] = ()
    max_array: int | None = Field(None, ge=1)
    throttle: int = Field(0, ge=0)
    leave_before_s: int = Field(DEFAULT_LEAVING_S, ge=1, le=65535)
    stagger_s: int = Field(DEFAULT_LEAVING_S, ge=0)
    requeue: bool = True
    srun: tuple[Line, ...] = ()
    extra: dict[str, Line | int | bool] = Field(default_factory=dict)

    @property
    def time_limit_s(self) -> int | None:
        """The time limit in seconds; None is the partition's own."""
        return None if self.time_limit is None else parse_time(self.time_limit)

    def with_workers(self, workers_per_job: int) -> ClusterSpec:
        """Return the same cluster with so many workers in a job."""
        return self.model_copy(update={"workers_per_job": workers_per_job})

    @model_validator(mode="before")
    @classmethod
    def _shorten_leaving(cls, raw: Any) -> Any:
        """Fit what the file does not say to a short time limit."""
        if not isinstance(raw, Mapping):
            return raw
        try:
            limit_s = parse_time(str(raw["time_limit"]))
        except (KeyError, ValueError):
            return raw
        share_s = max(1, int(DEFAULT_LEAVING_SHARE * limit_s))
        leaving_s = min(DEFAULT_LEAVING_S, share_s)
        return {"leave_before_s": leaving_s, "stagger_s": leaving_s, **raw}

    @field_validator("partition", mode="before")
    @classmethod
    def _join(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            return ",".join(value)
        return value

    @field_validator("setup", "srun", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else _as_tuple(value)

    @field_validator("time_limit", mode="before")
    @classmethod
    def _normalise_time(cls, value: Any) -> Any:
        return None if value is None else render_time(parse_time(str(value)))

    @field_validator("extra")
    @classmethod
    def _check_extra(cls, extra: dict[str, Any]) -> dict[str, Any]:
        for option, value in extra.items():
            if not re.fullmatch(r"[a-z][a-z0-9-]*", option):
                raise ValueError(f"'{option}' must be a long option of sbatch, as in mail-type")
            if option in _FIELD_OF_OPTION:
                raise ValueError(f"'{option}' has a key of its own: {_FIELD_OF_OPTION[option]}")
            if option in _SET_BY_SUBMISSION:
                raise ValueError(f"'{option}' is set by every submission itself")
            if value is False:
                raise ValueError(f"'{option}' must be true or a value; leave it out instead")
        return extra

    @model_validator(mode="after")
    def _check_leaving(self) -> ClusterSpec:
        limit_s, leaving_s = self.time_limit_s, self.leave_before_s + self.stagger_s
        if limit_s is not None and leaving_s >= MAX_LEAVING_SHARE * limit_s:
            raise ValueError(
                f"leave_before_s + stagger_s must be less than {MAX_LEAVING_SHARE:.0%} of"
                f" time_limit ({MAX_LEAVING_SHARE * limit_s:g} s of {limit_s} s), got"
                f" {self.leave_before_s} + {self.stagger_s}; make them smaller or time_limit longer"
            )
        return self


FIELDS = tuple(name for name in ClusterSpec.model_fields if name != "name")


def find_cluster(
    name: str | None = None,
    path: Path | None = None,
    overrides: Sequence[str] = (),
    resources: Mapping[str, Any] = MappingProxyType({}),
) -> ClusterSpec:
    """Return the cluster of a name, as the cluster file, the environment and overrides say.

    The file is `path`, or the one that HPO_CLUSTERS names, or ./clusters.toml, or
    ~/.config/hpo/clusters.toml. Over it stand the resources that a study asks for, over these
    variables such as HPO_SLURM_PARTITION, and over these the overrides. The cluster `default` is
    always there: SLURM's defaults and 4 GB.

    Parameters
    ----------
    name
        A section of the file. None is `default`, or the only section there is.
    path
        The cluster file.
    overrides
        `key=value` texts, also `extra.option=value`.
    resources
        Fields that a study asks for. Memory is not among what it gets where a section says
        `memory_by_site`.

    Raises
    ------
    ClusterError
        With file, key, rule and value of everything that is wrong.
    """
    file = _find_file(path)
    sections = {} if file is None else _read(file)
    source = "built-in cluster" if file is None else str(file)
    if name is None:
        name = next(iter(sections)) if len(sections) == 1 else "default"
    if name not in sections and name != "default":
        hint = suggest(name, {*sections, "default"})
        where = f"{source}: " if file else f"no {FILE_NAME} here or in ~/.config/hpo: "
        raise ClusterError(f"{where}no cluster '{name}'; {hint}")
    raw = dict(sections.get(name, {}))
    _overlay(
        raw,
        {
            key: value
            for key, value in resources.items()
            if key not in MEMORY or not raw.get("memory_by_site")
        },
    )
    _overlay(raw, _read_environment())
    _overlay(raw, _read_overrides(overrides, raw.get("extra", {})))
    return _validate(name, raw, source)


def restore_cluster(stored: Mapping[str, Any]) -> ClusterSpec:
    """Return a cluster that was written down as JSON, by this version or an earlier one."""
    raw = {_RENAMED.get(key, key): value for key, value in stored.items()}
    others = []
    for item in (raw.get("gres") or "").split(","):
        if found := re.fullmatch(r"gpu(?::([A-Za-z][\w.-]*))?(?::(\d+))?", item):
            raw |= {"gpu_type": found[1], "gpus_per_worker": float(found[2] or 1)}
        elif item:
            others.append(item)
    return ClusterSpec.model_validate({**raw, "gres": ",".join(others) or None})


def parse_time(text: str) -> int:
    """Return seconds of `D-HH:MM:SS`, `D-HH:MM`, `D-HH`, `HH:MM:SS` or minutes.

    Raises
    ------
    ValueError
        If it is none of these; `3:00`, which SLURM takes for minutes, is refused.
    """
    if match := re.fullmatch(r"(\d{1,9})", text):
        seconds = 60 * int(match[1])
    elif match := re.fullmatch(r"(?:(\d{1,9})-)?(\d{1,9}):([0-5]?\d):([0-5]?\d)", text):
        days, hours, minutes, rest = (int(group or 0) for group in match.groups())
        seconds = ((24 * days + hours) * 60 + minutes) * 60 + rest
    elif match := re.fullmatch(r"(\d{1,9})-(\d{1,9})(?::([0-5]?\d))?", text):
        days, hours, minutes = (int(group or 0) for group in match.groups())
        seconds = ((24 * days + hours) * 60 + minutes) * 60
    else:
        raise ValueError(f"must be D-HH:MM:SS, HH:MM:SS or minutes, got '{text}'")
    if seconds == 0:
        raise ValueError(f"must be longer than nothing, got '{text}'")
    return seconds


def render_time(seconds: int) -> str:
    """Return seconds as SLURM writes them: `HH:MM:SS`, or `D-HH:MM:SS` from a day on."""
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02d}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _find_file(path: Path | None) -> Path | None:
    if path is not None:
        return path
    if named := os.environ.get(FILE_VARIABLE):
        return _expand(Path(named))
    for place in (Path(FILE_NAME), _expand(Path("~/.config/hpo")) / FILE_NAME):
        if place.is_file():
            return place
    return None


def _expand(path: Path) -> Path:
    """Return a path with its `~` replaced, or as it is where there is no such home."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise ClusterError(f"{path}: must be a file, and is a device, pipe or socket")
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ClusterError(f"{path}: must have {MAX_BYTES / 1e6:g} MB at most, and has more")
        is_wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        raw = tomllib.loads(data.decode("utf-16" if is_wide else "utf-8-sig"))
    except OSError as exc:
        raise ClusterError(f"{path}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ClusterError(
            f"{path}: not {exc.encoding.upper()} text: {exc.reason} at byte {exc.start}"
        ) from exc
    except (RecursionError, ValueError) as exc:
        what = "nested too deeply" if isinstance(exc, RecursionError) else str(exc)
        raise ClusterError(f"{path}: not valid TOML: {what}") from exc
    for key, value in raw.items():
        if not isinstance(value, dict):
            raise ClusterError(f"{path}: {key}: must stand in a section, as in [mycluster]")
    return raw


def _overlay(raw: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Set the fields of a layer that stands over what there is."""
    if any(key in layer for key in MEMORY):
        for key in MEMORY:
            raw.pop(key, None)
    raw.update(layer)


def _read_environment() -> dict[str, Any]:
    layer = {}
    for variable, text in os.environ.items():
        if not variable.startswith(FIELD_VARIABLE) or not text:
            continue
        key = variable.removeprefix(FIELD_VARIABLE).lower()
        if key in _RENAMED:
            now = f"{FIELD_VARIABLE}{_RENAMED[key].upper()}"
            raise ClusterError(f"{variable}: is called {now} now, got '{text}'")
        if key not in FIELDS:
            known = [f"{FIELD_VARIABLE}{field.upper()}" for field in FIELDS]
            raise ClusterError(f"{variable}: unknown variable; {suggest(variable, known)}")
        layer[key] = _value(key, text)
    return layer


def _read_overrides(overrides: Sequence[str], extra: Any) -> dict[str, Any]:
    layer: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        field, dot, option = key.strip().partition(".")
        if not equals or not field:
            raise ClusterError(f"{override}: must be key=value, as in partition=long")
        if not dot:
            layer[field] = _value(field, text)
        elif field == "extra":
            layer["extra"] = {**layer.get("extra", extra), option: _value(option, text)}
        else:
            raise ClusterError(f"{override}: '{field}' is a value, not a section")
    return layer


def _value(key: str, text: str) -> Any:
    """Return what a text says: words for a field of words, or else TOML where it is TOML."""
    field = ClusterSpec.model_fields.get(key)
    words = {Line, Word} & set(get_args(field.annotation)) if field else set()
    if key == "partition" or words:
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (RecursionError, ValueError):
        return text


def _validate(name: str, raw: Mapping[str, Any], source: str) -> ClusterSpec:
    lines = [
        f"{key}: is called {_RENAMED[key]} now, got {value!r}"
        if key in _RENAMED
        else f"{key}: unknown key; {suggest(key, FIELDS)}"
        for key, value in raw.items()
        if key not in FIELDS
    ]
    known = {key: value for key, value in raw.items() if key in FIELDS}
    try:
        # JSON mode: strict, and still a list is a tuple.
        text = json.dumps({"name": name, **known}, default=str)
        spec = ClusterSpec.model_validate_json(text, strict=True)
    except ValidationError as exc:
        lines += [_describe(error) for error in exc.errors()]
    except (RecursionError, ValueError):
        # Sections within sections, or integers that Python does not even write.
        lines.append("a value is nested too deeply, or too large a number")
    if lines:
        unique = [*dict.fromkeys(lines)][:MAX_LINES]
        raise ClusterError("\n".join(f"{source}: [{name}] {line}" for line in unique))
    return spec


def _describe(error: Any) -> str:
    """Return `key: rule, got value` for one pydantic error."""
    location = ".".join(str(part) for part in error["loc"][:2])
    rule = error["msg"].removeprefix("Value error, ")
    got = repr(error["input"])[:MAX_QUOTED]
    if error["type"] == "string_pattern_mismatch":
        rule = "one word" if location == "gpu_type" else "one line of text"
        return f"{location}: must be {rule}, got {got}"
    if error["type"] == "value_error":
        return f"{location}: {rule}" if location else rule
    return f"{location}: {rule[0].lower()}{rule[1:]}, got {got}"
