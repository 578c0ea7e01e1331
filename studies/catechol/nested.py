"""Nested selection: a trial is chosen for every fold by the scores of the other folds.

    python -m studies.catechol.nested mlp lightgbm

The best trial's own error is too good, as it was chosen by that very error. Two choices are better:

- by the other folds: for each fold the trial with the best mean over the other 36. The fold judges
  what it did not choose; but the models that chose were fitted to it, too.
- nested, where STUDY.outer0 to STUDY.outer3 are finished (`--variant outer0` and so on): each is a
  search of its own that neither scored nor saw a quarter of the solvents and ramps. Its best
  trial's parameters are fitted to everything but one of these, as in the official splits, and
  judged by that: Varma & Simon, BMC Bioinformatics 7, 91 (2006). With `--committee M` also the mean
  of what the M best trials of each search predict: which of few good ones is best is luck.

Of several studies with outer searches, the mean of their predictions is judged, too.

`hpo nested` divides [cv], which an objective with splits of its own has not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.trial import TrialState

from hpo.commands.common import add_shared, open_storage, positive, print_line, say
from hpo.errors import HpoError, ObjectiveError, StudyNotFoundError
from hpo.records import Access, part_key
from hpo.report.comparison_tables import align
from hpo.storage.storage import StudyStorage
from hpo.study.integrity import open_study
from hpo.study.record import StudyRecord, find
from hpo.study.snapshot import trials_of
from hpo.system.threads import use_threads
from studies.catechol.measurements import RAMP, SINGLE
from studies.catechol.objective import OUTER_FOLDS, LeaveOneOut, score

RESAMPLES = 10_000
_NESTED = "nested"
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Judged:
    """What a study's search is worth.

    Attributes
    ----------
    objective
        Of all folds.
    errors
        By choice, the error on each fold: arrays of shape (n_folds,).
    predicted
        By nested choice, the yields of each fold: arrays of shape (n_rows, 3).
    """

    objective: LeaveOneOut
    errors: Mapping[str, Floats]
    predicted: Mapping[str, Sequence[Floats]]


def judge(storage: StudyStorage, name: str, committee: int = 1) -> Judged:
    """Judge the search of a study, by its outer searches where there is each of them.

    Raises
    ------
    ObjectiveError
        If the study leaves no solvents out, has no complete trial, or is not what it was.
    """
    record = find(storage, name)
    objective = _open(record)
    errors, predicted = choose(read_errors(record, objective)), {}
    if outer := _find_outer(storage, name):
        for size in sorted({1, committee}):
            best = [best_params(one, size) for one in outer]
            predicted[_NESTED if size == 1 else f"{_NESTED}, {size} each"] = predict_outer(
                objective, best
            )
    for how, of_folds in predicted.items():
        errors[how] = score_folds(objective, of_folds)
    return Judged(objective, errors, predicted)


def judge_together(judged: Sequence[Judged]) -> Judged:
    """Judge the mean of what several studies predict, by every nested choice that all have."""
    objective, errors, predicted = judged[0].objective, {}, {}
    for how in judged[0].predicted:
        if all(how in one.predicted for one in judged):
            each = zip(*(one.predicted[how] for one in judged), strict=True)
            predicted[how] = [np.mean(of_fold, axis=0) for of_fold in each]
            errors[how] = score_folds(objective, predicted[how])
    return Judged(objective, errors, predicted)


def read_errors(record: StudyRecord, objective: LeaveOneOut) -> Floats:
    """Return the stored errors of a study's complete trials, of shape (n_trials, n_folds).

    Raises
    ------
    ObjectiveError
        If there is no complete trial.
    """
    keys = [part_key(part) for part in range(len(objective.parts))]
    trials = trials_of(record, TrialState.COMPLETE)
    if not trials:
        raise ObjectiveError(f"study '{record.name}' has no complete trial yet")
    return np.array([[trial.user_attrs[key]["score"] for key in keys] for trial in trials])


def choose(by_fold: Floats) -> dict[str, Floats]:
    """Return the errors on each fold of the best trial, and of the best by the other folds.

    Parameters
    ----------
    by_fold
        Array of shape (n_trials, n_folds).
    """
    n_folds = by_fold.shape[1]
    total = by_fold.sum(axis=1)
    others = (total[:, None] - by_fold).argmin(axis=0)
    return {
        "best trial": by_fold[total.argmin()],
        "by the other folds": by_fold[others, np.arange(n_folds)],
    }


def predict_outer(
    objective: LeaveOneOut, params: Sequence[Sequence[Mapping[str, Any]]]
) -> list[Floats]:
    """Predict each fold by the mean of the models that a search without it has found.

    Parameters
    ----------
    objective
        Of all folds.
    params
        Of each outer search, in the order of their shares, the parameters of its best trials.
    """
    return [
        np.mean(
            [
                objective.predict(one, fold.train, fold.validation)
                for one in params[k % len(params)]
            ],
            axis=0,
        )
        for k, fold in enumerate(objective.folds)
    ]


def score_folds(objective: LeaveOneOut, predicted: Sequence[Floats]) -> Floats:
    """Return the error on each fold, (n_folds,), of what is predicted for it."""
    y, pairs = objective.rows.y, zip(predicted, objective.folds, strict=True)
    return np.array([score(of_fold, y[fold.validation])["score"] for of_fold, fold in pairs])


def best_params(record: StudyRecord, size: int) -> list[Mapping[str, Any]]:
    """Return the parameters of the best trials of a finished outer search, the best first.

    Raises
    ------
    ObjectiveError
        If it is not finished.
    """
    counts = record.ledger.counts()
    if not counts.done:
        raise ObjectiveError(
            f"study '{record.name}' is not finished ({counts.finished} of {counts.budget} trials); "
            f"go on with: hpo resume {record.name}"
        )
    trials = trials_of(record, TrialState.COMPLETE)
    return [trial.params for trial in sorted(trials, key=lambda trial: trial.values[0])[:size]]


def resample(of_fold: Floats, task: NDArray[np.str_]) -> Floats:
    """Return means over folds drawn again, as many of each task, of shape (RESAMPLES,)."""
    stream = np.random.default_rng(0)
    total = np.zeros(RESAMPLES)
    for name in np.unique(task):
        mine = of_fold[task == name]
        total += mine[stream.integers(len(mine), size=(RESAMPLES, len(mine)))].sum(axis=1)
    return total / len(of_fold)


def summarise(objective: LeaveOneOut, of_fold: Floats) -> list[str]:
    """Return what errors on folds come to, with a 95 % interval over folds, as texts."""
    task = np.array([name.partition(" ")[0] for name in objective.parts])
    rows = np.array([len(fold.validation) for fold in objective.folds])
    low, high = np.percentile(resample(of_fold, task), [2.5, 97.5])
    of_task = [of_fold[task == name].mean() for name in (SINGLE, RAMP)]
    points = (of_fold * rows).sum() / rows.sum()
    first, *rest = (f"{value:.5f}" for value in (of_fold.mean(), points, *of_task))
    return [first, f"{low:.5f} to {high:.5f}", *rest]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what the searches of some studies are worth."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.catechol.nested",
        description="What the searches of studies are worth, beside their best trials.",
    )
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument(
        "--committee",
        type=positive,
        default=1,
        metavar="M",
        help="judge the mean of the M best trials of each outer search, too",
    )
    add_shared(parser, "storage")
    options = parser.parse_args(arguments)
    use_threads(1)
    table = [["study", "chosen", "fold mean", "95 %", "all points", SINGLE, RAMP]]
    try:
        storage = open_storage(options, Access.READ)
        judged = {name: judge(storage, name, options.committee) for name in options.names}
        nested = [one for one in judged.values() if one.predicted]
        if len(nested) > 1:
            judged["mean of these"] = judge_together(nested)
        for name, one in judged.items():
            for k, (how, of_fold) in enumerate(one.errors.items()):
                table.append(["" if k else name, how, *summarise(one.objective, of_fold)])
    except HpoError as exc:
        say(f"error: {exc}")
        return exc.exit_code
    for line in align(table):
        print_line(line)
    print_line("95 %: folds drawn again, solvents and ramps apart")
    return 0


def _open(record: StudyRecord) -> LeaveOneOut:
    opened = open_study(record)
    if not isinstance(opened.objective, LeaveOneOut):
        why = opened.problem or "its objective leaves no solvents out, or its table has changed"
        raise ObjectiveError(f"study '{record.name}': {why}")
    return opened.objective


def _find_outer(storage: StudyStorage, name: str) -> list[StudyRecord]:
    """Return the outer searches of a study; none if there is not each of them."""
    try:
        return [find(storage, f"{name}.outer{share}") for share in range(OUTER_FOLDS)]
    except StudyNotFoundError:
        return []


if __name__ == "__main__":
    sys.exit(main())
