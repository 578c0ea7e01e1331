"""The shape of a job: how many workers share it, and what each of them gets of its nodes."""

from __future__ import annotations

import math
import re
from typing import Annotated, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

# One line, as it stands in a script that a shell and sbatch read.
Line = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+$")]
Word = Annotated[str, StringConstraints(pattern=r"^[\w.-]+$")]
# Of these one alone is said: whoever says another one takes the place of all.
MEMORY = ("memory_gb", "memory_per_cpu_gb", "memory_by_site")
DEFAULT_MEMORY_GB = 4.0


class JobShape(BaseModel):
    """What a job is asked for, by what its workers need.

    Attributes
    ----------
    workers_per_job
        How many workers share a job, and with it its memory.
    cpus_per_worker, gpus_per_worker
        Of each worker. Below 1, several workers share a GPU: 0.5 is two of them, and 0.4 too.
    gpu_type
        As the site names it, such as `a100`; None is any.
    nodes_per_trial
        Above 1 a job has so many nodes and one worker, on the first of them, whose objective runs
        on all of them by its own `srun`. CPUs, GPUs and memory are then those of each node.
    memory_gb, memory_per_cpu_gb, memory_by_site
        One of the three: of a job, for each CPU, or not asked for at all, where the site forbids
        that. If none is said, 4 GB for each worker of a job.
    gres
        Other generic resources than GPUs, as in `lustre:1`.
    exclusive
        Have nodes alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    workers_per_job: int = Field(1, ge=1, le=10_000)
    cpus_per_worker: int = Field(1, ge=1, le=10_000)
    gpus_per_worker: float = Field(0.0, ge=0, le=1024, allow_inf_nan=False)
    gpu_type: Word | None = None
    nodes_per_trial: int = Field(1, ge=1, le=100_000)
    memory_gb: float | None = Field(None, gt=0, le=1e6, allow_inf_nan=False)
    memory_per_cpu_gb: float | None = Field(None, gt=0, le=1e6, allow_inf_nan=False)
    memory_by_site: bool = False
    gres: Line | None = None
    exclusive: bool = False

    @property
    def cpus_per_job(self) -> int:
        """CPUs of all workers of a job; with several nodes, on each of them."""
        return self.workers_per_job * self.cpus_per_worker

    @property
    def gpus_per_job(self) -> int:
        """GPUs of all workers of a job; with several nodes, on each of them."""
        if self.gpus_per_worker >= 1 or not self.gpus_per_worker:
            return self.workers_per_job * int(self.gpus_per_worker)
        workers_per_gpu = int(1.0 / self.gpus_per_worker + 1e-9)
        return math.ceil(self.workers_per_job / workers_per_gpu)

    @property
    def memory_per_job_gb(self) -> float | None:
        """Memory that is asked for as a whole; None if it is not."""
        if self.memory_per_cpu_gb is not None or self.memory_by_site:
            return None
        if self.memory_gb is not None:
            return self.memory_gb
        return DEFAULT_MEMORY_GB * self.workers_per_job

    @field_validator("gpus_per_worker")
    @classmethod
    def _check_gpus(cls, gpus: float) -> float:
        if (gpus > 1 and gpus != int(gpus)) or 0 < gpus < 0.001:
            raise ValueError(
                f"must be a whole number, or a fraction of one GPU from 0.001 on, got {gpus:g}"
            )
        return gpus

    @field_validator("gres")
    @classmethod
    def _check_gres(cls, gres: str | None) -> str | None:
        if gres and any(re.match(r"(gres[:/])?gpu\b", item) for item in gres.split(",")):
            raise ValueError(
                f"GPUs are asked for by gpus_per_worker and, if need be, gpu_type, got '{gres}'"
            )
        return gres

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        said = [key for key in MEMORY if getattr(self, key)]
        if len(said) > 1:
            raise ValueError(f"one of {', '.join(MEMORY)} is enough, got {' and '.join(said)}")
        if self.nodes_per_trial > 1 and self.workers_per_job > 1:
            raise ValueError(
                f"workers_per_job must be 1 with nodes_per_trial {self.nodes_per_trial}, got"
                f" {self.workers_per_job}"
            )
        if self.gpu_type and not self.gpus_per_worker:
            raise ValueError(f"gpu_type '{self.gpu_type}' needs gpus_per_worker, got 0")
        return self
