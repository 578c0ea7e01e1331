"""Every error that the engine raises on purpose.

HpoError                 the user can do something about it; exit code 2
├── SpecError            a study file, or a value set on the command line, is not valid
│   └── AbsentError      there is nothing for a variant, or for `-=`, to change
├── StudyNotFoundError   no study of that name in the storage
├── PlainStudyError      the study was made by Optuna alone and has no study file
├── StorageError         the storage cannot be opened or is not one of ours
├── ObjectiveError       the objective cannot be built or cannot score these parameters
├── ModelError           a study has no model to rank with, or a saved one must not be loaded
├── TrustError           code that another user's study names is not imported unasked
├── FailedStudyError     the study stopped because too many trials failed
└── ConflictError        what runs now is not what the study was begun with; exit code 3

Inside a worker only:
LostLeaseError           the trial was taken over by another worker; its result must not be told
StopRequested            the worker was asked to leave
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from typing import TypeGuard


class HpoError(Exception):
    """An error whose message tells the user what is wrong and what to do next."""

    exit_code = 2


class SpecError(HpoError):
    """A study file, or a value set on the command line, is not valid."""


class AbsentError(SpecError):
    """A study file has nothing that a variant, or `--set KEY-=VALUE`, would change."""


class StudyNotFoundError(HpoError):
    """The storage holds no study of that name."""


class PlainStudyError(HpoError):
    """The study was made by Optuna alone: it has trials, but no study file."""


class StorageError(HpoError):
    """The storage cannot be opened, or it is not one that the engine can use.

    Attributes
    ----------
    passing
        Whether it may come right by waiting, as when a server is being restarted.
    """

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


class ObjectiveError(HpoError):
    """The objective cannot be built, or it cannot score the parameters it was given."""


class ModelError(HpoError):
    """A study has no model to rank with, or a saved one must not be loaded."""


class TrustError(HpoError):
    """A study that another user began names code, which is not imported unasked."""


class FailedStudyError(HpoError):
    """More trials failed than the study file allows."""


class ConflictError(HpoError):
    """The study was begun with something else than what is here now.

    Attributes
    ----------
    changed
        Names of the parts of the fingerprint that differ.
    """

    exit_code = 3

    def __init__(self, message: str, changed: Sequence[str]) -> None:
        super().__init__(message)
        self.changed = tuple(changed)


class LostLeaseError(Exception):
    """Another worker holds the trial now; nothing of it may be told any more."""


class StopRequested(BaseException):
    """The worker was asked to leave; not an Exception, so that no objective can swallow it.

    Attributes
    ----------
    release
        Whether the trial is for another worker to take. A launcher that ends a worker because its
        trial exceeded a limit says itself what becomes of the trial.
    """

    def __init__(self, reason: str, *, release: bool = True) -> None:
        super().__init__(reason)
        self.release = release


def describe_os_error(exc: OSError) -> str:
    """Return what the system refused, and of which file."""
    reason = exc.strerror or str(exc) or type(exc).__name__
    named = [os.fsdecode(name) for name in (exc.filename, exc.filename2) if _is_name(name)]
    return f"{' -> '.join(named)}: {reason}" if named else reason


def _is_name(name: object) -> TypeGuard[str | bytes]:
    return isinstance(name, str | bytes) and bool(name)


def suggest(wrong: str, valid: Iterable[str]) -> str:
    """Return a hint that names the valid value nearest to a wrong one, and then all of them."""
    options = sorted(valid)
    near = difflib.get_close_matches(wrong, options, n=1, cutoff=0.5)
    if not options:
        return "there are none"
    listed = f"valid: {', '.join(options)}"
    return f"did you mean '{near[0]}'? ({listed})" if near else listed
