"""What a job is asked for, and the lines of shell in it."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from slurm.cluster import ClusterSpec

# A line that fails inside a function or a sourced file is that file's own affair: `module load` and
# the like look for things that are not there. $0 is SLURM's copy of the script.
_WATCH_SETUP = """\
trap 'code=$?; if [ ${#BASH_SOURCE[@]} -eq 1 ]; then line=$(sed -n "${LINENO}p" "$0"); \
exit $code; fi' ERR
trap 'code=$?; echo "error: setup ended the job with exit code $code${line:+: $line}" >&2; \
exit $code' EXIT"""
_END_SETUP = "trap - ERR EXIT"


def setup_lines(cluster: ClusterSpec) -> list[str]:
    """Return the lines of shell before a job's command; one that fails ends the job.

    Its text and its exit code are then in what the job prints, and the job has that exit code.
    """
    if not cluster.setup:
        return []
    return [*_WATCH_SETUP.splitlines(), *cluster.setup, _END_SETUP]


def python_of(cluster: ClusterSpec) -> str:
    """Return the command that starts Python in a job, as shell."""
    return cluster.python or shlex.quote(sys.executable)


def sbatch_options(
    cluster: ClusterSpec, name: str, comment: str, *, exec_by_shell: bool
) -> dict[str, Any]:
    """Return the options of sbatch for one job of a cluster.

    Parameters
    ----------
    exec_by_shell
        The job's command takes the place of the batch shell, to which SLURM's warning has to go;
        otherwise it is a step that srun starts.
    """
    gpus = [cluster.gpu_type, str(cluster.gpus_per_job)] if cluster.gpus_per_job else []
    gres = [cluster.gres] if cluster.gres else []
    gres += [":".join(["gpu", *filter(None, gpus)])] if gpus else []
    shell = "B:" if exec_by_shell else ""
    options: dict[str, Any] = {
        "job-name": name,
        "comment": comment,
        "partition": cluster.partition,
        "time": cluster.time_limit,
        "nodes": cluster.nodes_per_trial,
        "ntasks-per-node": 1,
        "cpus-per-task": cluster.cpus_per_job,
        "gres": ",".join(gres) or None,
        "mem": _megabytes(cluster.memory_per_job_gb),
        "mem-per-cpu": _megabytes(cluster.memory_per_cpu_gb),
        "exclusive": cluster.exclusive or None,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "reservation": cluster.reservation,
        "nodelist": cluster.nodelist,
        "exclude": cluster.exclude,
        "nice": cluster.nice,
        "requeue" if cluster.requeue else "no-requeue": True,
        # Named here because a variable can make submitit send another signal.
        "signal": f"{shell}USR2@{cluster.leave_before_s}",
        "open-mode": "append",
        **cluster.extra,
    }
    return {key: value for key, value in options.items() if value is not None}


def render_script(
    cluster: ClusterSpec, module: str, arguments: Sequence[str], *, name: str, comment: str
) -> str:
    """Return a script for sbatch that runs `python -m MODULE ARGUMENTS` as one job."""
    options = sbatch_options(cluster, name, comment, exec_by_shell=True)
    lines = ["#!/bin/bash"]
    for option, value in options.items():
        lines.append(f"#SBATCH --{option}" + ("" if value is True else f"={_quote(value)}"))
    lines += ["", *setup_lines(cluster)] if cluster.setup else [""]
    lines += [
        "# exec, because SLURM's warning goes to the batch shell alone: the command has to be it.",
        f"exec {python_of(cluster)} -m {module} {shlex.join(arguments)}",
    ]
    return "\n".join(lines) + "\n"


def _quote(value: Any) -> str:
    return shlex.quote(str(value))


def _megabytes(gigabytes: float | None) -> str | None:
    return None if gigabytes is None else f"{math.ceil(gigabytes * 1024)}M"
