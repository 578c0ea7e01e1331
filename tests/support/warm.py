"""`hpo ARGUMENTS` as a fork of a Python that has imported what commands import.

Each is a process of its own, with its own folder, environment, output and exit code, that begins
after some milliseconds instead of a second or two. For tests that call many commands and are not
about how one begins: what it imports, or shows in `ps`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from hpo.cli import main
from hpo.launch.forkserver import load
from tests.support.studies import ROOT, check_done

MODULES = (
    *("hpo.launch.worker_process", "hpo.report.at_end", "hpo.report.plain_page"),
    *("hpo.commands.studies.run", "hpo.commands.results.compare", "hpo.commands.results.export"),
    *("hpo.commands.cluster.submit", "hpo.commands.cluster.refill"),
    *("sqlalchemy.dialects.sqlite", "sqlalchemy.dialects.postgresql.psycopg"),
)
LONGEST_S = 300.0
_MOST = 1 << 20


class Warm:
    """Runs commands one after another."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        connection.settimeout(LONGEST_S)

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run `hpo ARGUMENTS` as `tests.support.studies.run_hpo` does."""
        order = {"arguments": arguments, "folder": str(Path.cwd()), "environment": dict(os.environ)}
        with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
            message = json.dumps(order).encode()
            socket.send_fds(self._connection, [message], [said.fileno(), complained.fileno()])
            ended = int(self._connection.recv(_MOST))
            texts = []
            for file in (said, complained):
                file.seek(0)
                texts.append(file.read().decode())
        return check_done(subprocess.CompletedProcess([*arguments], ended, *texts), code)


@contextlib.contextmanager
def warm_python() -> Iterator[Warm]:
    """Give what runs commands; its process ends with this block."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.support.warm", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
        )
        theirs.close()
        yield Warm(ours)
    server.wait(timeout=60)


def serve(connection: socket.socket) -> None:
    """Fork a command for each order; returns when nobody is there any more, or in a command."""
    load(MODULES, 1)
    base = sys.path[1:]
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, _MOST, 2)
        if not message:
            return
        pid = os.fork()
        if pid == 0:
            connection.close()
            _be_command(json.loads(message), descriptors, base)
        for descriptor in descriptors:
            os.close(descriptor)
        _, status = os.waitpid(pid, 0)
        connection.send(b"%d" % os.waitstatus_to_exitcode(status))


def _be_command(order: dict[str, object], descriptors: list[int], base: list[str]) -> NoReturn:
    arguments, folder, environment = (order[k] for k in ("arguments", "folder", "environment"))
    assert isinstance(arguments, list)
    assert isinstance(folder, str)
    assert isinstance(environment, dict)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, place in zip(descriptors, (1, 2), strict=True):
        os.dup2(descriptor, place)
        os.close(descriptor)
    # As `python -m hpo` has it.
    own = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [folder, *filter(None, own), *base]
    sys.argv[:] = [str(ROOT / "hpo" / "__main__.py"), *arguments]
    sys.exit(main())


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
