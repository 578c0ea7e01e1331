"""Cores and memory that this process may use, as its control groups allow."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_MEMORY = Path("/proc/meminfo")
_NAME = Path("/proc/self/comm")
_STAT = Path("/proc/self/stat")
# Version 1 writes "no limit" as the largest whole page that fits.
_NO_LIMIT_BYTES = 1 << 60


@dataclass(frozen=True)
class Cores:
    """How many cores there are to work on.

    Attributes
    ----------
    machine
        Cores of the machine.
    allowed
        Those that this process may run on.
    quota
        Cores' worth of time that its control groups grant, or None without a limit.
    """

    machine: int
    allowed: int
    quota: float | None

    @property
    def usable(self) -> int:
        """Return how many workers can run at full speed, at least 1."""
        return max(1, self.allowed if self.quota is None else min(self.allowed, int(self.quota)))


def name_process(name: str) -> None:
    """Give this process the name, up to 15 bytes, that `top` and `ps` show; Linux alone has it.

    Without spaces: SLURM reads names from where they would look like further columns, and does not
    find the processes of a job any more.
    """
    with contextlib.suppress(OSError):
        _NAME.write_text(name, encoding="ascii")


def rewrite_arguments(shown: Sequence[str]) -> None:
    """Let `ps` show other arguments of this process than it was given; Linux alone has it.

    Each is cut or filled up to the length of the one whose place it takes. The first milliseconds
    of a process cannot be helped.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        # What a process is called stands in parentheses, whatever it is.
        fields = _STAT.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        begin, end = int(fields[45]), int(fields[46])
        given = ctypes.string_at(begin, end - begin).rstrip(b"\0").split(b"\0")
        texts = [os.fsencode(text) for text in shown]
        kept = given[: len(given) - len(texts)]
        lengths = [len(text) for text in given[len(kept) :]]
        new = [text.ljust(n)[:n] for text, n in zip(texts, lengths, strict=True)]
        block = b"\0".join([*kept, *new])
        ctypes.memmove(begin, block, len(block))


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Spare the garbage collector what is imported in this block: it stays until the end."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def cores() -> Cores:
    """Return how many cores this process may use."""
    return Cores(os.cpu_count() or 1, len(allowed_cpus()), cpu_quota())


def allowed_cpus() -> list[int]:
    """Return the numbers of the cores that this process may run on."""
    # Not every system lets processes be tied to cores.
    if not hasattr(os, "sched_getaffinity"):
        return list(range(os.cpu_count() or 1))
    return sorted(os.sched_getaffinity(0))


def cpu_quota(root: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> float | None:
    """Return the cores' worth of time that the control groups grant, or None without a limit."""
    limits = []
    for folder in _groups("cpu", root, membership):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if not quota:
            quota = _read(folder / "cpu.cfs_quota_us")
            period = _read(folder / "cpu.cfs_period_us")
        # "max" and -1 stand for no limit.
        if quota.isdecimal() and period.isdecimal() and int(period) > 0:
            limits.append(int(quota) / int(period))
    return min(limits, default=None)


def memory_left(root: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> int | None:
    """Return what the control groups leave of their limit, bytes; None without a limit."""
    left = []
    for folder in _groups("memory", root, membership):
        for limit_file, used_file in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, used = _read(folder / limit_file), _read(folder / used_file)
            if limit.isdecimal() and used.isdecimal() and int(limit) < _NO_LIMIT_BYTES:
                # What is used includes files that the kernel keeps and gives back when asked.
                left.append(int(limit) - int(used) + _reclaimable(folder))
    return min(left, default=None)


def memory_available(table: Path = _MEMORY) -> int | None:
    """Return the memory that the machine can still give, bytes; None if it does not say."""
    for line in _read(table).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _reclaimable(folder: Path) -> int:
    for line in _read(folder / "memory.stat").splitlines():
        key, _, value = line.partition(" ")
        if key in ("inactive_file", "total_inactive_file") and value.isdecimal():
            return int(value)
    return 0


def _groups(controller: str, root: Path, membership: Path) -> Iterator[Path]:
    """Yield the folders of the groups that this process is in, innermost first.

    Within a container the named folder need not be there; those above it are looked at anyway.
    """
    for line in _read(membership).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if number == "0" and not controllers:
            base = root
        elif controller in controllers.split(","):
            base = root / controller
        else:
            continue
        folder = base / name.lstrip("/")
        yield folder
        yield from (above for above in folder.parents if above.is_relative_to(base))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
