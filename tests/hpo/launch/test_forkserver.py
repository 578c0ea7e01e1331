"""What workers are forked from: orders that need no fork."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from hpo.launch.forkserver import ANSWER_BYTES, READY, SHARE, fork_on_demand


@pytest.mark.parametrize("failure", [None, OSError("gone"), MemoryError()])
def test_each_table_is_shared_and_said_to_be_even_if_it_cannot_be_read(
    failure: Exception | None,
) -> None:
    shared: list[Path] = []

    def share(path: Path) -> None:
        shared.append(path)
        if failure is not None:
            raise failure

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    tables = [Path("tables/a b-é"), Path("/") / ("x" * 4000)]
    with ours, theirs:
        for table in tables:
            ours.send(SHARE + bytes(table))
        ours.shutdown(socket.SHUT_WR)
        assert fork_on_demand(theirs, share) is None
        answers = [ours.recv(ANSWER_BYTES) for _ in (None, *tables)]
    assert shared == tables
    assert answers == [READY] * 3
