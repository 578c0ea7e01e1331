"""The folder of a trial: there for whoever works on it, through death, requeue and another node."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import optuna
import sqlalchemy as sa

from hpo.objectives.programs.program import FOLDER_VARIABLE
from hpo.spec.sections import KeepTrialDirs
from hpo.storage.best import read_best_trials
from hpo.storage.schema import TRIALS
from hpo.study.record import StudyRecord
from hpo.worker.leased_storage import LeasedStorage


class TrialFolders:
    """The folders of a study's trials.

    Parameters
    ----------
    root
        The folder that they are in, by the trials' numbers; one that all machines share.
    """

    def __init__(self, record: StudyRecord, root: Path) -> None:
        self._record, self._root = record, root
        self._keep: KeepTrialDirs = record.spec.keep_trial_dirs

    @contextlib.contextmanager
    def of(self, number: int) -> Iterator[None]:
        """Let a trial have its folder, named by `HPO_TRIAL_DIR`; one left empty is removed."""
        folder = self._root / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[FOLDER_VARIABLE] = str(folder)
        try:
            yield
        finally:
            os.environ.pop(FOLDER_VARIABLE, None)
            with contextlib.suppress(OSError):
                folder.rmdir()

    def clean(self) -> None:
        """Remove what is not to be kept of trials that have ended."""
        if self._keep == "all" or not self._root.is_dir():
            return
        numbers = {int(path.name) for path in self._root.iterdir() if path.name.isdecimal()}
        for number in self._record.storage.patiently(lambda: self._dispensable(numbers)):
            shutil.rmtree(self._root / str(number), ignore_errors=True)

    def _dispensable(self, numbers: set[int]) -> set[int]:
        study_id = self._record.study_id
        query = sa.select(TRIALS.c.trial_id, TRIALS.c.number, TRIALS.c.state).where(
            TRIALS.c.study_id == study_id, TRIALS.c.number.in_(numbers)
        )
        with self._record.storage.read() as c:
            best = read_best_trials(c, study_id) if self._keep == "best" else ()
            return {
                number
                for trial_id, number, state in c.execute(query)
                if state.is_finished() and trial_id not in best
            }


def trial_dir(trial: optuna.Trial) -> Path:
    """Return the folder of a trial, for checkpoints and results.

    It survives the death of the worker and the requeue of its job: whoever takes the trial over
    finds there what was written. What the trial has drawn and told until now is stored first, so
    that it goes on with the same. In a program started by an objective it is `$HPO_TRIAL_DIR`. In a
    script that Optuna runs without hpo it is `trials/STUDY/NUMBER`.
    """
    if isinstance(trial.storage, LeasedStorage):
        trial.storage.leased.flush()
        return Path(os.environ[FOLDER_VARIABLE])
    folder = Path("trials") / trial.study.study_name / str(trial.number)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
