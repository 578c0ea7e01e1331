"""The objective that all contestants share: parts that sleep and say when they begin and end."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

JOURNAL = "journal.txt"
LOW, HIGH = 0.0, 10.0


@dataclass(frozen=True)
class Line:
    """One line of the journal: a part of a trial begins or ends.

    Attributes
    ----------
    trial
        The trial's parameter as text, which tells trials apart: it is a random real number.
    at
        Seconds since the epoch.
    """

    event: str
    pid: int
    trial: str
    part: int
    at: float

    @property
    def key(self) -> tuple[str, int]:
        """What is computed: this part of this trial."""
        return self.trial, self.part


class Parts:
    """(alpha - 1)^2 in three parts that sleep, as an objective of hpo's."""

    direction = "minimize"
    score_name = "parabola"
    parts = ("a", "b", "c")
    splits_hash = ""

    def __init__(self, _table: object, *, seed: int, part_s: float, journal: str = JOURNAL) -> None:
        self.part_s, self.journal = part_s, Path(journal)

    def score_part(self, params: Mapping[str, float], part: int) -> dict[str, float]:
        self._write("begin", params["alpha"], part)
        time.sleep(self.part_s)
        self._write("end", params["alpha"], part)
        return {"score": (params["alpha"] - 1.0) ** 2 + part}

    def combine(self, parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
        return {"score": sum(part["score"] for part in parts)}

    def _write(self, event: str, alpha: float, part: int) -> None:
        # One write of a line is not torn by the writes of others.
        with self.journal.open("a", encoding="utf-8") as stream:
            stream.write(f"{event} {os.getpid()} {alpha!r} {part} {time.time()!r}\n")


def score_whole(alpha: float, part_s: float) -> float:
    """Score all parts one after the other, as an objective without parts of its own does."""
    objective = Parts(None, seed=0, part_s=part_s)
    parts = [objective.score_part({"alpha": alpha}, k) for k in range(len(Parts.parts))]
    return objective.combine(parts)["score"]


def parse(text: str) -> list[Line]:
    """Read whole lines of a journal."""
    lines = []
    for line in text.splitlines():
        event, pid, trial, part, at = line.split()
        lines.append(Line(event, int(pid), trial, int(part), float(at)))
    return lines
