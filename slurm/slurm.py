"""SLURM as a scheduler: the functions of this package under the protocol's names."""

from __future__ import annotations

from slurm.queue import list_jobs, versions_and_limits
from slurm.scheduler import Scheduler
from slurm.submit import cancel, current_job, requeue_self, submit


class Slurm:
    """The SLURM whose programs are on PATH."""

    submit = staticmethod(submit)
    cancel = staticmethod(cancel)
    current_job = staticmethod(current_job)
    requeue_self = staticmethod(requeue_self)
    list_jobs = staticmethod(list_jobs)

    def cluster_name(self) -> str:
        """Return ClusterName, which is SLURM_CLUSTER_NAME in its jobs."""
        return versions_and_limits().cluster


SLURM: Scheduler = Slurm()
