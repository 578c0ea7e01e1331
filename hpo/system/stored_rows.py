"""Rows of texts, kept on disk and read by their positions."""

from __future__ import annotations

import marshal
import os
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from hpo.errors import HpoError


class StoredRows:
    """Rows one behind the other in a temporary file that nobody else sees.

    A row is a tuple of texts and of tuples of texts. Eight bytes of each are in memory.
    """

    def __init__(self) -> None:
        self._starts = array("q", [0])
        with _told():
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
        weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def extend(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Put rows at the end.

        Raises
        ------
        HpoError
            There is no room for them.
        """
        start = self._starts[-1]
        with _told():
            for row in rows:
                # Nothing but this object reads them again: no format is needed that lasts.
                start += self._file.write(marshal.dumps(row))
                self._starts.append(start)
            self._file.flush()

    def take(self, positions: Iterable[int]) -> Iterator[tuple[Any, ...]]:
        """Yield the rows at these positions, in this order."""
        starts, descriptor = self._starts, self._file.fileno()
        for at in positions:
            start = starts[at]
            yield marshal.loads(os.pread(descriptor, starts[at + 1] - start, start))


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise HpoError(
            f"{tempfile.gettempdir()}: a temporary file cannot be written: {exc.strerror}; set "
            "TMPDIR to a folder with more room"
        ) from exc
