"""What a worker does after a trial that it has brought to its end: callbacks and the terminator.

It happens once the result is stored, at most once for each trial, and costs no trial anything,
whatever it does. A trial that was ended from outside, by a limit or a death, has no such moment.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import optuna
from optuna.trial import FrozenTrial

from hpo.errors import LostLeaseError, ObjectiveError, StopRequested, StorageError
from hpo.objectives.callbacks import Callback, callbacks_of
from hpo.objectives.scores import refusing
from hpo.records import Claim
from hpo.redaction import redact
from hpo.study.record import StudyRecord
from hpo.study.search import make_terminator, should_terminate
from hpo.worker.signals import StopSignal

_log = logging.getLogger(__name__)
# A terminator is asked no more often, and one that failed not again so soon.
_SELDOM_S, _FAILED_S = 1.0, 60.0


class AfterTrial:
    """What is done after the trials of one worker.

    Parameters
    ----------
    stop
        What may interrupt a callback.
    take_back
        Undoes what a callback may have done to the process.
    """

    def __init__(
        self, record: StudyRecord, stop: StopSignal, take_back: Callable[[], None]
    ) -> None:
        self._record, self._stop, self._take_back = record, stop, take_back
        self._callbacks = callbacks_of(record.spec)
        self._terminator = None if record.spec.terminator is None else _Terminator(record)
        self._study: optuna.Study | None = None

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._callbacks) or self._terminator is not None

    def see(self, claim: Claim) -> None:
        """Do what is done after a trial, unless it goes on elsewhere.

        Raises
        ------
        StopRequested
            If the worker has to leave.
        """
        storage, ledger = self._record.storage, self._record.ledger
        if not ledger.has_ended(claim):
            return
        trial = storage.patiently(lambda: storage.get_trial(claim.trial_id))
        study = self._open()
        for name, callback in self._callbacks.items():
            self._call(name, callback, study, trial)
            if study._stop_flag:
                study._stop_flag = False
                ledger.stop("gently", limit=f"study.stop() in {name} after trial {trial.number}")
        if self._terminator is not None and self._terminator.is_due:
            self._call(self._terminator.name, self._terminator.ask, study, trial)

    def _open(self) -> optuna.Study:
        if self._study is None:
            self._study = self._record.storage.patiently(self._record.optuna_study)
            # Else `study.stop()` is refused.
            self._study._thread_local.in_optimize_loop = True
        return self._study

    def _call(self, name: str, callback: Callback, study: optuna.Study, trial: FrozenTrial) -> None:
        try:
            with refusing(name), self._stop.interruptible():
                callback(study, trial)
        except (ObjectiveError, LostLeaseError, StorageError) as exc:
            told = redact(str(exc))
            _log.warning("after trial %d: %s", trial.number, told, exc_info=exc.__cause__)
        except StopRequested as exc:
            if self._stop.reason is not None:
                raise
            # Nobody asked for it but the callback.
            _log.warning("after trial %d: %s: %s", trial.number, name, type(exc).__name__)
        finally:
            self._take_back()


class _Terminator:
    """Asks the terminator of a study, and stops the study where it says so."""

    def __init__(self, record: StudyRecord) -> None:
        spec = record.spec.terminator
        assert spec is not None
        self.name = f"[terminator] {spec.name}"
        self._ledger, self._terminator = record.ledger, make_terminator(spec, record.spec.seed)
        self._due = 0.0

    @property
    def is_due(self) -> bool:
        """Whether it is to be asked again: at most for a tenth of the time."""
        return time.monotonic() >= self._due

    def ask(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Ask it, after a trial."""
        began, seldom_s = time.monotonic(), _FAILED_S
        try:
            trials = study.get_trials(deepcopy=False)
            over = should_terminate(self._terminator, study.study_name, trials, study.direction)
            seldom_s = _SELDOM_S
        finally:
            now = time.monotonic()
            self._due = now + max(seldom_s, 9.0 * (now - began))
        if over:
            said = f"{self.name} expects no better trial (after trial {trial.number})"
            self._ledger.stop("gently", limit=said)
