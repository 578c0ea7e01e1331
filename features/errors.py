"""Everything this package raises on purpose.

The tree::

    FeaturesError
    ├── DatasetError   a source file is missing, unreadable, or holds no usable row
    ├── FamilyError    a feature family cannot be computed here
    └── TableError     a table on disk is absent, half, damaged, or of another format

A message names the thing, the rule, the value and what to do next.
"""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path


class FeaturesError(Exception):
    """Base of every error that this package raises on purpose."""


class DatasetError(FeaturesError):
    """A source file is missing, unreadable, lacks a column, or holds no usable row."""


class FamilyError(FeaturesError):
    """A feature family cannot be computed: an input or an installed data file is missing."""


class TableError(FeaturesError):
    """A table on disk is absent, half, damaged, of another format, or cannot be written."""


def describe_failure(exc: BaseException) -> str:
    """Return what somebody else's code raised, and the line of theirs where it did."""
    if isinstance(exc, SystemExit):
        said = f"sys.exit({'' if exc.code is None else repr(exc.code)})"
    else:
        said = f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
    # The first frame is ours, which called them.
    frames = traceback.extract_tb(exc.__traceback__)[1:]
    theirs = [frame for frame in frames if _is_written_here(frame.filename)]
    return f"{said} ({theirs[-1].filename}, line {theirs[-1].lineno})" if theirs else said


def _is_written_here(filename: str) -> bool:
    """Whether a file is neither Python's own nor of an installed package."""
    file = Path(filename)
    installed = {"site-packages", "dist-packages"} & {*file.parts}
    own_of_python = filename.startswith("<") or file.is_relative_to(sysconfig.get_path("stdlib"))
    return not installed and not own_of_python
