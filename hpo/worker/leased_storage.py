"""Optuna's storage as an objective sees it that is given a trial: one trial to write, all to read.

What an objective tells of its trial (parameters, reports, attributes) is kept and stored together:
with the result, and before that at the latest `checkpoint_s` after it was told, by a thread, so
that a trial that is taken over goes on with what its objective has acted upon. What was drawn is
stored sooner: samplers of other workers keep away from it. All of it is stored in the name of a
claim, and refused if that is over.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import threading
import time
from collections.abc import Callable, Container, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo.records import FAILURE_KEY, PRUNED_KEY, WALL_KEY, WORKER_KEY, Claim, TrialWrites
from hpo.storage.storage import StudyStorage
from hpo.worker.trial_cache import StudyAttributes

# Attributes of a trial that the engine stores.
_OURS = frozenset({FAILURE_KEY, PRUNED_KEY, WALL_KEY, WORKER_KEY})
# How long a draw may be kept from other workers; a trial that is over sooner saves a transaction.
DRAWN_S = 0.03
Trials = Callable[[], list[FrozenTrial]]
Save = Callable[[Claim, TrialWrites], None]


class Keeper:
    """Stores in time what the trial in hand has told: a thread that lives as long as its worker."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._next: tuple[float, LeasedTrial] | None = None
        self._thread: threading.Thread | None = None
        self._ended = False

    def store_at(self, due: float, trial: LeasedTrial) -> None:
        """Have what a trial has told stored at a time of the monotonic clock, unless it is then."""
        with self._changed:
            # Whoever waits for an earlier moment looks again then: most trials are over by that.
            wakes_late = self._next is None or due < self._next[0]
            self._next = due, trial
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep, name="hpo-keeper", daemon=True)
                self._thread.start()
            elif wakes_late:
                self._changed.notify()

    def end(self) -> None:
        """End the thread, if there is one."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _keep(self) -> None:
        while True:
            with self._changed:
                while not self._ended and self._left_s() > 0.0:
                    self._changed.wait(None if self._next is None else self._left_s())
                if self._ended or self._next is None:
                    return
                (_, trial), self._next = self._next, None
            trial.store_due()

    def _left_s(self) -> float:
        return math.inf if self._next is None else self._next[0] - time.monotonic()


class LeasedTrial:
    """The trial in hand: what is known of it, and what of that is not stored yet.

    Parameters
    ----------
    keeper
        Has what became known stored in time.
    save
        Stores what became known; `hpo.storage.ledger.Ledger.save`.
    checkpoint_s
        How long something may be kept unstored; 0 stores each at once.
    uninterrupted
        A context within which no signal interrupts this thread.
    """

    def __init__(
        self,
        claim: Claim,
        stored: FrozenTrial,
        keeper: Keeper,
        save: Save,
        checkpoint_s: float,
        uninterrupted: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> None:
        self.claim, self.trial = claim, stored
        self.state: TrialState | None = None
        self.values: Sequence[float] | None = None
        self._keeper, self._save, self._checkpoint_s = keeper, save, checkpoint_s
        self._uninterrupted = uninterrupted
        self._unsaved = TrialWrites()
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._due: float | None = None

    @contextlib.contextmanager
    def changing(self, within_s: float = math.inf) -> Iterator[TrialWrites]:
        """Give the writes that are not stored yet, to add to them; stored within a time at most."""
        with self._uninterrupted():
            with self._lock:
                self._raise_failure()
                yield self._unsaved
                due = time.monotonic() + min(within_s, self._checkpoint_s)
                if self._due is None or due < self._due:
                    self._due = due
                    if self._checkpoint_s > 0.0:
                        self._keeper.store_at(due, self)
            if self._checkpoint_s == 0.0:
                self.flush()

    def flush(self) -> None:
        """Store what is not stored."""
        with self._uninterrupted(), self._lock:
            self._store()
            self._raise_failure()

    def take(self) -> TrialWrites:
        """Return what is not stored, for whoever stores it with the end of the trial."""
        with self._lock:
            self._raise_failure()
            return self._take()

    def store_due(self) -> None:
        """Store what is not stored, unless that has happened; called by the keeper's thread."""
        with self._lock:
            self._store()

    def _store(self) -> None:
        if writes := self._take():
            try:
                self._save(self.claim, writes)
            except BaseException as exc:  # told to the objective at its next call, or at its end
                self._failure = exc

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _take(self) -> TrialWrites:
        writes, self._due = self._unsaved, None
        self._unsaved = TrialWrites()
        if writes.reports:
            # How far the trial has come, for whoever counts attempts without progress.
            return TrialWrites(**{**vars(writes), "n_reports": len(self.trial.intermediate_values)})
        return writes


class LeasedStorage(BaseStorage):
    """What `trial.study` and samplers read and write while a trial is in hand.

    Parameters
    ----------
    storage
        Where the study is.
    trials
        Returns the trials that are shown to whoever does not ask for copies: samplers, pruners.
    """

    def __init__(self, storage: StudyStorage, study_id: int, trials: Trials) -> None:
        self._storage, self._study_id, self._trials = storage, study_id, trials
        self._directions = storage.get_study_directions(study_id)
        self._name = storage.get_study_name_from_id(study_id)
        self._attributes = StudyAttributes(storage, study_id)
        self._spaces: dict[str, BaseDistribution] = {}
        self.leased: LeasedTrial

    # The trial in hand ------------------------------------------------------------------------

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """Keep a parameter, whose distribution must be compatible with that of other trials."""
        trial = self._own(trial_id)
        check_distribution_compatibility(self._known_space(param_name, distribution), distribution)
        value = distribution.to_external_repr(param_value_internal)
        with self.leased.changing(DRAWN_S) as unsaved:
            trial.params[param_name] = unsaved.params[param_name] = value
            trial.distributions[param_name] = unsaved.distributions[param_name] = distribution

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        """Keep a report."""
        trial = self._own(trial_id)
        with self.leased.changing() as unsaved:
            trial.intermediate_values[step] = unsaved.reports[step] = intermediate_value

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Keep an attribute, which JSON must be able to hold."""
        trial = self._own(trial_id)
        if key in _OURS:
            raise ValueError(f"attribute '{key}': this name is kept for the engine's own")
        json.dumps(value)
        with self.leased.changing() as unsaved:
            trial.user_attrs[key] = unsaved.user_attrs[key] = value

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Keep an attribute of Optuna's own."""
        trial = self._own(trial_id)
        json.dumps(value)
        with self.leased.changing(DRAWN_S) as unsaved:
            trial.system_attrs[key] = unsaved.system_attrs[key] = value

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Note how the trial ended; the worker tells it to the ledger."""
        self._own(trial_id)
        self.leased.state, self.leased.values = state, values
        return True

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        """Return the id of a trial."""
        own = self.leased.trial
        if trial_number == own.number:
            return own._trial_id
        return self._storage.get_trial_id_from_study_id_trial_number(study_id, trial_number)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return a copy of a trial."""
        own = self.leased.trial
        return (
            copy.deepcopy(own) if trial_id == own._trial_id else self._storage.get_trial(trial_id)
        )

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """Return the trials of the study, the one in hand as it is now."""
        own = self.leased.trial
        found = self._storage.get_all_trials(study_id) if deepcopy else self._trials()
        others = (trial for trial in found if trial.number != own.number)
        trials = [*others, copy.deepcopy(own) if deepcopy else own]
        shown = (trial for trial in trials if states is None or trial.state in states)
        return sorted(shown, key=lambda trial: trial.number)

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        """Return the best complete trial."""
        return self._storage.get_best_trial(study_id)

    def _own(self, trial_id: int) -> FrozenTrial:
        if trial_id != self.leased.trial._trial_id:
            raise RuntimeError("an objective may change its own trial alone, of others it may read")
        return self.leased.trial

    def _known_space(self, name: str, distribution: BaseDistribution) -> BaseDistribution:
        """Return the distribution that a parameter has in other trials, if there is one."""
        if name not in self._spaces:
            found = (t.distributions[name] for t in self._trials() if name in t.distributions)
            self._spaces[name] = next(found, distribution)
        return self._spaces[name]

    # The study --------------------------------------------------------------------------------

    def get_study_id_from_name(self, study_name: str) -> int:
        """Return the id of the study, or of another one."""
        if study_name == self._name:
            return self._study_id
        return self._storage.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        """Return the name of a study."""
        if study_id == self._study_id:
            return self._name
        return self._storage.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Return which values are better."""
        if study_id == self._study_id:
            return self._directions
        return self._storage.get_study_directions(study_id)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Return the attributes of a study."""
        return self._storage.get_study_user_attrs(study_id)

    def get_study_system_attrs(
        self,
        study_id: int,  # noqa: ARG002  there is one
    ) -> dict[str, Any]:
        """Return the attributes that samplers keep with a study."""
        return self._attributes.read()

    def get_all_studies(self) -> list[Any]:
        """Return the studies of the storage."""
        return self._storage.get_all_studies()

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Store an attribute of the study."""
        self._storage.set_study_user_attr(study_id, key, value)

    def set_study_system_attr(
        self,
        study_id: int,  # noqa: ARG002  there is one
        key: str,
        value: Any,
    ) -> None:
        """Store what a sampler keeps with the study, unless that has changed since it was read."""
        self._attributes.write(key, value)

    def create_new_study(
        self,
        directions: Sequence[StudyDirection],  # noqa: ARG002  as Optuna has it
        study_name: str | None = None,
    ) -> NoReturn:
        """Refuse it: not in the middle of a trial."""
        raise RuntimeError(f"{study_name}: an objective cannot make a study in its own storage")

    def delete_study(self, study_id: int) -> NoReturn:
        """Refuse it: not in the middle of a trial."""
        raise RuntimeError(f"study {study_id}: an objective cannot delete a study")

    def create_new_trial(
        self,
        study_id: int,
        template_trial: FrozenTrial | None = None,  # noqa: ARG002  as Optuna has it
    ) -> NoReturn:
        """Refuse it: trials are made within the budget of the study."""
        raise RuntimeError(
            f"study {study_id}: an objective cannot make trials; enqueue them: hpo enqueue"
        )


def new_trial(claim: Claim) -> FrozenTrial:
    """Return a trial of which nothing is stored."""
    return FrozenTrial(
        trial_id=claim.trial_id,
        number=claim.number,
        state=TrialState.RUNNING,
        value=None,
        values=None,
        datetime_start=datetime.now(UTC).replace(tzinfo=None),
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs={},
        system_attrs={},
        intermediate_values={},
    )
