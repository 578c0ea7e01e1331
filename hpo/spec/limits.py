"""What a study's workers need and what its trials may take; no part of what makes it that study."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from hpo.records import OnLimit
from hpo.spec.base import Section


class ResourcesSpec(Section):
    """What the workers of the study need, wherever it runs; what is None is left to the cluster.

    It is no part of what makes the study that study. On a cluster it stands over the section of
    the cluster file: `slurm.shape.JobShape` says what each of them means.
    """

    workers_per_job: int | None = Field(None, ge=1, le=10_000)
    cpus_per_worker: int | None = Field(None, ge=1, le=10_000)
    gpus_per_worker: float | None = Field(None, ge=0, le=1024, allow_inf_nan=False)
    memory_gb: float | None = Field(None, gt=0, le=1e6, allow_inf_nan=False)
    memory_per_cpu_gb: float | None = Field(None, gt=0, le=1e6, allow_inf_nan=False)
    nodes_per_trial: int | None = Field(None, ge=1, le=100_000)

    @property
    def asked(self) -> dict[str, int | float]:
        """What the study asks for, by name."""
        return self.model_dump(exclude_none=True)

    @model_validator(mode="after")
    def _check(self) -> Self:
        gpus = self.gpus_per_worker
        if gpus and ((gpus > 1 and gpus != int(gpus)) or gpus < 0.001):
            raise ValueError(
                "gpus_per_worker must be a whole number, or a fraction of one GPU from 0.001 on, "
                f"got {gpus:g}"
            )
        if self.memory_gb is not None and self.memory_per_cpu_gb is not None:
            raise ValueError(
                f"one of memory_gb and memory_per_cpu_gb is enough, got {self.memory_gb:g} and "
                f"{self.memory_per_cpu_gb:g}"
            )
        nodes, workers = self.nodes_per_trial or 1, self.workers_per_job or 1
        if nodes > 1 and workers > 1:
            raise ValueError(
                f"workers_per_job must be 1 with nodes_per_trial {nodes}, got {workers}"
            )
        return self


class LimitsSpec(Section):
    """What a trial, and the study, may take; whatever exceeds a limit is ended from outside.

    Attributes
    ----------
    trial_s, attempt_s, part_s
        Time of a trial in all, of one attempt by one worker, and of one part.
    memory_gb
        Memory of a worker and the programs that it started, while a trial runs.
    output_mb
        What a worker may print during a trial.
    on_exceeded, retries
        What becomes of a trial that exceeded one of these: it is failed, pruned, or tried again up
        to `retries` times and then failed.
    max_attempts
        How many attempts in a row may end without a part being stored, whatever ended them.
    study_s, patience
        No new trials begin once workers have worked on the study for so long, or once so many
        trials in a row were completed without a better one.
    """

    trial_s: float | None = Field(None, gt=0, allow_inf_nan=False)
    attempt_s: float | None = Field(None, gt=0, allow_inf_nan=False)
    part_s: float | None = Field(None, gt=0, allow_inf_nan=False)
    memory_gb: float | None = Field(None, gt=0, allow_inf_nan=False)
    output_mb: float = Field(100.0, gt=0, allow_inf_nan=False)
    on_exceeded: OnLimit = OnLimit.FAIL
    retries: int = Field(0, ge=0)
    max_attempts: int = Field(10, ge=1)
    study_s: float | None = Field(None, gt=0, allow_inf_nan=False)
    patience: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.retries and self.on_exceeded is not OnLimit.RETRY:
            raise ValueError(f"retries belongs to on_exceeded = 'retry', got '{self.on_exceeded}'")
        if self.on_exceeded is OnLimit.RETRY and not self.retries:
            raise ValueError("on_exceeded = 'retry' needs retries, such as retries = 1")
        return self
