"""What a search is worth: a trial is chosen for every fold by what that fold has no part in.

    python -m studies.catechol.nested kernel kernel.nested

The best trial's own error is too good, as it was chosen by that very error. Two choices are better:

- by the other folds: for each fold the trial with the best mean over the other 36. The fold judges
  what it did not choose; but the models that chose were fitted to it, too.
- nested, where a study left two out (`--variant nested`): for solvent k the trial whose models,
  fitted without k, do best on the other solvents, each of them left out in turn; and likewise for
  ramps. Nothing of k is in the choice: Varma & Simon, BMC Bioinformatics 7, 91 (2006). Its trials
  have to be drawn without regard to one another, at random.

With `--committee M` the M best trials are chosen instead of one and fitted again without the fold,
and the mean of what they predict is judged: which of few good trials is the best is a matter of
luck. `--together` judges the mean of several studies, too, each by its own choice.

`hpo nested` repeats a whole search for each fold held out, which takes as many times as long; and
it divides [cv], which an objective with splits of its own has not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.trial import TrialState

from hpo.commands.common import add_shared, open_storage, positive, print_line, say
from hpo.comparison import align
from hpo.errors import HpoError, ObjectiveError
from hpo.ledger import part_key
from hpo.study import StudyRecord, find
from studies.catechol.measurements import RAMP, SINGLE
from studies.catechol.objective import LeaveOneOut, score

RESAMPLES = 10_000
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Errors:
    """Mean squared errors of the complete trials of a study.

    Attributes
    ----------
    params
        Parameters of each trial.
    by_fold
        Array of shape (n_trials, n_folds).
    inner
        Array of shape (n_trials, n_folds, n_folds): [t, k, j] is the error on fold j of the model
        fitted without j and k, NaN where j is k or of the other task; None if none were fitted.
    n_rows
        Array of shape (n_folds,).
    task
        Array of shape (n_folds,): "solvent" or "ramp".
    """

    params: Sequence[Mapping[str, Any]]
    by_fold: Floats
    inner: Floats | None
    n_rows: Floats
    task: NDArray[np.str_]


@dataclass(frozen=True, eq=False)
class Choice:
    """Trials chosen for every fold, as positions of shape (n_folds, n_chosen), and how."""

    how: str
    chosen: Ints


def read_errors(record: StudyRecord, objective: LeaveOneOut) -> Errors:
    """Read the errors of a study's complete trials from its storage.

    Raises
    ------
    ObjectiveError
        If there is no complete trial.
    """
    keys = [part_key(part) for part in range(len(objective.parts))]
    trials = [
        trial
        for trial in record.optuna_study().get_trials(states=[TrialState.COMPLETE])
        if all(key in trial.user_attrs for key in keys)
    ]
    if not trials:
        raise ObjectiveError(f"study '{record.name}' has no complete trial yet")
    parts = [[trial.user_attrs[key] for key in keys] for trial in trials]
    left_two_out = all("pairs" in part for of_trial in parts for part in of_trial)
    return Errors(
        params=[trial.params for trial in trials],
        by_fold=np.array([[part["score"] for part in of_trial] for of_trial in parts]),
        inner=np.array([_pairs_of(of_trial) for of_trial in parts]) if left_two_out else None,
        n_rows=np.array([float(part["n"]) for part in parts[0]]),
        task=np.array([name.partition(" ")[0] for name in objective.parts]),
    )


def _pairs_of(parts: Sequence[dict[str, str]]) -> Floats:
    """Return the errors of the models that a trial fitted without two folds."""
    found = np.full((len(parts), len(parts)), np.nan)
    for fold, part in enumerate(parts):
        for other, of_other, of_fold in json.loads(part["pairs"]):
            found[fold, other], found[other, fold] = of_other, of_fold
    return found


def choose(errors: Errors, size: int) -> list[Choice]:
    """Choose so many trials for every fold: the best of all, by the other folds, and nested."""
    n_folds = errors.by_fold.shape[1]
    whole = np.repeat(errors.by_fold.mean(axis=1, keepdims=True), n_folds, axis=1)
    others = (n_folds * whole - errors.by_fold) / (n_folds - 1)
    by = {"by all folds": whole, "by the other folds": others}
    if errors.inner is not None:
        by["nested"] = np.nanmean(errors.inner, axis=2)
    return [Choice(how, np.argsort(told, axis=0)[:size].T) for how, told in by.items()]


def judge(objective: LeaveOneOut, errors: Errors, choice: Choice) -> Floats:
    """Return the error on each fold of the mean prediction of what was chosen for it."""
    if choice.chosen.shape[1] == 1:
        return errors.by_fold[choice.chosen[:, 0], np.arange(len(choice.chosen))]
    return judge_predictions(objective, predict_chosen(objective, errors, choice))


def predict_chosen(objective: LeaveOneOut, errors: Errors, choice: Choice) -> list[Floats]:
    """Fit what was chosen for each fold without it, and return the mean of the predictions."""
    found = []
    for fold, chosen in zip(objective.folds, choice.chosen, strict=True):
        predicted = [
            objective.predict(errors.params[trial], fold.train, fold.validation) for trial in chosen
        ]
        found.append(np.mean(predicted, axis=0))
    return found


def judge_predictions(objective: LeaveOneOut, predicted: Sequence[Floats]) -> Floats:
    """Return the error on each fold of what is predicted for it."""
    y = objective.rows.y
    pairs = zip(predicted, objective.folds, strict=True)
    return np.array([score(of_fold, y[fold.validation])["score"] for of_fold, fold in pairs])


def summarise(errors: Errors, choice: Choice, of_fold: Floats) -> list[str]:
    """Return a line of the table: what a choice is worth, with a 95 % interval over folds."""
    low, high = np.percentile(resample(of_fold, errors.task), [2.5, 97.5])
    of_task = [of_fold[errors.task == task].mean() for task in (SINGLE, RAMP)]
    points = (of_fold * errors.n_rows).sum() / errors.n_rows.sum()
    first, *rest = (f"{value:.5f}" for value in (of_fold.mean(), points, *of_task))
    n_chosen = len(np.unique(choice.chosen))
    return [choice.how, first, f"{low:.5f} to {high:.5f}", *rest, str(n_chosen)]


def resample(of_fold: Floats, task: NDArray[np.str_]) -> Floats:
    """Return means over folds drawn again, as many of each task, of shape (RESAMPLES,)."""
    stream = np.random.default_rng(0)
    total = np.zeros(RESAMPLES)
    for name in np.unique(task):
        mine = of_fold[task == name]
        total += mine[stream.integers(len(mine), size=(RESAMPLES, len(mine)))].sum(axis=1)
    return total / len(of_fold)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what the searches of some studies are worth."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.catechol.nested",
        description="What the searches of studies are worth, beside their best trials.",
    )
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument(
        "--committee", type=positive, default=1, metavar="M", help="trials per fold (default: 1)"
    )
    parser.add_argument(
        "--together", action="store_true", help="judge the mean of all studies' predictions, too"
    )
    add_shared(parser, "storage")
    options = parser.parse_args(arguments)
    try:
        table = [["study", "chosen", "fold mean", "95 %", "all points", SINGLE, RAMP, "trials"]]
        storage = open_storage(options)
        opened = {name: _open(find(storage, name)) for name in options.names}
        for name, (objective, errors) in opened.items():
            table += _lines(name, objective, errors, options.committee)
        if options.together:
            table += _lines_together(list(opened.values()), options.committee)
    except HpoError as exc:
        say(f"error: {exc}")
        return exc.exit_code
    for line in align(table):
        print_line(line)
    print_line("95 %: folds drawn again, solvents and ramps apart; trials: how many were chosen")
    return 0


def _open(record: StudyRecord) -> tuple[LeaveOneOut, Errors]:
    """Return the objective of a study, and the errors of its trials."""
    _, objective = record.open_objective()
    if not isinstance(objective, LeaveOneOut):
        raise ObjectiveError(f"study '{record.name}' is none of leaving solvents or ramps out")
    return objective, read_errors(record, objective)


def _lines(name: str, objective: LeaveOneOut, errors: Errors, size: int) -> list[list[str]]:
    """Return the lines of one study in the table."""
    lines = []
    for k, choice in enumerate(choose(errors, size)):
        first = f"{name} ({len(errors.params)})" if k == 0 else ""
        of_fold = judge(objective, errors, choice)
        lines.append([first, *summarise(errors, choice, of_fold)])
    return lines


def _lines_together(opened: Sequence[tuple[LeaveOneOut, Errors]], size: int) -> list[list[str]]:
    """Return the lines of the mean of what all studies predict, each by its own choice."""
    lines: list[list[str]] = []
    for choices in zip(*(choose(errors, size) for _, errors in opened), strict=False):
        predicted = [
            predict_chosen(objective, errors, choice)
            for (objective, errors), choice in zip(opened, choices, strict=True)
        ]
        means = [np.mean(of_fold, axis=0) for of_fold in zip(*predicted, strict=True)]
        objective, errors = opened[0]
        of_fold = judge_predictions(objective, means)
        first = "" if lines else "all together"
        lines.append([first, *summarise(errors, choices[0], of_fold)[:-1], ""])
    return lines


if __name__ == "__main__":
    sys.exit(main())
