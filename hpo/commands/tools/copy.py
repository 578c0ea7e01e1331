"""`hpo copy`."""

from __future__ import annotations

import argparse
import contextlib
import json

from hpo.commands.common import add_json, print_line
from hpo.records import Access
from hpo.storage.backends import open_storage
from hpo.study.lifecycle.copying import copy_studies
from hpo.wording import count_of


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("source", metavar="FROM", help="URL of a storage, or DIR of hpo db")
    parser.add_argument("target", metavar="TO", help="the same; made if it is missing")
    parser.add_argument(
        "--study",
        action="append",
        default=[],
        metavar="NAME",
        help="a study to copy; repeatable (default: all)",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Copy studies from one storage to another."""
    with contextlib.ExitStack() as stack:
        source = open_storage(options.source, Access.READ)
        stack.callback(source.engine.dispose)
        target = open_storage(options.target, Access.CREATE)
        stack.callback(target.engine.dispose)
        copied = copy_studies(source, target, options.study)
    if options.json:
        print_line(json.dumps([one.as_dict() for one in copied], indent=1))
        return 0
    for one in copied:
        what = "copied" if one.copied else "already there, identical"
        print_line(
            f"{one.study}: {what}: {count_of(one.trials, 'trial')}, "
            f"{count_of(one.rows, 'row')}, sha256 {one.sha256[:16]}"
        )
    return 0
