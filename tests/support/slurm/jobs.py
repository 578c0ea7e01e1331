"""What the SLURM tests submit, and run inside jobs; imported there by name."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import time
from pathlib import Path

from slurm.cluster import ClusterSpec
from slurm.submit import current_job, requeue_self

SMALL = ClusterSpec(name="small", memory_gb=0.1, max_array=50)


def write_job(folder: Path) -> None:
    """Write what the job knows of itself."""
    job = current_job()
    assert job is not None
    (folder / f"{job.job_id}.json").write_text(json.dumps(dataclasses.asdict(job)))


def write_signals(folder: Path) -> None:
    """Write the first signal that comes, and leave."""
    job = current_job()
    assert job is not None
    caught: list[int] = []
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, lambda number, frame: caught.append(number))
    _append(folder / f"{job.job_id}.ready", job.node or "")
    while not caught:
        time.sleep(0.02)
    _append(folder / f"{job.job_id}.signal", signal.Signals(caught[0]).name)


def run_on_all_nodes(folder: Path) -> None:
    """Run programs by srun as an objective does: one on each node, and one on each CPU."""
    job = current_job()
    assert job is not None
    # 22.05 and later do not hand the CPUs of a task on.
    name = ["printenv", "SLURMD_NODENAME"]
    lines = []
    for options in (["--cpus-per-task=4"], ["--ntasks=12", "--cpus-per-task=1"]):
        done = subprocess.run(["srun", *options, *name], stdout=subprocess.PIPE, text=True)
        lines.append(" ".join(done.stdout.split()))
    (folder / f"{job.job_id}.done").write_text("\n".join([*lines, job.node or ""]) + "\n")


def requeue_once(folder: Path) -> None:
    """Go back into the queue the first time, and finish the second time."""
    job = current_job()
    assert job is not None
    _append(folder / f"{job.job_id}.restarts", str(job.restarts))
    if job.restarts == 0 and job.job_id.endswith("_1"):
        requeue_self()
        time.sleep(60)


def _append(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(f"{line}\n")
