"""`hpo sbatch`."""

from __future__ import annotations

import argparse
from pathlib import Path

import sqlalchemy as sa

from hpo.commands.cluster.cluster_options import absolute_storage, add_cluster_options
from hpo.commands.common import add_shared, open_storage, print_line, say
from hpo.launch.slurm_history import comment_of
from hpo.launch.slurm_workers import worker_arguments
from hpo.records import Access
from hpo.study.record import find
from slurm.cluster import find_cluster
from slurm.script import render_script


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("name", metavar="NAME")
    add_cluster_options(parser)
    add_shared(parser, "storage", "logs")


def run(options: argparse.Namespace) -> int:
    """Print a script for sbatch that adds one more job of workers to a study."""
    record = find(open_storage(options, Access.READ), options.name)
    cluster = find_cluster(
        options.cluster, options.clusters, options.slurm, record.spec.resources.asked
    )
    storage, before = absolute_storage(options), []
    hidden = _has_password(storage)
    if hidden:
        # A script is for others to read; sbatch hands the environment on.
        before = [
            ': "${HPO_STORAGE:?must be set where sbatch is called: it holds a password and is not '
            'in this script}"'
        ]
        say("HPO_STORAGE must be set where sbatch is called; its password is not in the script")
    arguments = worker_arguments(
        record, cluster, None if hidden else storage, str(Path(options.logs).resolve())
    )
    script = render_script(
        cluster.model_copy(update={"setup": (*before, *cluster.setup)}),
        "hpo",
        arguments,
        name=f"hpo-{record.name}",
        comment=f"{comment_of(record)}:by-hand",
    )
    print_line(script.rstrip("\n"))
    return 0


def _has_password(storage: str) -> bool:
    return "://" in storage and bool(sa.make_url(storage).password)
