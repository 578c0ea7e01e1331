"""Everything that this package raises on purpose.

The tree::

    SlurmError
    ├── ClusterError      a cluster file, or a value set over it, is not valid
    ├── SubmitError       sbatch refused a submission
    └── UnreachableError  SLURM cannot be asked: no such program here, or no controller answers

A message names the thing, the rule, the value and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class SlurmError(Exception):
    """Base of every error that this package raises on purpose."""


class ClusterError(SlurmError):
    """A cluster file, or a value set over it, is not valid."""


class SubmitError(SlurmError):
    """The submission was refused by sbatch, or only a part of it was accepted.

    Attributes
    ----------
    job_ids
        What had been submitted when it was refused; these jobs are in the queue.
    """

    def __init__(self, message: str, job_ids: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.job_ids = tuple(job_ids)


class UnreachableError(SlurmError):
    """No answer from SLURM: nothing is known of any job, which is not the same as no jobs."""


def suggest(wrong: str, valid: Iterable[str]) -> str:
    """Return a hint that names the valid word nearest to a wrong one, and then all of them."""
    options = sorted(valid)
    near = difflib.get_close_matches(wrong, options, n=1, cutoff=0.5)
    if not options:
        return "there are none"
    listed = f"valid: {', '.join(options)}"
    return f"did you mean '{near[0]}'? ({listed})" if near else listed
