"""Faults, and what must be true of a study that lived through them.

A `Chaos` has faults by name, each a call that does one, and does them in a seeded random order. It
remembers what it has done, undoes what must not last, and goes on until the study is finished.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import sqlalchemy as sa
from optuna.trial import TrialState

from hpo.records import Counts
from hpo.storage.events import EventKind
from hpo.storage.schema import CLAIMS
from hpo.study.record import StudyRecord

N_PARTS = 3


class Chaos:
    """A seeded sequence of faults.

    Parameters
    ----------
    faults
        What can be done, by name; a fault that finds nothing to hit returns False.
    keep_alive
        Called between faults: what a user's `hpo refill --watch` or second `hpo run` does.
    finished
        Whether the study is finished.
    rare
        Faults that end all workers at once, and are done a quarter as often as the others.
    """

    def __init__(
        self,
        faults: Mapping[str, Callable[[], bool | None]],
        keep_alive: Callable[[], object],
        finished: Callable[[], bool],
        seed: int,
        rare: Collection[str] = (),
    ) -> None:
        self.weights = [0.25 if name in rare else 1.0 for name in faults]
        self.faults, self.keep_alive, self.finished = dict(faults), keep_alive, finished
        self.rng = random.Random(seed)
        self.done: Counter[str] = Counter()
        self._later: list[tuple[float, Callable[[], object]]] = []

    def later(self, after_s: float, undo: Callable[[], object]) -> None:
        """Undo something after a while."""
        self._later.append((time.monotonic() + after_s, undo))

    def run(self, n_faults: int, pause_s: float, within_s: float) -> None:
        """Do so many faults, then let the study finish."""
        deadline = time.monotonic() + within_s
        # Every kind once, then by chance.
        waiting = list(self.faults)
        self.rng.shuffle(waiting)
        next_fault = time.monotonic()
        while not self.finished():
            assert time.monotonic() < deadline, f"not finished within {within_s} s; {self.done}"
            self._undo_what_is_due()
            if sum(self.done.values()) < n_faults and time.monotonic() >= next_fault:
                name = waiting.pop() if waiting and self.rng.random() < 0.7 else self._choose()
                if self.faults[name]() is not False:
                    self.done[name] += 1
                elif name not in self.done and name not in waiting:
                    waiting.insert(0, name)  # There was nothing to hit yet.
                next_fault = time.monotonic() + self.rng.uniform(0.5, 1.5) * pause_s
            self.keep_alive()
            time.sleep(0.1)
        for _, undo in self._later:
            undo()
        self._later.clear()

    def _choose(self) -> str:
        return self.rng.choices(list(self.faults), self.weights)[0]

    def _undo_what_is_due(self) -> None:
        due = [item for item in self._later if item[0] <= time.monotonic()]
        self._later = [item for item in self._later if item not in due]
        for _, undo in due:
            undo()


def send(pid: int, number: int) -> bool:
    """Send a signal to a process that may be gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def freeze(chaos: Chaos, pid: int, for_s: float) -> bool:
    """Stop a process for longer than its lease; it goes on as if nothing had been."""
    if not send(pid, signal.SIGSTOP):
        return False
    chaos.later(for_s, lambda: send(pid, signal.SIGCONT))
    return True


def read_journal(path: Path) -> list[tuple[str, int]]:
    """Parameter and part of every line, in the order of their writing."""
    lines = path.read_text().splitlines()
    return [(line.split()[0], int(line.split()[1])) for line in lines]


def computed_again(journal: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Parts that began although the score of that part had been stored before."""
    reached: dict[str, int] = {}
    again = []
    for alpha, part in journal:
        # Part k begins after 0 to k - 1 were stored; the last one is stored with the result.
        if part < reached.get(alpha, 0):
            again.append((alpha, part))
        reached[alpha] = max(part, reached.get(alpha, 0))
    return again


def check_books(record: StudyRecord, journal_path: Path, budget: int) -> dict[str, int]:
    """Assert that a study is what its budget says, and return the figures.

    Exactly `budget` trials COMPLETE with the right value and all parts, nothing RUNNING, nothing
    twice, and no part computed again after its score was acknowledged.
    """
    trials = record.storage.get_all_trials(record.study_id, deepcopy=False)
    states = Counter(trial.state for trial in trials)
    journal = read_journal(journal_path)
    again = computed_again(journal)
    alphas = [t.params["alpha"] for t in trials if t.state is TrialState.COMPLETE]
    begun = Counter(journal)
    with record.storage.read() as c:
        attempts = c.execute(
            sa.select(sa.func.sum(CLAIMS.c.attempt)).where(CLAIMS.c.study_id == record.study_id)
        ).scalar_one()
    figures = {
        "finished": states[TrialState.COMPLETE],
        "running": states[TrialState.RUNNING],
        "waiting": states[TrialState.WAITING],
        "failed": states[TrialState.FAIL],
        "twice": len(alphas) - len(set(alphas)),
        "lost": budget - len(set(alphas)),
        "parts": len(begun),
        "begun again before their score was stored": sum(begun.values()) - len(begun),
        "computed again after their score was stored": len(again),
        "attempts": int(attempts),
        "deaths": len(record.ledger.events(EventKind.DEATH)),
    }
    assert states == {TrialState.COMPLETE: budget}, figures
    assert again == [], figures
    assert figures["twice"] == figures["lost"] == 0, figures
    assert record.ledger.counts() == Counts(budget, finished=budget)
    for trial in trials:
        alpha = trial.params["alpha"]
        assert trial.values == [sum((alpha - 1.0) ** 2 + part for part in range(N_PARTS))]
        assert set(trial.intermediate_values) == set(range(N_PARTS))
    assert set(begun) == {(repr(alpha), part) for alpha in alphas for part in range(N_PARTS)}
    return figures
