"""Shows how far a study is: one line that is rewritten on a terminal, a few lines in a log."""

from __future__ import annotations

import time
from typing import TextIO

from hpo.study.record import StudyRecord
from hpo.study.status import Status
from hpo.wording import count_of, plain_number

# In a log file a line is worth writing when a tenth is done, or when this long has passed.
LOG_INTERVAL_S = 60.0


class Progress:
    """Best value so far, time per trial and time left.

    Called with each status; rates count from the first one, so that a resumed study shows its
    present speed.
    """

    def __init__(self, record: StudyRecord, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._began: tuple[float, int] | None = None
        self._logged: tuple[float, int] | None = None
        self._shown = ""
        self._name = record.name

    def __call__(self, status: Status) -> None:
        """Show a status if there is something new to show."""
        now, finished = time.monotonic(), status.counts.finished
        if self._began is None:
            self._began = (now, finished)
        elapsed_s, done = now - self._began[0], finished - self._began[1]
        line = describe(status, elapsed_s, done)
        if self._terminal:
            if line != self._shown:
                self._stream.write(f"\r\x1b[2K{line}")
                self._stream.flush()
        elif self._worth_a_line(now, status):
            self._stream.write(f"{line}\n")
            self._stream.flush()
        self._shown = line

    def close(self) -> None:
        """Leave the last line standing."""
        if self._terminal and self._shown:
            self._stream.write("\n")
            self._stream.flush()

    def _worth_a_line(self, now: float, status: Status) -> bool:
        counts = status.counts
        tenth = 10 * counts.finished // max(1, counts.budget)
        if self._logged is not None:
            late = now - self._logged[0] >= LOG_INTERVAL_S
            if not late and tenth == self._logged[1]:
                return False
        self._logged = (now, tenth)
        return True


def describe(status: Status, elapsed_s: float, done: int) -> str:
    """Return the progress line.

    Parameters
    ----------
    status
        The study now.
    elapsed_s
        Seconds since this run began.
    done
        Trials finished since then.
    """
    counts = status.counts
    parts = [f"{counts.finished}/{count_of(counts.budget, 'trial')}"]
    if status.best_score is not None:
        parts.append(f"best {plain_number(status.best_score, '.5g')} (trial {status.best_trial})")
    if done:
        workers = max(1, sum(worker.alive for worker in status.workers))
        parts.append(f"{elapsed_s * workers / done:.2g} s/trial")
        left_s = elapsed_s / done * max(0, counts.budget - counts.finished)
        parts.append(f"{_clock(left_s)} left")
    if counts.pruned:
        parts.append(f"{counts.pruned} ended early")
    if counts.failed:
        parts.append(f"{counts.failed} failed")
    return "  ".join(parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
