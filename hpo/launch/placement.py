"""Where workers run on a machine: threads, cores and GPUs of each."""

from __future__ import annotations

import argparse
import itertools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hpo.errors import HpoError
from hpo.spec.limits import ResourcesSpec
from hpo.system.resources import allowed_cpus
from hpo.wording import count_of

_DEVICES = Path("/dev")
MAX_GPUS = 1024


class PlacementError(HpoError):
    """A machine, or a job, has not what its workers are to get."""


class Share(NamedTuple):
    """Cores and GPUs of each worker; a half is one GPU for two workers."""

    cpus: int
    gpus: float


ONE_CORE = Share(1, 0.0)


@dataclass(frozen=True)
class Place:
    """What one of the workers of a launcher gets.

    Attributes
    ----------
    threads
        Of numerical libraries, and of the programs that it starts.
    cpus
        Cores that it is tied to; none if it may run on all.
    environment
        Variables that name its GPUs.
    """

    threads: int = 1
    cpus: tuple[int, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def share_of(resources: ResourcesSpec, cpus: int | None = None, gpus: float | None = None) -> Share:
    """Return what each worker gets: as somebody says, or as the study asks, or one core."""
    return Share(
        cpus or resources.cpus_per_worker or 1,
        gpus if gpus is not None else resources.gpus_per_worker or 0.0,
    )


def make_places(workers: int, share: Share = ONE_CORE, *, tied: bool = False) -> list[Place]:
    """Divide the cores and GPUs of this process among workers.

    Parameters
    ----------
    tied
        Whether a worker runs on cores of its own, where there are enough: in a job, whose cores
        nobody else uses.

    Raises
    ------
    PlacementError
        If there are not enough GPUs.
    """
    allowed, (cpus, gpus) = allowed_cpus(), share
    tied = tied and workers * cpus <= len(allowed)
    variable, names = find_gpus() if gpus else ("", [])
    if gpus and _last_gpu(workers, gpus) >= len(names):
        named = f"{variable}={','.join(names)}" if names else "no GPU was found"
        needed = count_of(_last_gpu(workers, gpus) + 1, "GPU")
        raise PlacementError(
            f"gpus_per_worker = {gpus:g} for {count_of(workers, 'worker')}: {needed} needed, "
            f"got {len(names)} ({named})"
        )
    return [
        Place(
            threads=cpus,
            cpus=tuple(allowed[slot * cpus : (slot + 1) * cpus]) if tied else (),
            environment={variable: ",".join(_gpus_of(slot, gpus, names))} if gpus else {},
        )
        for slot in range(workers)
    ]


def gpu_share(text: str) -> float:
    """Read how many GPUs a worker gets: a whole number, or a part of one.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is neither.
    """
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= MAX_GPUS or (share > 1.0 and not share.is_integer()):
        raise argparse.ArgumentTypeError(
            f"must be a whole number of GPUs or a part of one, such as 0.5, got '{text}'"
        )
    return share


def find_gpus(devices: Path = _DEVICES) -> tuple[str, list[str]]:
    """Return the variable that names the GPUs of this process, and their names in it.

    What the variable says is all that may be used; without it, what the machine has.
    """
    for variable in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        if (told := os.environ.get(variable)) is not None:
            names = [name.strip() for name in told.split(",") if name.strip()]
            return variable, list(itertools.takewhile(_is_device, names))
    try:
        found = sorted(path.name for path in devices.iterdir())
    except OSError:
        found = []
    nvidia = [name for name in found if re.fullmatch(r"nvidia\d+", name)]
    if nvidia or "kfd" not in found:
        return "CUDA_VISIBLE_DEVICES", [str(number) for number in range(len(nvidia))]
    try:
        drawn = [path.name for path in (devices / "dri").iterdir()]
    except OSError:
        drawn = []
    rendering = [name for name in drawn if name.startswith("renderD")]
    return "ROCR_VISIBLE_DEVICES", [str(number) for number in range(len(rendering))]


def _is_device(name: str) -> bool:
    """Whether a name means a device; from the first one on that does not, none is visible."""
    return not name.startswith("-") and name != "NoDevFiles"


def _gpus_of(slot: int, gpus: float, names: list[str]) -> list[str]:
    if gpus < 1.0:
        return [names[slot // _sharing(gpus)]]
    return names[slot * int(gpus) : (slot + 1) * int(gpus)]


def _last_gpu(workers: int, gpus: float) -> int:
    if gpus < 1.0:
        return (workers - 1) // _sharing(gpus)
    return workers * int(gpus) - 1


def _sharing(gpus: float) -> int:
    """Return how many workers share a GPU."""
    return max(1, int(1.0 / gpus + 1e-9))
