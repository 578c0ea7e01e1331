"""What a program prints: passed on as it comes, and searched for its scores and reports."""

from __future__ import annotations

import codecs
import re
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from hpo.errors import ObjectiveError
from hpo.objectives.scores import shown
from hpo.redaction import redact
from hpo.wording import abridge, one_line

# A longer line is no report and has no score: it is not searched, and not kept.
MAX_LINE = 10_000
# Last lines that are kept, and what a reason tells of them, in characters.
_KEPT_LINES, _MAX_TOLD = 15, 600
# Lines of progress bars end with a carriage return.
_LINE_END = re.compile(r"[\r\n]+")
# Fortran has 0.12D-03 for 0.12e-03.
_FORTRAN_EXPONENT = re.compile(r"(?<=[\d.])[dD](?=[-+\d])")
# As many as the integers of a database.
_MAX_STEP = 2**31 - 1


class Report(NamedTuple):
    """An intermediate value that a program has printed."""

    step: int
    value: float


class ProgramOutput:
    """The output of one run of a program, of which no more than its last lines is kept.

    Parameters
    ----------
    scores
        Regular expressions with one group each; None for a score that is not in the output.
    report
        One with the groups step and value; None if nothing is reported.
    """

    def __init__(self, scores: Sequence[str | None], report: str | None) -> None:
        self._scores = [None if regex is None else re.compile(regex) for regex in scores]
        self._report = None if report is None else re.compile(report)
        self._found: list[str | None] = [None] * len(scores)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest, self._too_long = "", False
        self._n_too_long = 0
        self._last: deque[str] = deque(maxlen=_KEPT_LINES)

    def read(self, block: bytes, *, final: bool = False) -> Iterator[Report]:
        """Pass on a block of output and yield what is reported in the lines that are complete.

        Raises
        ------
        ObjectiveError
            If a line that reports has no numbers in it.
        """
        text = self._decoder.decode(block, final)
        pass_on(text)
        *lines, self._rest = _LINE_END.split(self._rest + text)
        if final:
            lines, self._rest = [*lines, self._rest], ""
        for line in lines:
            yield from self._read_line(line)
        if len(self._rest) > MAX_LINE:
            self._rest, self._too_long = self._rest[-MAX_LINE:], True

    def number(self, score: int) -> float:
        """Return the number that the last match for a score has.

        Raises
        ------
        ObjectiveError
            If no line matches, or what is found is no number.
        """
        pattern, text = self._scores[score], self._found[score]
        assert pattern is not None
        what = f"regex '{abridge(pattern.pattern)}'"
        if text is None:
            ignored = (
                f" ({self._n_too_long} of more than {MAX_LINE:,} characters were not searched)"
                if self._n_too_long
                else ""
            )
            raise ObjectiveError(f"no line of the output matches {what}{ignored}; {self.ending}")
        return _number(text, what)

    @property
    def ending(self) -> str:
        """The last lines, as a reason tells them."""
        # Before anything is cut: half a secret would not be found.
        lines = redact("\n".join(self._last)).split("\n")
        told = one_line(
            " | ".join(line[-2 * _MAX_TOLD :] for line in lines), _KEPT_LINES * MAX_LINE
        )
        if not told:
            return "there was no output"
        return f"the output ends: {told if len(told) <= _MAX_TOLD else f'… {told[-_MAX_TOLD:]}'}"

    def _read_line(self, line: str) -> Iterator[Report]:
        too_long = self._too_long or len(line) > MAX_LINE
        self._too_long = False
        if line.strip():
            self._last.append(line[-MAX_LINE:])
        if too_long:
            self._n_too_long += 1
            return
        for at, pattern in enumerate(self._scores):
            for match in pattern.finditer(line) if pattern else ():
                self._found[at] = match[1]
        for match in self._report.finditer(line) if self._report else ():
            what = f"report '{abridge(match[0])}'"
            yield Report(_step(match["step"], what), _number(match["value"], f"{what}: value"))


def pass_on(text: str) -> None:
    """Print a text of any characters, whatever the encoding of this process's output is."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()


def _number(text: str, what: str) -> float:
    try:
        return float(_FORTRAN_EXPONENT.sub("e", text or ""))
    except ValueError:
        raise ObjectiveError(f"{what}: must be a number, is {shown(text)}") from None


def _step(text: str, what: str) -> int:
    try:
        step = int(text or "")
    except ValueError:
        step = -1
    if not 0 <= step <= _MAX_STEP:
        raise ObjectiveError(
            f"{what}: step must be an integer from 0 to {_MAX_STEP}, is {shown(text)}"
        )
    return step
