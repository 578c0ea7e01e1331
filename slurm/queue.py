"""The queue, nodes and settings of SLURM, from squeue and scontrol; no accounting needed."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from slurm.calls import TIMEOUT_S, call
from slurm.errors import SlurmError, UnreachableError
from slurm.scheduler import NOTHING_EXPECTED, OVER, QueuedJob

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


def list_jobs(
    comment: str | None = None, expected: Mapping[str, str | None] = NOTHING_EXPECTED
) -> list[QueuedJob]:
    """Return one's own jobs that squeue still knows, of one comment or all.

    Jobs that are over are among them for some minutes (MinJobAge), and then no more.

    Parameters
    ----------
    expected
        Jobs that may be there, with their comments, or None where those are not known. Of one that
        squeue does not list, or lists with another comment, scontrol is asked as well.

    Raises
    ------
    UnreachableError
        If SLURM cannot be asked, or squeue's answer is cut, in another form, or not what scontrol
        says. An empty list means that there are no jobs.
    """
    columns = ",".join(f"{name}:{_UNIT}" for name in _COLUMNS[:-1])
    text = call(
        "squeue", "--me", "--array", "--states=all", f"--Format={columns},{_COLUMNS[-1]}:{_RECORD}"
    )
    jobs = _read_queue(text)
    _require_expected(jobs, expected)
    return [job for job in jobs if comment is None or job.comment == comment]


def _read_queue(text: str) -> list[QueuedJob]:
    """Return the jobs of squeue's answer, which begins with a line of titles even without jobs."""
    *records, rest = text.split(_RECORD)
    rows = [[field.strip() for field in record.split(_UNIT)] for record in records]
    if rest.strip() or not rows or any(len(row) != len(_COLUMNS) for row in rows):
        shown = text if len(text) <= 80 else f"{text[:40]} … {text[-40:]}"
        raise UnreachableError(
            f"squeue: the answer must be titles and jobs of {len(_COLUMNS)} fields, and is cut or"
            f" in another form: {shown!r}; try again later"
        )
    return [_read_job(row) for row in rows[1:]]


def _require_expected(jobs: Sequence[QueuedJob], expected: Mapping[str, str | None]) -> None:
    """Refuse an answer of squeue that lacks jobs, or their comments, which scontrol shows."""
    listed = {job.job_id: job for job in jobs}
    doubtful: defaultdict[str, list[str]] = defaultdict(list)
    for job_id, comment in expected.items():
        job = listed.get(job_id)
        if job is None or (comment is not None and job.comment != comment):
            doubtful[job_id.partition("_")[0]].append(job_id)
    for array_id, job_ids in doubtful.items():
        shown = _show_jobs(array_id)
        for job_id in job_ids:
            # An id may have been used again, and somebody else's job is not in our queue.
            comment = expected[job_id]
            if job_id in shown and comment in (None, shown[job_id].comment):
                how = "without its comment" if job_id in listed else "not at all"
                raise UnreachableError(
                    f"squeue: scontrol shows job {job_id} as {shown[job_id].state}, and squeue"
                    f" lists it {how}: its answer is not whole; try again later"
                )


class _ShownJob(NamedTuple):
    """What scontrol says of a job of one's own that is not over."""

    state: str
    comment: str | None


def _show_jobs(array_id: str) -> dict[str, _ShownJob]:
    """Return one's own jobs with this id, or in this array, that are not over, by their ids."""
    try:
        text = call("scontrol", "show", "job", array_id)
    except UnreachableError:
        raise
    except SlurmError as exc:
        if "invalid job id" in str(exc).lower():
            return {}
        raise
    found: dict[str, _ShownJob] = {}
    for record in re.split(r"\n\s*\n", text):
        fields = dict(
            re.findall(r"(?m)(?:^| )(JobId|ArrayJobId|ArrayTaskId|JobState)=(\S+)", record)
        )
        user = re.search(r"\bUserId=[^\s(]*\((\d+)\)", record)
        comment = re.search(r"(?m)^\s+Comment=(.*?)\s*$", record)
        if user is None or int(user[1]) != os.getuid() or fields.get("JobState") in OVER:
            continue
        shown = _ShownJob(fields.get("JobState", ""), comment[1] if comment else None)
        found |= dict.fromkeys(_ids_of(fields), shown)
    return found


def _ids_of(fields: Mapping[str, str]) -> list[str]:
    """Return the ids of a record of scontrol; jobs of an array that wait share one: `0-3,7`."""
    if "ArrayTaskId" not in fields:
        return [fields["JobId"]]
    tasks: list[int] = []
    for part in fields["ArrayTaskId"].partition("%")[0].split(","):
        if numbers := re.fullmatch(r"(\d+)(?:-(\d+))?(?::(\d+))?", part):
            first, last, step = numbers.groups()
            tasks += range(int(first), int(last or first) + 1, int(step or 1))
    return [f"{fields['ArrayJobId']}_{task}" for task in tasks]


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


def _read_job(fields: Sequence[str]) -> QueuedJob:
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
