"""The queue, nodes and settings of SLURM, from squeue and scontrol; no accounting needed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from slurm.calls import TIMEOUT_S, call
from slurm.errors import SlurmError

# A job in any other state is in the queue, runs, or is on its way out or back.
OVER = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "LAUNCH_FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    }
)
# Control characters, which no name or comment of ours can hold.
_UNIT, _RECORD = "\x1f", "\x1e"
_COLUMNS = (
    "JobArrayID",
    "JobID",
    "State",
    "Reason",
    "NodeList",
    "RestartCnt",
    "Name",
    "Partition",
    "TimeLeft",
    "Comment",
)


@dataclass(frozen=True)
class QueuedJob:
    """One job, or one job of an array, as squeue shows it.

    Attributes
    ----------
    job_id
        As `12`, or `12_3` in an array; what scancel and scontrol understand.
    raw_id
        SLURM_JOB_ID; the jobs of an array that have never run still share one.
    state
        As SLURM names it. A requeued job is PENDING again, with `restarts` grown by one.
    reason
        Why it waits, or why it ended; None if SLURM gives none.
    node
        Where it runs; None before.
    restarts
        How often it has been requeued.
    comment
        The id that the submission gave it; None without one.
    left_s
        Seconds until the time limit; None if there is no limit or it has not begun.
    """

    job_id: str
    raw_id: str
    state: str
    reason: str | None
    node: str | None
    restarts: int
    name: str
    partition: str
    left_s: int | None
    comment: str | None

    @property
    def active(self) -> bool:
        """Whether it runs, or may still come to run."""
        return self.state not in OVER


@dataclass(frozen=True)
class Site:
    """What a site allows, and how it ends jobs.

    Attributes
    ----------
    max_array
        Largest job array.
    accounting
        Whether sacct can answer.
    kill_wait_s
        Between SIGTERM and SIGKILL.
    preempt_mode
        What happens to preempted jobs, as in REQUEUE, CANCEL or OFF.
    """

    cluster: str
    version: str
    max_array: int
    accounting: bool
    kill_wait_s: int
    preempt_mode: str


def list_jobs(comment: str | None = None) -> list[QueuedJob]:
    """Return one's own jobs that squeue still knows, of one comment or all.

    Jobs that are over are among them for some minutes (MinJobAge), and then no more.

    Raises
    ------
    UnreachableError
        If SLURM cannot be asked. An empty list means that there are no jobs.
    """
    columns = ",".join(f"{name}:{_UNIT}" for name in _COLUMNS[:-1])
    text = call(
        "squeue", "--noheader", "--me", "--array", "--states=all",
        f"--Format={columns},{_COLUMNS[-1]}:{_RECORD}",
    )  # fmt: skip
    jobs = [_read_job(record) for record in text.split(_RECORD) if record.strip()]
    return [job for job in jobs if comment is None or job.comment == comment]


def node_hosts(partition: str | None = None) -> set[str]:
    """Return the host names of the nodes of a partition (or of several, joined by commas).

    Raises
    ------
    UnreachableError
        If SLURM cannot be asked.
    """
    wanted = set(partition.split(",")) if partition else None
    hosts = set()
    for line in call("scontrol", "show", "node", "--oneliner").splitlines():
        host = re.search(r"\bNodeHostName=(\S+)", line)
        found = re.search(r"\bPartitions=(\S+)", line)
        if host and (wanted is None or (found and wanted & set(found[1].split(",")))):
            hosts.add(host[1])
    return hosts


def versions_and_limits(timeout_s: float = TIMEOUT_S) -> Site:
    """Return what `scontrol show config` says of the site.

    Parameters
    ----------
    timeout_s
        How long to wait for the answer.

    Raises
    ------
    UnreachableError
        If SLURM cannot be asked.
    """
    pairs = re.findall(
        r"(?m)^(\w+)\s*= (.*)$", call("scontrol", "show", "config", timeout_s=timeout_s)
    )
    values = {key: value.strip() for key, value in pairs}
    return Site(
        cluster=values.get("ClusterName", ""),
        version=values.get("SLURM_VERSION", ""),
        max_array=_number(values, "MaxArraySize"),
        accounting=values.get("AccountingStorageType", "").endswith("slurmdbd"),
        kill_wait_s=_number(values, "KillWait"),
        preempt_mode=values.get("PreemptMode", "OFF"),
    )


def _number(values: dict[str, str], key: str) -> int:
    found = re.match(r"\d+", values.get(key, ""))
    if found is None:
        raise SlurmError(f"scontrol show config: {key} must be a number, got {values.get(key)!r}")
    return int(found[0])


def _read_job(record: str) -> QueuedJob:
    fields = [field.strip() for field in record.split(_UNIT)]
    if len(fields) != len(_COLUMNS):
        raise SlurmError(f"squeue: must print {len(_COLUMNS)} fields, got {record!r}")
    job_id, raw_id, state, reason, node, restarts, name, partition, left, comment = fields
    return QueuedJob(
        job_id=job_id,
        raw_id=raw_id,
        state=state,
        reason=None if reason in ("", "None") else reason,
        node=None if node in ("", "(null)") else node,
        restarts=int(restarts) if restarts.isdigit() else 0,
        name=name,
        partition=partition,
        left_s=_read_left(left),
        comment=None if comment in ("", "(null)") else comment,
    )


def _read_left(text: str) -> int | None:
    """Seconds of squeue's `D-HH:MM:SS`, `H:MM:SS` or `M:SS`; None for UNLIMITED and the like."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(group or 0) for group in found.groups())
    return ((24 * days + hours) * 60 + minutes) * 60 + seconds
