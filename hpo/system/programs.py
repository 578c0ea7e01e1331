"""A program that is run: its output as it comes, and nothing of it left behind."""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from hpo.system.processes import children, end_processes, program_members

# Marks what a program starts, whatever session that is in.
MARK_VARIABLE = "HPO_PROGRAM"
# Between SIGTERM and SIGKILL.
GRACE_S = 2.0
# How long what a program leaves behind may go on printing, as `tee` does with its last lines.
DRAIN_S = 2.0
_POLL_S = 0.2
_BLOCK = 65536
_ROUNDS = 5


class RunningProgram:
    """A program that was started by `running`.

    Attributes
    ----------
    exit_code
        Negative for the signal that killed it; None until its output was read to the end.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.exit_code: int | None = None

    def output(self) -> Iterator[bytes]:
        """Yield what the program prints until it has ended, and what was printed before that.

        It may close its output and go on, and what it started may keep it open: its own end
        counts, and what it started is given `DRAIN_S` to print the rest.
        """
        process, until = self._process, None
        assert process.stdout is not None
        pipe = process.stdout.fileno()
        os.set_blocking(pipe, False)
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while until is None or time.monotonic() < until:
                # Before anything is read: what it printed before its end is then there.
                if until is None and process.poll() is not None:
                    until = time.monotonic() + DRAIN_S
                if not selector.select(_POLL_S):
                    continue
                block = _read(pipe)
                if block == b"":
                    break
                if block:
                    yield block
        self.exit_code = _wait(process)


@contextlib.contextmanager
def running(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> Iterator[RunningProgram]:
    """Run a program, without a shell and with nothing to read, while the block lasts.

    Whatever ends the block, an exception at any moment as well, the program and all that it started
    are ended then: asked by SIGTERM, killed after `GRACE_S`. It stays in the session of this
    process, in a group of its own; stdout and stderr are one output.

    Raises
    ------
    OSError
        If it cannot be started.
    ValueError
        If an argument cannot be given to a program.
    """
    mark, before = secrets.token_hex(16), children()
    process: subprocess.Popen[bytes] | None = None
    try:
        process = subprocess.Popen(
            arguments,
            # As a text, an error names it.
            cwd=str(folder),
            env={**environment, MARK_VARIABLE: mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            process_group=0,
        )
        yield RunningProgram(process)
    finally:
        # Where starting it was interrupted, it is what is new, and has no mark to be seen yet.
        groups = children() - before if process is None else {process.pid}
        try:
            _end(groups, mark)
        finally:
            if process is not None:
                assert process.stdout is not None
                process.stdout.close()
                process.poll()


def _end(groups: Collection[int], mark: str) -> None:
    """End the processes of a program, and those that they start meanwhile.

    Further requests to leave shorten it, and are passed on when it is done.
    """
    grace_s, request = GRACE_S, None
    for _ in range(_ROUNDS):
        try:
            found = program_members(groups, MARK_VARIABLE, mark)
            if not found:
                break
            end_processes(found, grace_s)
        except BaseException as exc:
            request = exc
        grace_s = 0.0
    if request is not None:
        raise request


def _read(pipe: int) -> bytes | None:
    """Return what there is to read, b"" at the end, None if there is nothing so far."""
    try:
        return os.read(pipe, _BLOCK)
    except BlockingIOError:
        return None


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Wait for the end of a program, and let a signal be handled meanwhile."""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(_POLL_S)
