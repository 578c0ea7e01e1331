"""What must be true of a study that lived through faults: its budget, its deaths, its GPUs."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
from optuna.trial import TrialState

from hpo.records import Counts
from hpo.storage.events import EventKind
from hpo.storage.schema import CLAIMS, WORKERS
from hpo.study.record import StudyRecord
from tests.support.chaos.objective import DEADLY, HANGS, N_PARTS, troubles_taken


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


def check_books(
    record: StudyRecord, journal_path: Path, budget: int, *, may_overlap: bool = False
) -> dict[str, int]:
    """Assert that a study is what its budget says, and return the figures.

    Exactly `budget` trials COMPLETE with the right value and all parts, nothing RUNNING, nothing
    twice, and no part computed again after its score was acknowledged; unless attempts
    `may_overlap`: a program goes on for a moment after its worker was stopped.
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
    assert again == [] or may_overlap, figures
    assert figures["twice"] == figures["lost"] == 0, figures
    assert record.ledger.counts() == Counts(budget, finished=budget)
    for trial in trials:
        alpha = trial.params["alpha"]
        assert trial.values == [sum((alpha - 1.0) ** 2 + part for part in range(N_PARTS))]
        assert set(trial.intermediate_values) == set(range(N_PARTS))
    assert set(begun) == {(repr(alpha), part) for alpha in alphas for part in range(N_PARTS)}
    return figures


def check_deaths(
    record: StudyRecord, folder: Path, struck: Collection[int], lost_jobs: Collection[str] = ()
) -> dict[str, object]:
    """Assert that nobody died, and no limit was exceeded, but for a reason; return the figures.

    A worker that no fault was aimed at may have been killed by a cluster that had lost its job; it
    has then told nothing after its death.

    Parameters
    ----------
    folder
        Holds `taken`, the troubles that the objective has made, each with its worker.
    struck
        Process ids of the workers that faults have killed or silenced, or the launchers of which.
    lost_jobs
        Jobs that SLURM takes for ended although their processes live.
    """
    with record.storage.read() as c:
        query = sa.select(WORKERS.c.worker_id, WORKERS.c.pid, WORKERS.c.log, WORKERS.c.job)
        rows = c.execute(query.where(WORKERS.c.study_id == record.study_id)).all()
    pids: dict[str, int] = {row.worker_id: row.pid for row in rows}
    lost = {row.worker_id for row in rows if row.job in lost_jobs}
    logs = {row.worker_id: Path(row.log) for row in rows if row.log}
    taken = troubles_taken(folder)
    hung = {worker for name, worker in taken if name == HANGS}
    left = {worker for name, worker in taken if name in DEADLY}
    deaths = record.ledger.events(EventKind.DEATH)
    limits = record.ledger.events(EventKind.LIMIT)
    false_limits = [
        limit
        for limit in limits
        if limit["worker"] not in hung and pids[limit["worker"]] not in struck
    ]
    false_deaths = [
        death
        for death in deaths
        if death["worker"] not in left | lost
        and pids[death["worker"]] not in struck
        and _last_told(logs[death["worker"]]) > death["at"]
    ]
    figures = {
        "workers": len(pids),
        "struck": len(set(struck) & set(pids.values())),
        "troubles": dict(Counter(name for name, _ in taken)),
        "deaths by reason": dict(Counter(_kind_of(death["reason"]) for death in deaths)),
        "over a limit": len(limits),
    }
    assert false_deaths == [], (false_deaths, figures)
    assert false_limits == [], (false_limits, figures)
    return figures


def _last_told(log: Path) -> float:
    """Return when a worker wrote something; one whose log is gone may have lived on."""
    return log.stat().st_mtime if log.is_file() else float("inf")


def _kind_of(reason: str) -> str:
    """Return a reason without ids and times."""
    return " ".join(word for word in reason.split() if not word[0].isdigit())


class Part(NamedTuple):
    """Somebody began a part: one line of the journal of a `Troubled` objective."""

    worker: str
    launcher: str
    gpus: str
    at_s: float


def read_parts(path: Path) -> list[Part]:
    """Return who computed what, in the order of their beginning."""
    lines = [line.split() for line in path.read_text().splitlines()]
    return [Part(line[2], line[3], line[4], float(line[6])) for line in lines]


def shared_too_often(parts: Collection[Part], workers_per_gpu: int) -> list[str]:
    """Return GPUs that more workers of one launcher than allowed had at the same time."""
    spans: dict[str, list[Part]] = defaultdict(list)
    for part in parts:
        if part.gpus != "-":
            spans[part.worker].append(part)
    places = defaultdict(list)
    for times in spans.values():
        # A worker without its launcher is another's child for a moment.
        places[times[0].launcher, times[0].gpus].append((times[0].at_s, times[-1].at_s))
    return [
        f"GPU {gpus} of launcher {launcher}"
        for (launcher, gpus), lives in places.items()
        if any(
            sum(began <= moment <= ended for began, ended in lives) > workers_per_gpu
            for moment in itertools.chain.from_iterable(lives)
        )
    ]
