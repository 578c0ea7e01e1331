"""`hpo features build`, `show` and `list`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpo.commands.common import (
    add_command,
    add_group,
    add_json,
    add_set,
    add_shared,
    positive,
    print_line,
    say,
)
from hpo.errors import SpecError


def add_to(commands: Any) -> None:
    """Add these commands to the command line."""
    group = add_group(commands, "features", "build and show feature tables")
    parser = add_command(group, "build", build, "build a feature table, or find it built")
    parser.add_argument("study", type=Path, nargs="?", metavar="STUDY", help="the table of a study")
    parser.add_argument("--dataset", help="a dataset, instead of a study file")
    parser.add_argument("--families", metavar="A,B,…", help="its feature families")
    add_json(parser)
    add_set(parser, "any key of a study file's [table]; with STUDY, of the file")
    add_shared(parser, "data", "tables")
    parser.add_argument(
        "--workers",
        type=positive,
        default=1,
        metavar="N",
        help="processes that share the structures (default: 1)",
    )

    parser = add_command(group, "show", show, "print what is in a table, and what is not and why")
    parser.add_argument("table", type=Path, metavar="TABLE", help="its folder")
    add_json(parser, "print the manifest")

    parser = add_command(group, "list", list_all, "list datasets and feature families")
    add_json(parser)


def build(options: argparse.Namespace) -> int:
    """Build a table, or find it built, and print what is missing in it."""
    import features.table

    spec, base_dir = _table_spec(options)
    built = features.table.build(
        spec,
        data_dir=Path(options.data) if options.data else None,
        tables_dir=Path(options.tables),
        base_dir=base_dir,
        log=say,
        workers=options.workers,
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


def _table_spec(options: argparse.Namespace) -> tuple[Any, Path]:
    from features.table import TableSpec
    from hpo.spec import apply_overrides, load, validate_as

    if options.study is not None:
        if options.dataset or options.families:
            raise SpecError("give a study file, or --dataset and --families, not both")
        spec = load(options.study, options.set)
        if spec.table is None:
            raise SpecError(f"{options.study}: has no [table]")
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
    import features.table

    if options.json:
        print_line(json.dumps(features.table.read_manifest(options.table), indent=1))
        return 0
    table = features.table.read(options.table)
    target = f"log10({table.target.name}" if table.target.log10 else f"({table.target.name}"
    unit = f" / {table.target.unit}" if table.target.unit else ""
    print_line(f"table {table.name}")
    print_line(f"  dataset {table.dataset}, hash {table.hash}")
    print_line(f"  {len(table.train.y)} training rows, {len(table.test.y)} held-out rows")
    print_line(f"  target {target}{unit})")
    for family in dict.fromkeys(column.family for column in table.columns):
        columns = [column for column in table.columns if column.family == family]
        leak = ", derived from the target" if columns[0].derived_from_target else ""
        print_line(f"  {family}: {len(columns)} features{leak}")
    _print_remarks(table.skipped, table.partial)
    return 0


def list_all(options: argparse.Namespace) -> int:
    """Print the datasets and feature families there are."""
    import features.table

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
