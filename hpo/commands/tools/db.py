"""`hpo db start`, `stop`, `status` and `backup`: a PostgreSQL server without an administrator."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

from hpo.commands.common import (
    add_command,
    add_commands,
    add_json,
    add_output,
    beside_output,
    positive,
    print_line,
    say,
)
from hpo.storage.postgres.server import Server


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    group = add_commands(parser)
    parser = add_command(group, "start", start, "start the server of a folder, made if missing")
    _add_folder(parser)
    parser.add_argument(
        "--host",
        metavar="ADDRESS",
        help="address of this machine to listen on and to give to workers (default: 127.0.0.1, "
        "this machine alone); kept for later starts, as are all these options",
    )
    parser.add_argument(
        "--share",
        action="store_true",
        default=None,
        help="let workers of other machines in: listen on all addresses, give the machine's name",
    )
    parser.add_argument(
        "--tls",
        action=argparse.BooleanOptionalAction,
        help="whether other machines have to encrypt what they send (default: they have)",
    )
    parser.add_argument(
        "--connections",
        type=positive,
        metavar="N",
        help="connections to allow, two a worker (default: 500)",
    )
    parser = add_command(group, "stop", stop, "stop the server of a folder")
    _add_folder(parser)
    parser = add_command(group, "status", status, "say how the server of a folder is")
    _add_folder(parser)
    add_json(parser)
    parser = add_command(
        group, "backup", backup, "write all studies of a server to a file, while it works"
    )
    _add_folder(parser)
    add_output(parser, "DIR/backups/hpo-TIME.dump")


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder of the server")


def start(options: argparse.Namespace) -> int:
    """Start the server of a folder."""
    server = Server(options.folder)
    started = server.start(options.host, options.connections, share=options.share, tls=options.tls)
    say(f"{'already running' if started.already else 'started'}: {started.address}")
    for note in started.notes:
        say(f"note: {note}")
    print_line(f"export HPO_STORAGE={shlex.quote(str(server.folder))}")
    return 0


def stop(options: argparse.Namespace) -> int:
    """Stop the server of a folder."""
    was_running = Server(options.folder).stop()
    say("stopped" if was_running else "was not running")
    return 0


def status(options: argparse.Namespace) -> int:
    """Say how the server of a folder is."""
    found = Server(options.folder).status()
    if options.json:
        print_line(json.dumps(found.as_dict(), indent=1))
    elif found.running:
        print_line(f"running on {found.node}: {found.address}")
        print_line(
            f"  PostgreSQL {found.version}, {(found.size_bytes or 0) / 1e6:.1f} MB, "
            f"{found.connections} of {found.max_connections} connections in use, "
            f"up {(found.uptime_s or 0.0) / 3600.0:.1f} h"
        )
    elif found.problem:
        print_line(f"does not answer: {found.address}: {found.problem}")
        print_line(f"  it was started on {found.node}; see {found.folder}/log")
    else:
        print_line(f"not running; start it with: hpo db start {found.folder}")
    return 0


def backup(options: argparse.Namespace) -> int:
    """Write all studies of a server to a file."""
    path, restore = Server(options.folder).backup(options.output)
    with beside_output(options.output):
        print_line(str(path))
    say(f"to restore it: {restore}")
    return 0
