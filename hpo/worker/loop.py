"""The steps of a worker: claim, then a trial, until there is nothing left to do.

A trial is scored part by part: sample, score the parts, report or prune; or as a whole, by a
function that is given a trial of Optuna's.

`work` is a generator. It yields whatever takes time, and whoever drives it answers, or throws in
what went wrong: `hpo.worker.worker` drives it for real, `hpo.simulation.engine` on a simulated
clock. Both therefore make the same calls of the ledger in the same order.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from optuna.distributions import BaseDistribution

from hpo.errors import LostLeaseError, ObjectiveError, StopRequested
from hpo.records import (
    BY_SCORE,
    WALL_KEY,
    Answer,
    Claim,
    Judged,
    Parts,
    ResolvedTrial,
    TrialWrites,
)
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


@dataclass(frozen=True)
class Evaluate:
    """A trial is to be evaluated as a whole; answered with an `Evaluation`."""

    claim: Claim


@dataclass(frozen=True)
class Evaluation:
    """How the evaluation of a trial ended.

    Attributes
    ----------
    values
        One for each objective; of a pruned trial the last one reported, or none.
    pruned
        Why it was pruned; "" if it was not.
    """

    values: Sequence[float]
    pruned: str
    wall_s: float


@dataclass(frozen=True)
class Ended:
    """What there was to do for a trial is done, and told; there may be something to do after it."""

    claim: Claim


Step = Pause | Draw | ScorePart | Evaluate | Ended
# The steps of one trial.
RunTrial = Callable[[Claim], Generator[Step, Any, None]]


# What is not stored yet of a trial: scores of parts, or writes.
_Unsaved = TypeVar("_Unsaved", contravariant=True)


class AnyLedger(Protocol[_Unsaved]):
    """What the loop asks of a ledger; `hpo.storage.ledger.Ledger` says what each of them means."""

    def claim(self, worker_id: str, /) -> Claim | Answer:
        """Take a unit of budget."""

    def save(self, claim: Claim, unsaved: _Unsaved, /) -> None:
        """Store what is known of a trial in the middle of it."""

    def fail(self, claim: Claim, reason: str, unsaved: _Unsaved, /) -> None:
        """Give up a trial."""

    def release(self, claim: Claim, unsaved: _Unsaved, reason: str, /) -> None:
        """Leave a trial to another worker."""


class LedgerProtocol(AnyLedger[Parts], Protocol):
    """What is asked of a ledger of trials that are scored part by part."""

    def save_params(
        self,
        claim: Claim,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
    ) -> None:
        """Store the parameters of a trial."""

    def finish(
        self,
        claim: Claim,
        scores: Scores,
        parts: Parts,
        pruned: str,
        settled: ResolvedTrial | None,
        judged: Judged,
    ) -> None:
        """Tell the result of a trial, or why it was pruned, and parts that are not stored."""


class WholeLedger(AnyLedger[TrialWrites], Protocol):
    """What is asked of a ledger of trials that are evaluated as a whole."""

    def finish_whole(
        self,
        claim: Claim,
        values: Sequence[float],
        writes: TrialWrites,
        pruned: str,
        wall_s: float,
    ) -> None:
        """Tell the values of a trial, or why it was pruned."""


class Scored(Protocol):
    """What the loop asks of an objective, which raises ObjectiveError and nothing else.

    `hpo.worker.checked_objective` makes one of any objective; it may have `settle`, too.
    """

    parts: Sequence[str]

    def combine(self, parts: Sequence[Scores]) -> Scores:
        """Combine the scores of all parts."""

    def judge(self, scores: Scores) -> Judged:
        """Return the values of a trial that keeps these scores, and what constraints it breaks."""


def poll_interval(lease_s: float) -> float:
    """Return after how many seconds a worker without a trial asks again, at most."""
    return min(20.0, max(0.5, lease_s / 6.0))


def work(
    ledger: AnyLedger[Any], worker_id: str, run_trial: RunTrial, poll_s: float
) -> Generator[Step, Any, Answer]:
    """Run trials until there is nothing left to do, and return why.

    Throw ObjectiveError into it if the objective refused a trial, StopRequested if the worker has
    to leave. What it does not expect comes out again.

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
            _log.info("trial %d: attempt %d begins", answer.number, answer.attempt)
            yield from run_trial(answer)


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
            ledger.save(self.claim, unsaved)
            self._n_stored = len(self.parts)


def run_parts(
    ledger: LedgerProtocol,
    objective: Scored,
    space: Mapping[str, BaseDistribution],
    checkpoint_s: float,
    prune: Prune | None,
    claim: Claim,
) -> Generator[Step, Any, None]:
    """Score a trial part by part.

    Scores of parts are stored with the result of their trial, and before that whenever losing
    them would cost `checkpoint_s` seconds of work or more. `prune` is asked before every part but
    the first.
    """
    trial = _Trial(claim)
    with _ending(ledger, claim, lambda: trial.unsaved):
        pruned = yield from _score(ledger, trial, objective, space, checkpoint_s, prune)
        scores, settled = sum_up(objective, trial.parts, pruned)
        judged = BY_SCORE if pruned else objective.judge(scores)
        ledger.finish(claim, scores, trial.unsaved, pruned, settled, judged)
        _log_end(claim, pruned, judged.values, scores[WALL_KEY])


def run_whole(
    ledger: WholeLedger, unsaved: Callable[[], TrialWrites], claim: Claim
) -> Generator[Step, Any, None]:
    """Evaluate a trial as a whole; `unsaved` returns what of it is not stored."""
    with _ending(ledger, claim, unsaved):
        done: Evaluation = yield Evaluate(claim)
        ledger.finish_whole(claim, done.values, unsaved(), done.pruned, done.wall_s)
        _log_end(claim, done.pruned, done.values, done.wall_s)


_Left = TypeVar("_Left", Parts, TrialWrites)


@contextlib.contextmanager
def _ending(ledger: AnyLedger[_Left], claim: Claim, unsaved: Callable[[], _Left]) -> Iterator[None]:
    """Tell the ledger of a trial that does not come to its end."""
    try:
        yield
    except StopRequested as exc:
        with contextlib.suppress(LostLeaseError):
            if exc.release:
                ledger.release(claim, unsaved(), str(exc))
            elif left := unsaved():
                ledger.save(claim, left)
        _log.info("trial %d: released, %s", claim.number, exc)
        raise
    except LostLeaseError as exc:
        _log.warning("trial %d: taken over, nothing was told: %s", claim.number, exc)
    except ObjectiveError as exc:
        # The objective refused these parameters; the next ones may be better.
        _log.warning("trial %d: failed: %s", claim.number, exc, exc_info=exc.__cause__)
        with contextlib.suppress(LostLeaseError):
            # The reason reaches pages and other servers; an error may quote the environment.
            ledger.fail(claim, redact(str(exc)), unsaved())


def _log_end(claim: Claim, pruned: str, values: Sequence[float], wall_s: float) -> None:
    if pruned:
        _log.info("trial %d: pruned, %s", claim.number, pruned)
        return
    shown = ", ".join(f"{value:.6g}" for value in values)
    _log.info("trial %d: finished, score %s in %.2f s", claim.number, shown, wall_s)


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


def sum_up(
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
