"""Baseline screening: which samples are difficult for the default settings.

A sample that does not converge has difficulty 1000, another one as many as it takes steps. The
hardest share is what tuning is scored on; some of the others are watched, so that what helps the
hard ones and harms the easy ones is seen.

Where the calculator has no answer for the very first geometry, no setting can help: such a sample
is neither, and what it is left out for is said.

What came of each sample is kept in a file, named by a hash of all that it depends on, so that a
screening that is interrupted goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from hpo.errors import ObjectiveError
from hpo.study.identity.fingerprint import hash_code
from hpo.system.atomic_files import replace_file
from studies.saddle.calculators.registry import Calculator, versions
from studies.saddle.gad import Settings
from studies.saddle.samples import Sample, hash_samples, search_from

NOT_CONVERGED = 1000
# Modules by which a screening comes about.
CODE = (
    "studies.saddle.gad",
    "studies.saddle.eckart",
    "studies.saddle.calculators.registry",
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Screened:
    """How the default settings did on a sample.

    Attributes
    ----------
    name
        Of the sample.
    converged, steps
        As in `studies.saddle.gad.Outcome`.
    reason
        Why the calculator has no answer where the search begins; "" if it has one.
    """

    name: str
    converged: bool
    steps: int
    reason: str = ""

    @property
    def difficulty(self) -> int:
        """Steps of a search that converged, and 1000 of one that did not."""
        return self.steps if self.converged else NOT_CONVERGED


@dataclass(frozen=True)
class Selection:
    """Positions of samples among those that were screened.

    Attributes
    ----------
    hard
        What tuning is scored on.
    watched
        Easy samples that are run beside them and do not count.
    """

    hard: tuple[int, ...]
    watched: tuple[int, ...]


def screen(
    samples: Sequence[Sample],
    calculator: Calculator,
    described: str,
    folder: Path,
    progress: Callable[[int, int], object],
    *,
    n_steps: int,
    max_gradient: float | None,
) -> list[Screened]:
    """Run every sample with the default settings, or read what came of it earlier.

    Parameters
    ----------
    samples, calculator, n_steps, max_gradient
        What is run; see `studies.saddle.gad.search`.
    described
        What makes the calculator this calculator, as a text.
    folder
        Where it is kept.
    progress
        Is told after each sample how many of how many are done.
    """
    same_for_all = (
        described,
        versions(calculator),
        repr((Settings(), n_steps, max_gradient)),
        hash_code(CODE),
    )
    found = []
    for sample in samples:
        depends_on = "\0".join((hash_samples([sample]), *same_for_all))
        path = folder / f"{hashlib.sha256(depends_on.encode()).hexdigest()}.json"
        screened = _read(path)
        if screened is None:
            screened = _screen_one(sample, calculator, n_steps, max_gradient)
            replace_file(path, json.dumps(asdict(screened)))
        found.append(screened)
        progress(len(found), len(samples))
    return found


def select(
    screened: Sequence[Screened], threshold: float, n_hard: int, n_watched: int, n_steps: int
) -> Selection:
    """Choose what a trial is scored on.

    Parameters
    ----------
    screened
        All samples.
    threshold
        The share of them that is difficult.
    n_hard
        How many of the difficult ones are taken, the hardest first; of equals those that come
        first.
    n_watched
        How many of the others, evenly from the easiest to the hardest of those that converged.
    n_steps
        Steps of a trial's searches: only what converged within them is watched.

    Raises
    ------
    ObjectiveError
        If the calculator has no answer for any of them.
    """
    usable = [k for k, row in enumerate(screened) if not row.reason]
    if not usable:
        raise ObjectiveError(
            f"the calculator has no answer for any sample; for {screened[0].name}: "
            f"{screened[0].reason}"
        )
    order = sorted(usable, key=lambda k: (-screened[k].difficulty, k))
    n_difficult = max(1, round(threshold * len(usable)))
    easy = [
        k
        for k in reversed(order[n_difficult:])
        if screened[k].converged and screened[k].steps <= n_steps
    ]
    places = np.linspace(0, len(easy) - 1, min(n_watched, len(easy))).round().astype(int)
    return Selection(
        tuple(order[: min(n_hard, n_difficult)]), tuple(easy[place] for place in places)
    )


def _screen_one(
    sample: Sample, calculator: Calculator, n_steps: int, max_gradient: float | None
) -> Screened:
    outcome = search_from(
        sample, calculator, Settings(), n_steps=n_steps, max_gradient=max_gradient
    )
    reason = outcome.reason if outcome.steps == 0 else ""
    if reason:
        _log.warning("sample %s is left out: %s", sample.name, reason)
    return Screened(sample.name, outcome.converged, outcome.steps, reason)


def _read(path: Path) -> Screened | None:
    """Return what a file holds; None if there is none, or it is damaged."""
    try:
        return Screened(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
