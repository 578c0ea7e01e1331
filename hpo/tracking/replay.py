"""Replays a study from its storage to Weights & Biases; no worker knows of it.

Every finished trial becomes one row of one run, whose id is made from the study. The guarantee:

- A trial's number is stored in the study before its row is logged, and a session that ended well
  stores what its rows were. After a crash the next session settles first what the dead one has
  truly logged: offline by reading its `.wandb` file, which is what `wandb sync` sends, online by
  the number of rows that the server has. What did not arrive is logged again; the rest never is.
- While a process is at work, no other one logs the study. On its own machine a process counts as
  at work as long as it lives; for other machines, until it gave no sign of life for LEASE_S.
- Where the truth cannot be found (the file of a dead session is on another machine or deleted,
  the run was changed by others) nothing is logged, and the message says what to do.

What is not covered: files or rows that a person deletes by hand, and a process that another
machine thinks dead although it was only suspended, in the instant between storing and logging.

Offline sessions cannot append to each other's files: each makes a folder of its own with the same
run id, marked as resumed, and `wandb sync` appends them in the order in which they were begun. The
rows of a folder count their steps from 0, which `wandb sync` moves behind what the server has;
`order`, the row's place among all, is therefore the axis of every metric.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import wandb
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo.errors import ConflictError, HpoError
from hpo.records import FAILURE_KEY, WORKER_KEY
from hpo.redaction import redact_value
from hpo.study.export import trials_frame
from hpo.study.identity.provenance import published
from hpo.study.record import StudyRecord
from hpo.study.report_folder import report_folder
from hpo.study.snapshot import count_trials, take_snapshot, trials_of
from hpo.study.trials import is_feasible
from hpo.tracking.library import explained, give_up_service, quiet, settings
from hpo.tracking.rows import ORDER_KEY, flatten, make_row, nameless_worker, told_rows
from hpo.tracking.run_file import (
    POLL_S,
    WRITER_TIMEOUT_S,
    Written,
    read_run,
    wait_for_writer,
)
from hpo.tracking.sessions import Logbook, Session

# How long a report is waited for that `hpo run` is about to write.
REPORT_TIMEOUT_S = 60.0

TRIALS_NAME = "trials.csv"
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True)
class RunTarget:
    """Where a study is logged to.

    Attributes
    ----------
    mode
        online or offline.
    project, entity
        As Weights & Biases calls them; None for what the study was logged to before, or `hpo` and
        the account's own.
    anew
        Whether to begin another run, with all trials.
    reports_dir
        Where the study's report is, or is written.
    """

    mode: str
    project: str | None
    entity: str | None
    anew: bool
    reports_dir: Path


@dataclass(frozen=True)
class Outcome:
    """What one session has logged.

    Attributes
    ----------
    logged
        Trials that this session logged.
    total
        Trials that are logged altogether.
    folder
        The run's folder on disk; None if there was nothing to log.
    """

    logged: int
    total: int
    folder: Path | None


def run_id(record: StudyRecord, generation: int = 0) -> str:
    """Return the id of the study's run: always the same for the same study."""
    parts = [record.name, repr(record.created_at), *([str(generation)] if generation else [])]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


class Replay:
    """One session that logs a study.

    Parameters
    ----------
    record
        The study.
    target
        Where to.
    say
        Called with what a person should know.
    stopped
        Asked between rows and while waiting; True ends the session, and nothing is lost.
    parent_pid
        The process that writes the report, as `hpo run` does; the session ends without it.
    """

    def __init__(
        self,
        record: StudyRecord,
        target: RunTarget,
        *,
        say: Callable[[str], None],
        stopped: Callable[[], bool] = lambda: False,
        parent_pid: int | None = None,
    ) -> None:
        self.record, self.target, self._say = record, target, say
        self._asked_to_stop, self._parent_pid = stopped, parent_pid
        self._logbook = Logbook(record)
        self._run: wandb.Run | None = None
        self._before: list[int] = []
        self._reported = 0
        self._best: tuple[float, int] | None = None
        snapshot = take_snapshot(record)
        self._maximise = snapshot.directions[0] == StudyDirection.MAXIMIZE
        self._value_names = snapshot.value_names if len(snapshot.directions) > 1 else ()

    def run(self, *, watch: bool = False, interval_s: float = 5.0) -> Outcome:
        """Log what is finished; with `watch`, until the budget is finished.

        Raises
        ------
        ConflictError
            If another process logs this study, or what was logged before cannot be settled.
        HpoError
            If Weights & Biases cannot be reached or refuses.
        """
        target = self.target
        self._session, earlier = self._logbook.open(
            target.mode, target.project, target.entity, anew=target.anew
        )
        try:
            self._settle(earlier)
            self._loop(watch, interval_s)
        finally:
            self._end()
        logged = len(self._session.trials)
        folder = Path(self._session.file).parent if self._session.file else None
        return Outcome(logged, len(self._before) + logged, folder)

    # What was logged before -------------------------------------------------------------------

    def _settle(self, earlier: Sequence[Session]) -> None:
        """Find out what earlier sessions have truly logged."""
        for session in earlier:
            if not session.closed:
                self._settle_one(session)
            self._before.extend(session.trials)
            self._reported = session.reported or self._reported
        if len(self._before) != len(set(self._before)):
            raise ConflictError(
                f"{self._named()}: its record says that a trial was logged twice", ()
            )
        trials = {trial.number: trial for trial in self._finished_trials()}
        for number in self._before:
            if number in trials:
                self._improve(trials[number])

    def _settle_one(self, session: Session) -> None:
        files: Sequence[str] | frozenset[str]
        if session.mode == "online" and session.file:
            arrived, files = self._arrived(session), ()
        else:
            arrived, files = self._on_disk(session)
        reported = session.reported if TRIALS_NAME in files else 0
        lost = len(session.trials) - len(arrived)
        if session.trials:
            self._say(
                f"the last session was cut off: {len(arrived)} of its trials arrived, {lost} are "
                "logged again"
            )
        session.trials, session.reported = arrived, reported
        self._logbook.close(session, arrived, reported)

    def _on_disk(self, session: Session) -> tuple[list[int], frozenset[str]]:
        if not session.file or not (session.trials or session.reported):
            return [], frozenset()
        path = Path(session.file)
        try:
            written = read_run(path)
            if session.is_local and not written.ended:
                wait_for_writer(path)
                written = read_run(path)
        except OSError as exc:
            raise ConflictError(
                f"{self._named()}: a session on {session.host} was cut off, and what it logged is "
                f"in {path}, which cannot be read here ({exc.strerror}); call this command there "
                "once, or log all trials again in a run of their own: --anew",
                (),
            ) from exc
        return self._known(session, list(written.trials)), written.files

    def _arrived(self, session: Session) -> list[int]:
        if self.target.mode != "online":
            raise ConflictError(
                f"{self._named()}: a session was cut off while it sent trials to the server; only "
                "the server knows which arrived: call this command once with --mode online, or "
                "log all trials again in a run of their own: --anew",
                (),
            )
        rows = self._open_run().step - session.first_step
        return self._known(session, session.trials[:rows] if rows >= 0 else [-1])

    def _known(self, session: Session, trials: list[int]) -> list[int]:
        if trials != session.trials[: len(trials)]:
            raise ConflictError(
                f"{self._named()}: the run does not hold what the study says was logged to it; "
                "log all trials again in a run of their own: --anew",
                (),
            )
        return trials

    # What is logged now -----------------------------------------------------------------------

    def _loop(self, watch: bool, interval_s: float) -> None:
        while True:
            counts = self.record.ledger.counts()
            if count_trials(self.record, *_FINISHED) > len(self._before) + len(
                self._session.trials
            ):
                self._log_trials()
            shown = counts.finished + counts.outside
            if counts.done and not self._stopped() and self._reported != shown:
                self._log_report(shown)
            if counts.done or not watch or not self._wait(interval_s):
                return
            self._logbook.save(self._session)

    def _stopped(self) -> bool:
        orphaned = self._parent_pid is not None and os.getppid() != self._parent_pid
        return orphaned or self._asked_to_stop()

    def _wait(self, wait_s: float) -> bool:
        """Wait, and return whether to go on."""
        deadline = time.monotonic() + wait_s
        while not self._stopped() and time.monotonic() < deadline:
            time.sleep(min(POLL_S, max(0.0, deadline - time.monotonic())))
        return not self._stopped()

    def _log_trials(self) -> None:
        known = {*self._before, *self._session.trials}
        new = [trial for trial in self._finished_trials() if trial.number not in known]
        # The order of completion, as far as the clocks of several machines agree; a trial that
        # comes late is logged late, and what is logged never moves.
        new.sort(key=lambda trial: (trial.datetime_complete or datetime.min, trial.number))
        run = self._open_run()
        session = self._session
        first = len(session.trials)
        session.trials.extend(trial.number for trial in new)
        self._logbook.save(session)
        for place, trial in enumerate(new, first):
            if self._stopped():
                del session.trials[place:]
                break
            self._improve(trial)
            row = make_row(trial, len(self._before) + place, self._best, self._value_names)
            run.log(row, step=session.first_step + place, commit=True)
        run.summary.update(self._summary())

    def _log_report(self, finished: int) -> None:
        """Add the report page and the table of trials to the run's files."""
        run = self._open_run()
        folder = Path(run.dir)
        names = [TRIALS_NAME]
        _published_trials(self.record).to_csv(folder / TRIALS_NAME, index=False)
        page = self._report()
        if page is not None:
            for path in (page, page.with_name("predictions.csv")):
                if path.is_file():
                    shutil.copyfile(path, folder / path.name)
                    names.append(path.name)
        self._session.reported = finished
        self._logbook.save(self._session)
        run.summary.update(self._summary())
        for name in names:
            run.save(str(folder / name), base_path=str(folder), policy="now")
        self._reported = finished

    def _report(self) -> Path | None:
        """Return the study's report: the one that is there if it is of now, or a new one."""
        # It loads what draws, of which a session that ends before its study has no need.
        from hpo.report.study_page import PAGE_NAME, write_report

        page = report_folder(self.record, self.target.reports_dir) / PAGE_NAME
        ends = [trial.datetime_complete for trial in self._finished_trials()]
        last = max((end.timestamp() for end in ends if end), default=0.0)

        def is_fresh() -> bool:
            return page.is_file() and page.stat().st_mtime >= last

        if self._parent_pid is not None:
            deadline = time.monotonic() + REPORT_TIMEOUT_S
            while not is_fresh() and not self._stopped() and time.monotonic() < deadline:
                time.sleep(POLL_S)
        if is_fresh():
            return page
        try:
            return write_report(self.record, self.target.reports_dir)
        except Exception as exc:  # trials are worth logging without their report
            reason = str(exc) if isinstance(exc, HpoError) else repr(exc)
            self._say(f"the report is not logged: {reason}")
            return None

    # The run ----------------------------------------------------------------------------------

    def _open_run(self) -> wandb.Run:
        """Open the run when there is something to log."""
        if self._run is not None:
            return self._run
        session = self._session
        with quiet(), explained(self.target.mode):
            run = wandb.init(
                id=run_id(self.record, session.generation),
                name=self.record.name,
                project=session.project,
                entity=session.entity,
                mode="online" if self.target.mode == "online" else "offline",
                resume="allow",
                dir=Path(os.environ.get("WANDB_DIR") or ".").resolve(),
                config=redact_value(self.record.spec.model_dump(mode="json")),
                allow_val_change=True,
                settings=settings(),
            )
        run.define_metric("*", step_metric=ORDER_KEY)
        self._run = run
        session.first_step = run.step
        session.file = str(Path(run.settings.sync_file).resolve())
        self._logbook.save(session)
        return run

    def _end(self) -> None:
        """End the run, and store what this session has truly logged."""
        session = self._session
        if self._run is None:
            self._logbook.withdraw(session)
            return
        self._logbook.save(session)
        try:
            with quiet():
                self._run.finish()
        except Exception as exc:
            self._logbook.release(session)
            give_up_service()
            late = isinstance(exc, TimeoutError)
            reason = "the server did not take everything in time" if late else f"it broke: {exc!r}"
            raise HpoError(
                f"Weights & Biases: {reason}; nothing is lost, go on with: "
                f"hpo wandb {self.record.name} --mode {session.mode}"
            ) from exc
        written = self._wait_for_file(Path(session.file))
        trials = self._known(session, list(written.trials))
        if len(trials) < len(session.trials):
            self._say(f"{len(session.trials) - len(trials)} trials were not written; call again")
        session.trials = trials
        self._logbook.close(session, trials, session.reported)

    def _wait_for_file(self, path: Path) -> Written:
        """Return what is in the file once it is whole: the service writes a little later."""
        deadline = time.monotonic() + WRITER_TIMEOUT_S
        while not (written := read_run(path)).ended:
            if time.monotonic() > deadline:
                self._logbook.release(self._session)
                raise HpoError(f"{path}: is not complete; nothing is lost, call again")
            time.sleep(POLL_S / 10)
        return written

    # What is told -----------------------------------------------------------------------------

    def _finished_trials(self) -> list[FrozenTrial]:
        return trials_of(self.record, *_FINISHED)

    def _improve(self, trial: FrozenTrial) -> None:
        if trial.state != TrialState.COMPLETE or not trial.values or not is_feasible(trial):
            return
        score = trial.values[0]
        best = None if self._best is None else self._best[0]
        if best is None or (score > best if self._maximise else score < best):
            self._best = (score, trial.number)

    def _summary(self) -> dict[str, Any]:
        snapshot = take_snapshot(self.record)
        status, counts, best = snapshot.status, snapshot.counts, snapshot.best
        summary: dict[str, Any] = {
            "study": self.record.name,
            "budget": counts.budget,
            "finished": counts.finished,
            "pruned": counts.pruned,
            "failed": counts.failed,
            "outside": counts.outside,
            "best/score": status.best_score,
            "best/trial": status.best_trial,
        }
        if status.front is not None:
            summary |= flatten("front", asdict(status.front))
        if best is not None:
            summary.update({f"best/hparams/{name}": best.params[name] for name in best.params})
        summary.update(told_rows(status))
        summary.update(flatten("fingerprint", self.record.fingerprint))
        summary.update(flatten("provenance", published(self.record.provenance)))
        return summary

    def _named(self) -> str:
        return f"study '{self.record.name}'"


def _published_trials(record: StudyRecord) -> pd.DataFrame:
    """Return the trials as `hpo export` does, without names of hosts and passwords in reasons."""
    frame = trials_frame(record)
    for column, hide in ((WORKER_KEY, nameless_worker), (FAILURE_KEY, redact_value)):
        if column in frame:
            frame[column] = frame[column].map(hide)
    return frame
