"""Options of commands that submit jobs."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def add_cluster_options(parser: argparse.ArgumentParser, what: str | None = None) -> None:
    """Add what says on which cluster, and how; `what` is said of a --cluster without default."""
    parser.add_argument(
        "--cluster",
        default=None if what else os.environ.get("HPO_CLUSTER"),
        metavar="NAME",
        help=what or "a section of the cluster file (default: HPO_CLUSTER, or its only section)",
    )
    parser.add_argument(
        "--clusters",
        type=Path,
        metavar="FILE",
        help="the cluster file (default: HPO_CLUSTERS, clusters.toml here or in ~/.config/hpo)",
    )
    parser.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set any field of the cluster, as in time_limit=1:00:00; repeatable",
    )


def absolute_storage(options: argparse.Namespace) -> str:
    """Return the storage as workers in another folder find it."""
    text: str = options.storage
    if "://" not in text:
        return str(Path(text).resolve())
    prefix = "sqlite:///"
    if text.startswith(prefix):
        return f"{prefix}{Path(text.removeprefix(prefix)).resolve()}"
    return text
