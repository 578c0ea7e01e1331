"""`hpo ARGUMENTS` as a fork of a Python that has imported what commands import.

Each is a process of its own, with its own folder, environment, output and exit code, that begins
after some milliseconds instead of a second or two. What is about how a command begins, what it
imports, or shows in `ps` starts one by `tests.support.studies.run_hpo`.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from hpo.cli import COMMANDS, main
from hpo.launch.forkserver import load
from tests.support.pages import draw_in_one_format
from tests.support.studies import ROOT, check_done

MODULES = (
    *("hpo.launch.worker_process", "hpo.report.at_end", "hpo.report.plain_page"),
    *(f"hpo.commands.{module}" for module, _ in COMMANDS.values()),
    *("sqlalchemy.dialects.sqlite", "sqlalchemy.dialects.postgresql.psycopg"),
    *("features.tables.build", "features.tables.store", "pyarrow.parquet", "pymatgen.core"),
    *("sklearn.linear_model", "sklearn.model_selection", "matplotlib.backends.backend_svg"),
)
LONGEST_S = 300.0
_MOST = 1 << 20


class Warm:
    """Runs commands one after another; what they are forked from begins with the first."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run `hpo ARGUMENTS` as `tests.support.studies.run_hpo` does."""
        return check_done(self.call(*arguments), code)

    def call(self, *arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run `hpo ARGUMENTS` in a folder, or in the working directory, however it ends."""
        connection = self._connection or self._begin()
        where = str(folder or Path.cwd())
        order = {"arguments": arguments, "folder": where, "environment": dict(os.environ)}
        with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
            message = json.dumps(order).encode()
            try:
                socket.send_fds(connection, [message], [said.fileno(), complained.fileno()])
                ended = int(connection.recv(_MOST))
            except BaseException:
                # The answer that is still to come is not that of the next command.
                self.end()
                raise
            texts = []
            for file in (said, complained):
                file.seek(0)
                texts.append(file.read().decode())
        return subprocess.CompletedProcess([*arguments], ended, *texts)

    def _begin(self) -> socket.socket:
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.settimeout(LONGEST_S)
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "tests.support.warm", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
            )
        return self._connection

    def end(self) -> None:
        """End what commands are forked from, if there is any."""
        if self._connection is None or self._server is None:
            return
        self._connection.close()
        self._connection = None
        try:
            self._server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()


def serve(connection: socket.socket) -> None:
    """Fork a command for each order; returns when nobody is there any more, or in a command."""
    load(MODULES, 1)
    draw_in_one_format()
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
