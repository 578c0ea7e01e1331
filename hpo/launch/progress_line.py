"""Shows how far a study is: one line that is rewritten on a terminal, a few lines in a log.

In a notebook the line has a bar, of ipywidgets where these are installed, else of text.

The first trials that fail are shown as they do, and at the end all reasons by their kinds.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from hpo.errors import StorageError
from hpo.study.failures import group_failures
from hpo.study.record import StudyRecord
from hpo.study.status import Status, describe_best
from hpo.wording import count_of, one_line

# In a log file a line is worth writing when a tenth is done, or when this long has passed.
LOG_INTERVAL_S = 60.0
# How many failures are shown as they happen, and how many kinds of reasons at the end.
MAX_FAILURES = 5
MAX_KINDS = 5
MAX_REASON = 200
# Of a terminal: to the beginning of the line, which is emptied.
CLEAR = "\r\x1b[2K"


class Progress:
    """Best value so far, time per trial and time left.

    Called with each status; rates count from the first one, so that a resumed study shows its
    present speed.

    Attributes
    ----------
    left_s
        Time left, by that rate; infinite before there is one.
    """

    left_s = math.inf

    def __init__(self, record: StudyRecord, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._notebook = type(stream).__module__.startswith("ipykernel.")
        self._bar: Any = None
        self._began: tuple[float, int] | None = None
        self._logged: tuple[float, int] | None = None
        self._shown = ""
        self._told = ("", 0.0)
        self._record = record
        # Trials whose failure need not be shown: what an earlier run saw, and what was shown.
        self._known: set[int] | None = None
        self._n_failures = 0

    def __call__(self, status: Status) -> None:
        """Show a status if there is something new to show."""
        now, finished = time.monotonic(), status.counts.finished
        if self._began is None:
            self._began = (now, finished)
        elapsed_s, done = now - self._began[0], finished - self._began[1]
        line = describe(status, elapsed_s, done)
        self.left_s = _left_s(status, elapsed_s, done)
        for failure in self._new_failures(status.failures):
            self._write(failure)
        if self._notebook:
            self._draw_bar(status, line)
        elif self._terminal:
            if line != self._shown:
                self._stream.write(f"{CLEAR}{line}")
                self._stream.flush()
        elif self._worth_a_line(now, status):
            self._stream.write(f"{line}\n")
            self._stream.flush()
        self._shown = line

    def tell(self, text: str) -> None:
        """Show a line that is no progress, once a minute if it is the same."""
        now = time.monotonic()
        if text != self._told[0] or now - self._told[1] >= LOG_INTERVAL_S:
            self._told = text, now
            self._write(one_line(text))

    def _write(self, line: str) -> None:
        if self._bar is not None:
            self._bar.clear()
        self._stream.write(f"{CLEAR if self._terminal else ''}{line}\n")
        self._stream.flush()
        self._shown = ""

    def close(self) -> None:
        """Leave the last line standing, and say why trials failed."""
        if self._bar is not None:
            self._bar.close()
        if self._terminal and self._shown:
            self._stream.write("\n")
        # Nobody waits for a database at the end of a run.
        with contextlib.suppress(StorageError):
            for line in describe_failures(self._record.name, self._record.ledger.failures()):
                self._stream.write(f"{line}\n")
        self._stream.flush()

    def _draw_bar(self, status: Status, line: str) -> None:
        from tqdm.auto import tqdm

        if self._bar is None:
            self._bar = tqdm(bar_format="{bar}| {desc}", file=self._stream)
        self._bar.total, self._bar.n = status.counts.budget, status.counts.finished
        self._bar.set_description_str(line)

    def _new_failures(self, failures: Sequence[tuple[int, str]]) -> Iterator[str]:
        """Return a line for each trial that has failed since the last time, up to a number."""
        if self._known is None:
            self._known = {number for number, _ in failures}
        for number, reason in reversed(failures):
            if number not in self._known and self._n_failures < MAX_FAILURES:
                self._n_failures += 1
                yield f"trial {number} failed: {one_line(reason, MAX_REASON)}"
                if self._n_failures == MAX_FAILURES:
                    yield "further failures are counted, and summed up at the end"
            self._known.add(number)

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
    if counts.outside:
        parts.append(f"{counts.outside} from outside")
    if best := describe_best(status, ".5g"):
        parts.append(best)
    if told := status.told.describe():
        parts.append(told.removeprefix(", "))
    if done:
        workers = max(1, sum(worker.alive for worker in status.workers))
        parts.append(f"{elapsed_s * workers / done:.2g} s/trial")
        parts.append(f"{_clock(_left_s(status, elapsed_s, done))} left")
    if counts.pruned:
        parts.append(f"{counts.pruned} ended early")
    if counts.failed:
        parts.append(f"{counts.failed} failed")
    return "  ".join(parts)


def describe_failures(name: str, failures: Sequence[tuple[int, str]]) -> list[str]:
    """Return what is said at the end of the trials of a study that failed; nothing if none did.

    Parameters
    ----------
    name
        The study.
    failures
        Number and reason of each of them.
    """
    if not failures:
        return []
    kinds = group_failures(failures)
    lines = [f"{count_of(len(failures), 'trial')} failed:"]
    width = len(str(len(kinds[0].numbers)))
    for kind in kinds[:MAX_KINDS]:
        first = f"trial {kind.numbers[0]}" + (" and others" if len(kind.numbers) > 1 else "")
        lines.append(
            f"  {len(kind.numbers):{width}}  {one_line(kind.reason, MAX_REASON)} ({first})"
        )
    n_others = sum(len(kind.numbers) for kind in kinds[MAX_KINDS:])
    if n_others:
        lines.append(f"  and {n_others} for other reasons")
    return [*lines, f"  more about one of them: hpo logs {name} --trial {kinds[0].numbers[0]}"]


def _left_s(status: Status, elapsed_s: float, done: int) -> float:
    """Return the time left by the rate of this run; arguments as of `describe`."""
    left = max(0, status.counts.budget - status.counts.finished)
    return elapsed_s / done * left if done else math.inf


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
