"""`hpo features build`, `show` and `list`."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import features.table
from features.table import OwnSpec, TableSpec
from hpo.commands.cluster.cluster_options import add_cluster_options
from hpo.commands.common import (
    add_command,
    add_commands,
    add_json,
    add_set,
    add_shared,
    positive,
    print_json,
    print_line,
    say,
)
from hpo.errors import SpecError
from hpo.launch.slurm_jobs import active_jobs, name_jobs, submit_command, wait_for_jobs
from hpo.plugins import make_importable, resolve
from hpo.spec.loading import apply_overrides, load, validate_as
from hpo.system.filesystem import find_local
from hpo.wording import count_of
from slurm.cluster import ClusterSpec, find_cluster
from slurm.queue import node_hosts

if TYPE_CHECKING:
    from features.table import Structures

# How often `--wait` asks for its jobs.
POLL_S = 5.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    group = add_commands(parser)
    parser = add_command(group, "build", build, "build a feature table, or find it built")
    parser.add_argument("study", type=Path, nargs="?", metavar="STUDY", help="the table of a study")
    parser.add_argument("--dataset", help="a dataset, instead of a study file")
    parser.add_argument("--families", metavar="A,B,…", help="its feature families")
    add_json(parser)
    add_set(parser, "any key of a study file's [table]; with STUDY, of the file")
    add_shared(parser, "data", "tables", "logs")
    parser.add_argument(
        "--workers",
        type=positive,
        default=1,
        metavar="N",
        help="processes, or with --cluster jobs, that share the structures (default: 1)",
    )
    parser.add_argument(
        "--structures-only",
        action="store_true",
        help="describe structures, beside whoever else does, and build no table",
    )
    # HPO_CLUSTER is for what always runs on one: a table is built here unless this is given.
    add_cluster_options(
        parser, "a section of the cluster file: submit jobs that describe the structures; returns"
    )
    parser.add_argument(
        "--wait",
        action="store_true",
        help="with --cluster: until the jobs are over, and then build the table",
    )
    parser = add_command(group, "show", show, "print what is in a table, and what is not and why")
    parser.add_argument("table", type=Path, metavar="TABLE", help="its folder")
    add_json(parser, "print the manifest")
    parser = add_command(group, "list", list_all, "list datasets and feature families")
    add_json(parser)


def build(options: argparse.Namespace) -> int:
    """Build a table, or find it built, and print what is missing in it."""
    _check_choice(options)
    if options.structures_only:
        return _describe_structures(options)
    if options.cluster is not None:
        _submit_structures(options)
        if not options.wait:
            return 0
    return _build_table(options)


def _check_choice(options: argparse.Namespace) -> None:
    if options.cluster is None and (options.clusters or options.slurm or options.wait):
        raise SpecError("--clusters, --slurm and --wait need --cluster NAME, a section of its file")
    if options.cluster is not None and options.structures_only:
        raise SpecError("--structures-only is what the jobs of --cluster do: give one of them")


def _build_table(options: argparse.Namespace) -> int:

    built = features.table.build(
        **_request(options),
        # With a cluster, workers are jobs; little or nothing is left to do here.
        workers=options.workers if options.cluster is None else 1,
    )
    if options.json:
        print_line(json.dumps({**vars(built), **_plain(built)}, indent=1, default=str))
        return 0
    how = "unchanged, reused" if built.reused else "built"
    print_line(
        f"{built.path}: {built.n_rows} rows, {built.n_features} features, {how} "
        f"in {built.wall_s:.2f} s"
    )
    _print_remarks(built.skipped, built.partial)
    return 0


def _describe_structures(options: argparse.Namespace) -> int:

    structures = features.table.find_structures(**_request(options))
    nothing = _why_nothing(structures, structures.count_missing())
    made = 0 if nothing else structures.describe(options.workers, say)
    missing = structures.count_missing()
    if options.json:
        print_json({"total": structures.n_total, "described": made, "missing": missing})
        return 0
    line = f"{made} of {structures.n_total} descriptions made"
    if missing:
        line += f"; others are at work on {missing} of them"
    print_line(nothing or line)
    return 0


def _submit_structures(options: argparse.Namespace) -> None:
    """Have jobs describe what is missing, and wait for them if that is asked for."""
    cluster = find_cluster(options.cluster, options.clusters, options.slurm)
    structures = features.table.find_structures(**_request(options))
    missing = structures.count_missing()
    if nothing := _why_nothing(structures, missing):
        if options.json and not options.wait:
            print_json({"missing": 0, "active": 0, "submitted": []})
        else:
            say(f"{nothing}; no jobs are submitted")
        return
    active, submitted = _submit_missing(options, cluster, structures, missing)
    if options.wait:
        wait_for_jobs(_comment_of(structures), POLL_S, lambda line: say(f"jobs: {line}"))
        left = structures.count_missing()
        say(f"jobs are over: {missing - left} of {missing} descriptions were made, {left} are left")
    elif options.json:
        print_json({"missing": missing, "active": active, "submitted": submitted})


def _submit_missing(
    options: argparse.Namespace, cluster: ClusterSpec, structures: Structures, missing: int
) -> tuple[int, list[str]]:
    """Submit the jobs that are missing; return how many there were, and the new ones."""
    build_again = _arguments(options)
    active = len(active_jobs(_comment_of(structures)))
    lacking = min(options.workers, missing) - active
    submitted: list[str] = []
    line = f"{missing} of {structures.n_total} descriptions missing, {active} jobs there"
    if lacking > 0:
        _warn_of_local_folders(options, cluster)
        submitted, folder = submit_command(
            cluster,
            [*build_again, "--structures-only", "--workers", str(cluster.cpus_per_job)],
            lacking,
            name="hpo-features",
            comment=_comment_of(structures),
            logs=Path(options.logs).resolve() / "features",
        )
        line += f", {len(submitted)} submitted: {name_jobs(submitted)}"
        say(f"what they print: {folder}")
    if options.json or options.wait:
        say(line)
    else:
        print_line(line)
    if not options.wait:
        say(f"when they are over: {shlex.join(['hpo', *build_again])}")
    return active, submitted


def _comment_of(structures: Structures) -> str:
    return f"hpo:table:{structures.request}"


def _why_nothing(structures: Structures, missing: int) -> str:
    """Return why there is nothing to describe; empty if there is something."""
    if structures.table is not None:
        return f"{structures.table}: is built already"
    if not structures.families:
        return "no family of this table describes structures one at a time: nothing to share"
    return "" if missing else "every structure is described already"


def _warn_of_local_folders(options: argparse.Namespace, cluster: ClusterSpec) -> None:
    """Say which folders the jobs may not see; a machine may also export its own disk to them."""
    folders = [options.tables, options.logs, options.data, options.study]
    hosts = node_hosts(cluster.partition)
    for where in find_local([Path(folder) for folder in folders if folder], hosts):
        say(
            f"warning: {where.path} is on a local file system of this machine ({where.type}); "
            "jobs on nodes that cannot see it fail, or their work is lost"
        )


def _request(options: argparse.Namespace) -> dict[str, Any]:
    spec, base_dir = _table_spec(options)
    return {
        "spec": spec,
        "data_dir": Path(options.data) if options.data else None,
        "tables_dir": Path(options.tables),
        "base_dir": base_dir,
        "log": say,
    }


def _arguments(options: argparse.Namespace) -> list[str]:
    """Return the command that builds the same table, from any folder."""
    if options.study is not None:
        table = [str(options.study.resolve())]
    else:
        table = ["--dataset", options.dataset, "--families", options.families]
    data = ["--data", str(Path(options.data).resolve())] if options.data else []
    overrides = [word for setting in options.set for word in ("--set", setting)]
    tables = ["--tables", str(Path(options.tables).resolve())]
    return ["features", "build", *table, *data, *tables, *overrides]


def _table_spec(options: argparse.Namespace) -> tuple[Any, Path]:

    if options.study is not None:
        if options.dataset or options.families:
            raise SpecError("give a study file, or --dataset and --families, not both")
        spec = load(options.study, options.set)
        make_importable(options.study)
        if spec.table is None:
            raise SpecError(f"{options.study}: has no [table]")
        if isinstance(spec.table, OwnSpec):
            resolve(spec.table.loader, f"{options.study}: [table] loader")
        return spec.table, options.study.resolve().parent
    if not options.dataset or not options.families:
        raise SpecError("give a study file, or --dataset and --families (see: hpo features list)")
    raw: dict[str, Any] = {"dataset": options.dataset, "families": options.families.split(",")}
    apply_overrides(raw, options.set)
    return validate_as(TableSpec, raw, "features build"), Path.cwd()


def _plain(built: Any) -> dict[str, Any]:
    return {key: [vars(row) for row in getattr(built, key)] for key in ("skipped", "partial")}


def _print_remarks(skipped: Sequence[Any], partial: Sequence[Any]) -> None:
    for row in skipped:
        print_line(f"  skipped: {row.source} line {row.line} ({row.id}): {row.reason}")
    for row in partial:
        print_line(f"  {row.family}: {row.source} line {row.line} ({row.id}): {row.reason}")


def show(options: argparse.Namespace) -> int:
    """Print what is in a table."""
    if options.json:
        print_line(json.dumps(features.table.read_manifest(options.table), indent=1))
        return 0
    table = features.table.read(options.table)
    print_line(f"table {table.name}")
    print_line(f"  dataset {table.dataset}, hash {table.hash}")
    print_line(f"  {len(table.train.y)} training rows, {len(table.test.y)} held-out rows")
    for target in table.targets:
        unit = f" / {target.unit}" if target.unit else ""
        print_line(f"  target {'log10' if target.log10 else ''}({target.name}{unit})")
    if table.bounds is not None:
        n_rows = int((table.bounds[:, 0] < table.bounds[:, 1]).sum())
        print_line(f"  of {count_of(n_rows, 'row')} an interval alone is known of the target")
    for at, label in enumerate(table.target.classes):
        print_line(f"  class {label}: {int((table.y == at).sum())} rows")
    for family in dict.fromkeys(column.family for column in table.columns):
        columns = [column for column in table.columns if column.family == family]
        leak = ", derived from the target" if columns[0].derived_from_target else ""
        print_line(f"  {family}: {len(columns)} features{leak}")
    _print_remarks(table.skipped, table.partial)
    return 0


def list_all(options: argparse.Namespace) -> int:
    """Print the datasets and feature families there are."""
    datasets, families = features.table.datasets(), features.table.families()
    if options.json:
        described = {name: info.description for name, info in families.items()}
        print_line(json.dumps({"datasets": dict(datasets), "families": described}, indent=1))
        return 0
    print_line("datasets:")
    for name, description in datasets.items():
        print_line(f"  {name:18} {description}")
    print_line("feature families:")
    for name, info in families.items():
        print_line(f"  {name:18} {info.n_columns:4}  {info.description}")
    return 0
