"""Two ways of doing the same, timed in turn in one run, and how spreads are printed."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Ratio:
    """Seconds of processor time of both ways, by repetition."""

    usual_s: tuple[float, ...]
    ours_s: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """Usual over ours, by repetition."""
        return [usual / ours for usual, ours in zip(self.usual_s, self.ours_s, strict=True)]

    def __str__(self) -> str:
        """Return both times and the ratio with its spread."""
        return (
            f"{median(self.usual_s) * 1e3:11.2f} ms {median(self.ours_s) * 1e3:9.3f} ms  "
            f"x {median(self.ratios):6.1f}  ({min(self.ratios):.1f} to {max(self.ratios):.1f})"
        )


def compare(
    usual: Callable[[], Any], ours: Callable[[], Any], repeats: int, *, rounds: int = 1
) -> Ratio:
    """Time `usual` once and `ours` `rounds` times in each repetition, one after the other."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for call, spent, count in ((usual, times[0], 1), (ours, times[1], rounds)):
            gc.collect()
            began = time.process_time()
            for _ in range(count):
                call()
            spent.append(max(time.process_time() - began, 1e-9) / count)
    return Ratio(tuple(times[0]), tuple(times[1]))


def heading(what: str, columns: Sequence[str] = ("usual", "ours", "ratio (min to max)")) -> str:
    """Return the line above lines of `Ratio`."""
    return f"{what:28} {columns[0]:>14} {columns[1]:>12}  {columns[2]}"


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return the median with the smallest and the largest; a dash if there are none."""
    if not values:
        return "–"
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
