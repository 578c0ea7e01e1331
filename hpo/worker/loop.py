"""The steps of a worker: claim, sample, score parts, report or prune.

`work` is a generator. It yields whatever takes time, and whoever drives it answers, or throws in
what went wrong: `hpo.worker.worker` drives it for real, `hpo.simulation.engine` on a simulated
clock. Both therefore make the same calls of the ledger in the same order.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from optuna.distributions import BaseDistribution

from hpo.errors import LostLeaseError, ObjectiveError, StopRequested
from hpo.records import WALL_KEY, Answer, Claim, Parts, ResolvedTrial
from hpo.redaction import redact

_log = logging.getLogger(__name__)

Scores = Mapping[str, Any]
# Says why a trial is ended after the parts that are scored; "" if it goes on.
Prune = Callable[[Claim, Sequence[Scores]], str]


@dataclass(frozen=True)
class Pause:
    """There is nothing to claim now; ask again after this long."""

    seconds: float


@dataclass(frozen=True)
class Draw:
    """The trial needs parameters; answered with a value per dimension."""

    claim: Claim


@dataclass(frozen=True)
class ScorePart:
    """A part is to be scored; answered with its scores, and `wall_s` among them."""

    claim: Claim
    params: Mapping[str, Any]
    part: int


Step = Pause | Draw | ScorePart


class LedgerProtocol(Protocol):
    """What the loop asks of a ledger; `hpo.storage.ledger.Ledger` says what each of them means."""

    def claim(self, worker_id: str) -> Claim | Answer:
        """Take a unit of budget."""

    def save_params(
        self,
        claim: Claim,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
    ) -> None:
        """Store the parameters of a trial."""

    def save_parts(self, claim: Claim, parts: Parts) -> None:
        """Store the scores of parts in the middle of a trial."""

    def finish(
        self, claim: Claim, scores: Scores, parts: Parts, pruned: str, settled: ResolvedTrial | None
    ) -> None:
        """Tell the result of a trial, or why it was pruned, and parts that are not stored."""

    def fail(self, claim: Claim, reason: str, parts: Parts) -> None:
        """Give up a trial."""

    def release(self, claim: Claim, parts: Parts, reason: str) -> None:
        """Leave a trial to another worker."""


class Scored(Protocol):
    """What the loop asks of an objective, which raises ObjectiveError and nothing else.

    `hpo.worker.checked_objective` makes one of any objective; it may have `settle`, too.
    """

    parts: Sequence[str]

    def combine(self, parts: Sequence[Scores]) -> Scores:
        """Combine the scores of all parts."""


def poll_interval(lease_s: float) -> float:
    """Return after how many seconds a worker without a trial asks again, at most."""
    return min(20.0, max(0.5, lease_s / 6.0))


def work(
    ledger: LedgerProtocol,
    worker_id: str,
    objective: Scored,
    space: Mapping[str, BaseDistribution],
    poll_s: float,
    checkpoint_s: float,
    prune: Prune | None = None,
) -> Generator[Step, Any, Answer]:
    """Run trials until there is nothing left to do, and return why.

    Scores of parts are stored with the result of their trial, and before that whenever losing
    them would cost `checkpoint_s` seconds of work or more. `prune` is asked before every part but
    the first.

    Throw ObjectiveError into it if the objective
    refused a part, StopRequested if the worker has to leave. What it does not expect comes out
    again.

    Raises
    ------
    StopRequested
        After the trial in hand was released.
    FailedStudyError
        If more trials failed than the study allows.
    """
    pause_s = first_s = min(0.5, poll_s)
    while True:
        answer = ledger.claim(worker_id)
        if answer is Answer.WAIT:
            yield Pause(pause_s)
            # At the end of a study most workers wait for the last ones: ever more seldom.
            pause_s = min(poll_s, 1.5 * pause_s)
        elif isinstance(answer, Answer):
            return answer
        else:
            pause_s = first_s
            yield from _run_trial(ledger, answer, objective, space, checkpoint_s, prune)


class _Trial:
    """A trial in hand: its scores, of which the last ones are not stored yet."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.parts = list(claim.parts)
        self._n_stored = len(self.parts)

    @property
    def unsaved(self) -> dict[int, Scores]:
        """The scores that would be lost with the worker, by part."""
        return dict(enumerate(self.parts[self._n_stored :], self._n_stored))

    def save(self, ledger: LedgerProtocol, checkpoint_s: float) -> None:
        """Store what is not stored, if it took so long to compute."""
        unsaved = self.unsaved
        if unsaved and math.fsum(part[WALL_KEY] for part in unsaved.values()) >= checkpoint_s:
            ledger.save_parts(self.claim, unsaved)
            self._n_stored = len(self.parts)


def _run_trial(
    ledger: LedgerProtocol,
    claim: Claim,
    objective: Scored,
    space: Mapping[str, BaseDistribution],
    checkpoint_s: float,
    prune: Prune | None,
) -> Generator[Step, Any, None]:
    _log.info("trial %d: attempt %d begins", claim.number, claim.attempt)
    trial = _Trial(claim)
    try:
        pruned = yield from _score(ledger, trial, objective, space, checkpoint_s, prune)
        scores, settled = _sum_up(objective, trial.parts, pruned)
        ledger.finish(claim, scores, trial.unsaved, pruned, settled)
    except StopRequested as exc:
        with contextlib.suppress(LostLeaseError):
            if exc.release:
                ledger.release(claim, trial.unsaved, str(exc))
            elif trial.unsaved:
                ledger.save_parts(claim, trial.unsaved)
        _log.info("trial %d: released, %s", claim.number, exc)
        raise
    except LostLeaseError as exc:
        _log.warning("trial %d: taken over, nothing was told: %s", claim.number, exc)
    except ObjectiveError as exc:
        # The objective refused these parameters; the next ones may be better.
        _log.warning("trial %d: failed: %s", claim.number, exc, exc_info=exc.__cause__)
        with contextlib.suppress(LostLeaseError):
            # The reason reaches pages and other servers; an error may quote the environment.
            ledger.fail(claim, redact(str(exc)), trial.unsaved)
    else:
        if pruned:
            _log.info("trial %d: pruned, %s", claim.number, pruned)
            return
        _log.info(
            "trial %d: finished, score %.6g in %.2f s",
            claim.number,
            scores["score"],
            scores[WALL_KEY],
        )


def _score(
    ledger: LedgerProtocol,
    trial: _Trial,
    objective: Scored,
    space: Mapping[str, BaseDistribution],
    checkpoint_s: float,
    prune: Prune | None,
) -> Generator[Step, Any, str]:
    """Score the parts that are left, and return why the trial was pruned; "" if it was not."""
    claim, parts = trial.claim, trial.parts
    params = claim.params
    if params is None:
        params = yield Draw(claim)
        ledger.save_params(claim, params, space)
    for part in range(len(parts), len(objective.parts)):
        # Before a part rather than after one: who takes a trial over asks for it, too.
        pruned = prune(claim, parts) if prune is not None and parts else ""
        if pruned:
            return pruned
        # The last part is stored with the result.
        trial.save(ledger, checkpoint_s)
        scores = yield ScorePart(claim, params, part)
        name = objective.parts[part]
        _log.info("trial %d: %s scored %.6g", claim.number, name, scores["score"])
        parts.append(scores)
    return ""


def _sum_up(
    objective: Scored, parts: Sequence[Scores], pruned: str
) -> tuple[Scores, ResolvedTrial | None]:
    """Return what is told of a trial, and what becomes of its parts if they are not kept so."""
    wall_s = math.fsum(part[WALL_KEY] for part in parts)
    settle = getattr(objective, "settle", None)
    settled: ResolvedTrial | None = settle(parts, pruned=bool(pruned)) if settle else None
    if pruned:
        return {WALL_KEY: wall_s}, settled
    total = objective.combine(parts if settled is None else settled.parts)
    return {**total, WALL_KEY: wall_s}, settled
