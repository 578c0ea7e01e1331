"""The result of a check: its verdict, what was found, what to do."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["ok", "warning", "problem", "not checked"]

MB = 1e6
GB = 1e9


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one check.

    Attributes
    ----------
    name
        What was looked at.
    verdict
        `warning` is what may hurt later, `problem` what does not work.
    found
        What was found, with figures.
    remedy
        What to do, unless all is well.
    figures
        The figures again, for programs; units are in their names.
    """

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return asdict(self)


def examine(name: str, check: Callable[[], Sequence[CheckResult]]) -> list[CheckResult]:
    """Return what a check finds; one that fails itself has found a problem."""
    try:
        return list(check())
    except Exception as exc:
        text = str(exc).strip().splitlines()
        found = text[0] if text else "no message"
        return [
            CheckResult(
                name,
                "problem",
                f"this check failed itself: {type(exc).__name__}: {found}",
                "the checks beside it are not affected; please report this one",
            )
        ]


@dataclass(frozen=True)
class Reply:
    """What a program answered; `code` is None if it did not within its time."""

    code: int | None
    out: str
    err: str


def ask(arguments: Sequence[str], limit_s: float) -> Reply:
    """Run a program and return its answer; end it, and what it started, after `limit_s` seconds.

    Raises
    ------
    OSError
        If it cannot be started.
    """
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        # A session of its own: what the program starts holds its pipes open and must end with it.
        start_new_session=True,
    )
    with process:
        try:
            out, err = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            return Reply(None, out, err)
    return Reply(process.returncode, out, err)
