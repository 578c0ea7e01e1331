"""Workers and launchers of a study, and whom a fault may have killed or silenced."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import psutil

from hpo.system.processes import WORKER_VARIABLE

# In the environment of whatever a test starts, and so of all that is started by that.
MARK = "HPO_TEST_STUDY"


@dataclass(frozen=True)
class Program:
    """A process of a study: a worker, a launcher, or what a worker has started.

    Attributes
    ----------
    job, task
        Raw id of its SLURM job, and its id as a task of an array, such as 12_3; "" outside of one.
    node
        The node that it runs on; "" outside of a job.
    """

    pid: int
    parent: int
    name: str
    job: str
    task: str
    node: str
    stopped: bool


def find_programs(mark: str) -> list[Program]:
    """Return the processes that live and have this mark, or are workers or children of such."""
    found = []
    for pid in psutil.pids():
        try:
            variables = dict(
                item.split("=", 1)
                for item in Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
                if "=" in item
            )
            if variables.get(MARK) != mark or pid == os.getpid():
                continue
            with (process := psutil.Process(pid)).oneshot():
                status = process.status()
                if status == psutil.STATUS_ZOMBIE:
                    continue
                name = process.name() if WORKER_VARIABLE not in variables else "of a worker"
                found.append(
                    Program(
                        pid,
                        process.ppid(),
                        name,
                        variables.get("SLURM_JOB_ID", ""),
                        "{}_{}".format(
                            variables.get("SLURM_ARRAY_JOB_ID", ""),
                            variables.get("SLURM_ARRAY_TASK_ID", ""),
                        ),
                        variables.get("SLURMD_NODENAME", ""),
                        status == psutil.STATUS_STOPPED,
                    )
                )
        except (OSError, psutil.Error):
            continue
    return found


def workers_of(programs: Collection[Program]) -> list[Program]:
    """Return the workers, in the order of their process ids."""
    return sorted((p for p in programs if p.name == "hpo-worker"), key=lambda p: p.pid)


class Struck:
    """Process ids of the workers that a fault may have killed or silenced."""

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.pids: set[int] = set()
        # Whose processes SLURM has lost: it takes them for ended, whatever they start later.
        self.lost_jobs: set[str] = set()

    def workers(self) -> list[Program]:
        """Return the workers that live."""
        return workers_of(find_programs(self.mark))

    def strike(
        self, *, launchers: Collection[int] = (), jobs: Collection[str] = (), node: str = ""
    ) -> list[Program]:
        """Note the workers of launchers, of jobs or of a node, and return them."""
        hit = [
            worker
            for worker in self.workers()
            if worker.parent in launchers
            or worker.job in jobs
            or worker.task in jobs
            or (node != "" and worker.node == node)
        ]
        self.pids |= {worker.pid for worker in hit}
        return hit


def _of_ours(mark: str) -> list[Program]:
    # An srun goes on waiting for a step whose slurmstepd was killed: that is SLURM's affair.
    return [program for program in find_programs(mark) if program.name != "srun"]


def wait_until_gone(mark: str, within_s: float) -> list[str]:
    """Return what is left of a study after a while; stopped processes count as well."""
    deadline = time.monotonic() + within_s
    while (left := _of_ours(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return [f"{program.name} {program.pid} of {program.parent}" for program in left]
