"""Reads which trials really are in a run that Weights & Biases keeps on disk.

A run's `.wandb` file is a LevelDB log (blocks of 32 KiB; a record is cut into fragments of 7 bytes
of header and the data) of protocol buffers, behind 7 bytes that name the format.

Neither is documented, but nothing that is documented tells what a killed session has left on disk:
`wandb.Api` and the step of a resumed run ask the server, which has not heard of it. Nor can a row
be sent twice without harm: `wandb sync` moves the steps of each folder behind what the server has,
so that equal steps are no sign of equal rows. To log everything anew in another folder would double
what somebody has uploaded from this one in the meantime. The library's own reader of these files is
no longer part of its Python, so the format is read here, and tested against what it writes.
"""

from __future__ import annotations

import contextlib
import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from wandb.proto import wandb_internal_pb2

from hpo.errors import ConflictError

# Generated code, which no type checker can read.
MESSAGES: Any = wandb_internal_pb2

TRIAL_KEY = "trial"

# How long the service of a process that was killed may go on writing to its file.
WRITER_TIMEOUT_S = 20.0
POLL_S = 0.2

_PREAMBLE = 7
_BLOCK = 32768
_FRAGMENT = struct.Struct("<IHB")  # checksum, length, kind
_WHOLE, _LAST = 1, 4


@dataclass(frozen=True)
class Written:
    """What a run's file holds.

    Attributes
    ----------
    trials
        Number of the trial of each row, in the order of the rows.
    files
        Names of the files that belong to the run.
    ended
        Whether the run was ended: nothing is written behind that.
    """

    trials: tuple[int, ...]
    files: frozenset[str]
    ended: bool


def read_run(path: Path) -> Written:
    """Read a run's file as far as it is whole: a killed process may have cut its end.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    trials: list[int] = []
    files: set[str] = set()
    ended = False
    for data in _records(path.read_bytes()):
        record = MESSAGES.Record()
        try:
            record.ParseFromString(data)
        except DecodeError:
            break
        ended = ended or record.HasField("exit")
        files.update(item.path for item in record.files.files)
        trials.extend(
            int(json.loads(item.value_json))
            for item in record.history.item
            if TRIAL_KEY in (item.key, "/".join(item.nested_key))
        )
    return Written(tuple(trials), frozenset(files), ended)


def _records(data: bytes) -> Iterator[bytes]:
    position, record = _PREAMBLE, b""
    while position + _FRAGMENT.size <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _FRAGMENT.size:
            position += left
            continue
        _, length, kind = _FRAGMENT.unpack_from(data, position)
        begin = position + _FRAGMENT.size
        if kind == 0 or begin + length > len(data):
            return
        record += data[begin : begin + length]
        position = begin + length
        if kind in (_WHOLE, _LAST):
            yield record
            record = b""


def wait_for_writer(path: Path) -> None:
    """Wait until no process of this machine writes to a file any more.

    Raises
    ------
    ConflictError
        If one still does.
    """
    deadline = time.monotonic() + WRITER_TIMEOUT_S
    while _is_open(path):
        if time.monotonic() > deadline:
            raise ConflictError(f"{path}: is still being written by another process", ())
        time.sleep(POLL_S)


def _is_open(path: Path) -> bool:
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if link.readlink() == path:
                return True
    return False
