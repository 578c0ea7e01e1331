"""A function that is named now and imported in the job."""

from __future__ import annotations

import pkgutil
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class EntryPoint:
    """A function such as `[project.scripts]` names: it takes arguments and returns an exit code.

    Attributes
    ----------
    function
        As `package.module:function`.
    arguments
        What it is called with.
    """

    function: str
    arguments: tuple[str, ...]

    def __call__(self) -> None:
        """Import the function and call it; a code other than 0 ends the process."""
        if code := pkgutil.resolve_name(self.function)(self.arguments):
            sys.exit(code)
