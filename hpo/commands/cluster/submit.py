"""`hpo submit`."""

from __future__ import annotations

import argparse
import socket
from pathlib import Path

import sqlalchemy as sa

from hpo.commands.cluster.cluster_options import absolute_storage, add_cluster_options
from hpo.commands.cluster.refill import submit_missing
from hpo.commands.common import add_json, from_variable, not_negative, print_line
from hpo.commands.studies.study_options import add_study_options, begin_study, read_study
from hpo.launch.slurm_history import DesiredWorkers
from hpo.storage.urls import resolve_url
from hpo.system.filesystem import check_sqlite_shared
from slurm.cluster import ClusterSpec, find_cluster
from slurm.queue import node_hosts


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_study_options(parser)
    parser.add_argument(
        "--workers",
        type=not_negative,
        metavar="N",
        help="how many there should be; 0 begins the study alone, for sbatch by hand",
        **from_variable("HPO_WORKERS"),
    )
    add_cluster_options(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Begin a study, or go on with it, and have as many workers on the cluster as are wanted."""
    spec, source = read_study(options)
    cluster = find_cluster(options.cluster, options.clusters, options.slurm, spec.resources.asked)
    workers = 1 if options.workers is None else options.workers
    if workers:
        _require_shareable(options, cluster)
    record = begin_study(options, spec, source)
    if not workers:
        print_line(
            f"study '{record.name}' is begun; add workers: hpo sbatch {record.name} > job.sh, and "
            "sbatch job.sh"
        )
        return 0
    wanted = DesiredWorkers(
        workers, cluster, absolute_storage(options), str(Path(options.logs).resolve())
    )
    return submit_missing(options, record, [wanted], anew=True)


def _require_shareable(options: argparse.Namespace, cluster: ClusterSpec) -> None:
    """Refuse a SQLite file that workers on several machines cannot share."""
    url = sa.make_url(resolve_url(options.storage))
    if url.get_backend_name() == "sqlite" and url.database:
        hosts = node_hosts(cluster.partition) | {socket.gethostname().split(".")[0]}
        check_sqlite_shared(Path(url.database), hosts)
