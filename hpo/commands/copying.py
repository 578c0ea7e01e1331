"""`hpo copy`."""

from __future__ import annotations

import argparse
import contextlib
import json
from typing import Any

from hpo.commands.common import add_command, add_json, print_line


def add_to(commands: Any) -> None:
    """Add this command to the command line."""
    parser = add_command(commands, "copy", copy, "copy studies from one storage to another")
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


def copy(options: argparse.Namespace) -> int:
    """Copy studies from one storage to another."""
    from hpo.storage import open_storage
    from hpo.transfer import copy_studies

    with contextlib.ExitStack() as stack:
        source = open_storage(options.source, create=False)
        stack.callback(source.engine.dispose)
        target = open_storage(options.target, create=True)
        stack.callback(target.engine.dispose)
        copied = copy_studies(source, target, options.study)
    if options.json:
        print_line(json.dumps([one.as_dict() for one in copied], indent=1))
        return 0
    for one in copied:
        what = "copied" if one.copied else "already there, identical"
        print_line(
            f"{one.study}: {what}: {one.trials} trials, {one.rows} rows, sha256 {one.sha256[:16]}"
        )
    return 0
