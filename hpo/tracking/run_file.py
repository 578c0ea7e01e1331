"""Reads which trials really are in a run that Weights & Biases keeps on disk.

A run's `.wandb` file is a LevelDB log (blocks of 32 KiB; a record is cut into fragments of 7 bytes
of header and the data) of protocol buffers, behind 7 bytes that name the format.
"""

from __future__ import annotations

import importlib
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TRIAL_KEY = "trial"

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
    from google.protobuf.message import DecodeError

    # Generated code, which no type checker can read.
    messages: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
    trials: list[int] = []
    files: set[str] = set()
    ended = False
    for data in _records(path.read_bytes()):
        record = messages.Record()
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
