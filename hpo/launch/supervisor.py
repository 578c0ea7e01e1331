"""Keeps N worker processes of a study alive on one machine: here, or within a SLURM job.

Who started a worker vouches for it. The launcher renews the leases of all its workers in one
statement, whatever they compute; sees how a process ended, which no exit code of a worker's own
choice can pretend; ends what exceeds a limit; and ends all that a worker has started before its
trial is anybody else's.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

from hpo.errors import ConflictError, FailedStudyError, HpoError, StorageError
from hpo.launch.limits import TrialWatch
from hpo.launch.placement import Place
from hpo.launch.processes import WorkerProcess, WorkerSource
from hpo.records import INTERRUPTED, Answer, Counts
from hpo.study.preparation import fail_baseline
from hpo.study.record import StudyRecord
from hpo.study.status import Status, take_status
from hpo.study.told import BASELINE_NUMBER
from hpo.system.processes import (
    WORKER_VARIABLE,
    awake_s,
    children,
    end_members,
    is_stopped,
    reap_adopted,
)
from hpo.worker.channel import Message, WorkerOrder
from hpo.worker.loop import poll_interval
from hpo.worker.worker import PATIENCE_S, new_worker_id

POLL_S = 0.25
SHOW_S = 1.0  # a status asks the storage more than what the launcher goes by
# Of a core, for a status: it takes the longer the more trials there are.
SHOW_SHARE = 0.01
GRACE_S = 20.0
# For a trial that exceeded a limit.
LIMIT_GRACE_S = 5.0
# How often in a row workers may die without a trial being finished in between.
MAX_DEATHS_WITHOUT_PROGRESS = 10
TIME_LIMIT = "the time limit is near"
_FINISHED = "the budget is finished"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


@dataclass
class _Worker:
    """A worker process, and what is known of it.

    Attributes
    ----------
    place
        Which of the launcher's places it has.
    left
        Why it left, as it said itself.
    refused
        The error that it ended with, as it told it.
    busy
        Whether it scores the baseline, which the end of the budget does not end.
    limit
        Which limit a trial of it exceeded, for which it was told to leave; and which trial.
    killed_at
        When it is killed if it is still there, by `awake_s`.
    """

    worker_id: str
    process: WorkerProcess
    place: int
    watch: TrialWatch
    registered: bool = False
    idle: bool = False
    busy: bool = False
    left: str | None = None
    refused: Message | None = None
    limit: tuple[str, int] | None = None
    killed_at: float | None = None


@dataclass
class Supervisor:
    """The launcher of the workers of one study on one machine.

    Attributes
    ----------
    record
        The study.
    order
        What every worker is started with, but for its id and its place.
    places
        One for each worker.
    source
        Where the processes come from.
    progress
        Called about once a second with the state of the study, if somebody watches.
    tell
        Called with what somebody who watches has to know, such as that the disk is full.
    leave_at
        When everybody leaves, in seconds of `awake_s`.
    reason
        Why everybody was told to leave; None if the study came to its end.
    """

    record: StudyRecord
    order: WorkerOrder
    places: Sequence[Place]
    source: WorkerSource
    progress: Callable[[Status], None] | None = None
    tell: Callable[[str], None] | None = None
    leave_at: float | None = None
    reason: str | None = None
    _workers: list[_Worker] = field(default_factory=list)
    _owed: list[Callable[[], object]] = field(default_factory=list)
    _own: set[int] = field(default_factory=set)
    _abandoned: set[int] = field(default_factory=set)
    _hurry: bool = False
    _without_progress: int = 0
    _finished: int = -1
    _counts: Counts | None = None
    _stop: str | None = None
    _look_at: float = 0.0
    _look_pause_s: float = 0.5
    _start_at: float = 0.0
    _beat_at: float = 0.0
    _adopt_at: float = 0.0
    _renewed: tuple[float, float] | None = None

    def run(self) -> bool:
        """Work until the budget is finished, and return True; False if it was ended early.

        Raises
        ------
        FailedStudyError
            If too many trials failed, or if workers die as fast as they are started.
        HpoError
            If a worker refused to begin, with its reason.
        StorageError
            If the database did not answer for a long time.
        """
        # Signals are the main thread's; a launcher in another one, as of a notebook, gets none.
        numbers = _SIGNALS if threading.current_thread() is threading.main_thread() else ()
        before = {number: signal.signal(number, self._receive) for number in numbers}
        self._own = children()
        if self.record.table_path is not None:
            self.source.share(self.record.table_path)
        try:
            return self._supervise()
        finally:
            self._end_workers()
            self.source.close()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _supervise(self) -> bool:
        answered = awake_s()
        while self.reason is None:
            self._hear()
            self._collect()
            self._hold_to_limits()
            try:
                self._reach_storage()
            except StorageError as exc:
                # Its server may be on its way back; the workers wait as well.
                if not exc.passing or awake_s() - answered > PATIENCE_S:
                    raise
            else:
                answered = awake_s()
                ended = self._ended()
                if ended is not None:
                    return ended
                self._fill()
            if self.leave_at is not None and awake_s() >= self.leave_at:
                self.reason = self.reason or TIME_LIMIT
            self.source.pause(POLL_S)
        return False

    # The storage ------------------------------------------------------------------------------

    def _reach_storage(self) -> None:
        """Tell the storage who is dead, who lives, and ask what is wanted."""
        while self._owed:
            self._owed[0]()
            del self._owed[0]
        now_s = awake_s()
        if now_s >= self._beat_at:
            self._beat(now_s)
        if now_s >= self._adopt_at:
            self._adopt_at = now_s + 2.0 * self.record.ledger.lease_s
            if self.record.ledger.adopt_enqueued():
                self._look_at = now_s
        if now_s >= self._look_at:
            self._look(now_s)

    def _beat(self, now_s: float) -> None:
        """Renew the leases of those that live and are not halted by a signal."""
        lease_s = self.record.ledger.lease_s
        alive = [
            worker.worker_id
            for worker in self._workers
            if worker.registered and worker.left is None and not is_stopped(worker.process.pid)
        ]
        if not alive:
            self._renewed, self._beat_at = None, now_s + lease_s / 3.0
            return
        missed = self._renewed is not None and now_s - self._renewed[0] >= lease_s
        ledger = self.record.ledger
        if missed:
            ledger.note_outage()
        beat = ledger.beat(alive)
        if self._renewed is not None and not missed:
            by_database_s = beat.now - self._renewed[1]
            if abs(by_database_s - (now_s - self._renewed[0])) >= lease_s / 2.0:
                # The database's clock was set.
                ledger.note_outage()
        self._renewed, self._beat_at = (now_s, beat.now), now_s + lease_s / 3.0
        for worker in self._workers:
            if worker.worker_id in beat.dismissed:
                self._send_away(worker, Answer.DISMISSED.value)
        if beat.counts is not None:
            self._take(beat.counts, beat.stop, beat.silent)

    def _look(self, now_s: float) -> None:
        """Ask how far the study is: for whoever watches, and for workers without a trial."""
        if self.progress is not None:
            began_s = time.thread_time()
            status = take_status(self.record)
            self.progress(status)
            self._look_at = now_s + show_pause(time.thread_time() - began_s)
            self._take(status.counts, status.stop)
            return
        if any(worker.idle for worker in self._workers):
            # A beat tells how far the study is, too.
            self._beat(now_s)
        else:
            self._take(*self.record.ledger.counts_and_stop())
        if any(worker.idle for worker in self._workers):
            # At the end of a study most workers wait for the last ones: ever more seldom.
            self._look_at = now_s + self._look_pause_s
            longest_s = poll_interval(self.record.ledger.lease_s)
            self._look_pause_s = min(longest_s, 1.5 * self._look_pause_s)
        else:
            self._look_at, self._look_pause_s = float("inf"), 0.5

    def _take(self, counts: Counts, stop: str | None, silent: int = 0) -> None:
        """Pass on to the workers what concerns them."""
        if counts.finished != self._finished:
            self._without_progress, self._finished = 0, counts.finished
        self._counts, self._stop = counts, stop
        over = counts.done or stop is not None
        idle = [worker for worker in self._workers if worker.idle]
        for worker in idle if over else idle[: counts.claimable + silent]:
            worker.idle = False
            worker.process.channel.tell(wake=True)
        if stop == "now":
            for worker in self._workers:
                self._send_away(worker, Answer.STOPPED.value)

    def _ended(self) -> bool | None:
        """Return how the study has ended, if it has."""
        counts = self._counts
        if counts is None:
            return None
        if counts.done and not any(worker.busy for worker in self._workers):
            return True
        if self._workers:
            return None
        if self._stop is not None:
            return False
        if len(self._abandoned) == len(self.places):
            self.reason = Answer.DISMISSED.value
            return False
        return None

    # Workers ----------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Start workers where one is missing."""
        counts = self._counts
        if counts is None or self._stop is not None or awake_s() < self._start_at:
            return
        taken = {worker.place for worker in self._workers} | self._abandoned
        free = [place for place in range(len(self.places)) if place not in taken]
        room = counts.budget - counts.finished - len(self._workers)
        for place in free[: max(0, room)]:
            if not self._start(place):
                return

    def _start(self, place: int) -> bool:
        """Start a worker; False if it is too early for one."""
        worker_id = new_worker_id()
        given = self.places[place]
        order = replace(
            self.order,
            worker_id=worker_id,
            environment={**given.environment, WORKER_VARIABLE: worker_id},
            cpus=given.cpus,
            threads=given.threads,
        )
        process = self.source.start(order)
        if process is None:
            return False
        log = Path(order.logs) / f"{worker_id}.log"
        watch = TrialWatch(self.record.spec.limits, process.pid, worker_id, log)
        self._workers.append(_Worker(worker_id, process, place, watch))
        return True

    def _hear(self) -> None:
        """Take in what the workers tell."""
        now_s = awake_s()
        for worker in self._workers:
            for message in worker.process.channel.hear():
                worker.watch.note(message, now_s)
                worker.busy = message.get("busy", worker.busy)
                if "idle" in message:
                    worker.idle = True
                    self._look_at = min(self._look_at, now_s + self._look_pause_s)
                elif "registered" in message:
                    worker.registered = True
                elif "left" in message:
                    worker.left = message["left"]
                    # Threads or files of its objective may hold up its end.
                    self._expect_end(worker, now_s + GRACE_S)
                elif "refused" in message:
                    worker.refused = message
                elif message.get("why") and self.tell is not None:
                    self.tell(f"workers wait for the storage: {message['why']}")

    def _collect(self) -> None:
        """Look after the workers that have ended."""
        for worker in list(self._workers):
            code = worker.process.poll()
            if code is None:
                if worker.killed_at is not None and awake_s() >= worker.killed_at:
                    worker.process.send_signal(signal.SIGKILL)
                continue
            self._workers.remove(worker)
            self._look_at = 0.0
            self._bury(worker, code)
        if self.source.adopts:
            reap_adopted(self._own | {worker.process.pid for worker in self._workers})

    def _bury(self, worker: _Worker, code: int) -> None:
        """End what a worker has left behind, and have its trial taken care of."""
        end_members(worker.process.pid, worker.worker_id)
        for message in worker.process.channel.hear():
            # What it told last, between the last look and its end.
            worker.left = message.get("left", worker.left)
            if "refused" in message:
                worker.refused = message
        worker.process.channel.close()
        ledger, limits = self.record.ledger, self.record.spec.limits
        if worker.limit is not None:
            worker.watch.cut_log()
            exceeded = (worker.worker_id, *worker.limit, limits.on_exceeded, limits.retries)
            self._owed.append(lambda: ledger.exceed(*exceeded))
            reason, number = worker.limit
            if number == BASELINE_NUMBER:
                self._owed.append(lambda: fail_baseline(self.record, worker.worker_id, reason))
        elif worker.refused is not None:
            self._heed(worker, worker.refused)
        elif worker.left is None:
            self._count_death(worker, describe_end(code))
        elif Answer.DISMISSED.value in worker.left and self.order.job is not None:
            # The cluster has another job in its place, or will have.
            self._abandoned.add(worker.place)

    def _heed(self, worker: _Worker, message: Message) -> None:
        """Deal with a worker that ended with an error of ours."""
        kind, text = message["kind"], message["refused"]
        others = any(other.registered for other in self._workers)
        if kind == StorageError.__name__ and (message["passing"] or worker.registered or others):
            # The others may have their connections still.
            self._count_death(worker, text)
            return
        if message["code"] == ConflictError.exit_code:
            raise ConflictError(text, ())
        raise FailedStudyError(text) if kind == FailedStudyError.__name__ else HpoError(text)

    def _count_death(self, worker: _Worker, reason: str) -> None:
        self._owed.append(lambda: self.record.ledger.reap(worker.worker_id, reason))
        self._without_progress += 1
        if self._without_progress > MAX_DEATHS_WITHOUT_PROGRESS:
            raise FailedStudyError(
                f"workers died {self._without_progress} times and finished nothing in between; "
                f"the last: {reason}; see the logs in {self.order.logs}"
            )
        if not worker.registered:
            # It could not even begin: what is wrong may take a while.
            self._start_at = awake_s() + min(30.0, 0.25 * 2.0**self._without_progress)

    def _hold_to_limits(self) -> None:
        now_s = awake_s()
        for worker in self._workers:
            trial = worker.watch.trial
            if worker.limit is not None or worker.left is not None or trial is None:
                continue
            if reason := worker.watch.exceeded(now_s):
                worker.limit = (reason, trial)
                self._send_away(worker, reason, limit=True)
                worker.killed_at = now_s + LIMIT_GRACE_S

    def _send_away(self, worker: _Worker, reason: str, *, limit: bool = False) -> None:
        """Tell a worker to leave, and why; once."""
        if worker.killed_at is None:
            self._expect_end(worker, awake_s() + GRACE_S)
            worker.process.channel.tell(leave=reason, limit=limit)
            worker.process.send_signal(signal.SIGTERM)
            # One that was halted could not leave.
            worker.process.send_signal(signal.SIGCONT)

    def _expect_end(self, worker: _Worker, until_s: float) -> None:
        worker.killed_at = until_s if worker.killed_at is None else worker.killed_at

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        # The second Ctrl-C: do not wait for anything.
        self._hurry = self.reason is not None and number == signal.SIGINT
        name = INTERRUPTED if number == signal.SIGINT else signal.Signals(number).name
        self.reason = self.reason or name

    def _end_workers(self) -> None:
        """Ask the workers to leave, kill those that do not, and have their trials taken care of."""
        for worker in self._workers:
            self._send_away(worker, self.reason or _FINISHED)
        while self._workers:
            self._hear()
            if self._hurry:
                for worker in self._workers:
                    worker.process.send_signal(signal.SIGKILL)
            # Others' errors do not matter any more.
            with contextlib.suppress(HpoError):
                self._collect()
            self._renew_while_leaving()
            time.sleep(0.02)
        # Without the storage, their leases run out.
        with contextlib.suppress(StorageError):
            for tell in self._owed:
                tell()

    def _renew_while_leaving(self) -> None:
        with contextlib.suppress(StorageError):
            if awake_s() >= self._beat_at:
                self._beat(awake_s())


def show_pause(cpu_s: float) -> float:
    """Return in how many seconds the next status is due, by what one takes of a core."""
    return max(SHOW_S, cpu_s / SHOW_SHARE)


def describe_end(code: int) -> str:
    """Say how a process ended that did not say that it leaves."""
    if code < 0:
        named = -code in {number.value for number in signal.Signals}
        return f"killed by {signal.Signals(-code).name if named else f'signal {-code}'}"
    return f"ended by itself in the middle of its work, exit code {code}"
