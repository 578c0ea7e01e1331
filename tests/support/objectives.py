"""Objectives that a test names in a study file."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np


class Parabola:
    """(alpha - 1)^2 in three parts that take `delay_s` each, and leave a line per part."""

    direction = "minimize"
    score_name = "parabola"
    parts = ("a", "b", "c")
    splits_hash = ""

    def __init__(self, table, *, seed, delay_s=0.0, journal=None) -> None:
        self.delay_s, self.journal = delay_s, journal

    def score_part(self, params, part):
        time.sleep(self.delay_s)
        if self.journal:
            with Path(self.journal).open("a") as stream:
                stream.write(f"{params['alpha']!r} {part}\n")
        return {"score": (params["alpha"] - 1.0) ** 2 + part}

    def combine(self, parts):
        return {"score": sum(part["score"] for part in parts)}


class Moody(Parabola):
    """Refuses parameters below 0.5, scores NaN above 9, and kills its worker above 8."""

    def score_part(self, params, part):
        if params["alpha"] < 0.5:
            raise ValueError(f"alpha too small: {params['alpha']:.3f}")
        if params["alpha"] > 9.0:
            return {"score": np.nan}
        if params["alpha"] > 8.0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().score_part(params, part)


class Leaving(Parabola):
    """Leaves in the middle of combining: its process above 8, by sys.exit above 4."""

    def score_part(self, params, part):
        return {"score": params["alpha"]}

    def combine(self, parts):
        alpha = parts[0]["score"]
        if alpha > 8.0:
            os._exit(7)
        if alpha > 4.0:
            sys.exit("no")
        return super().combine(parts)


class Half:
    """Not an objective: it has no parts."""

    direction = "minimize"

    def __init__(self, table, *, seed) -> None:
        pass


def write_line(journal, line):
    """Write down what begins, with the process and the time."""
    # One write of a short line at the end of a file: lines of many processes stay whole.
    descriptor = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, f"{line} {os.getpid()} {time.monotonic()}\n".encode())
    os.close(descriptor)


class Witness(Parabola):
    """A Parabola that writes down when each part begins.

    A part begins only when the scores of those before it are stored: the order of the lines says
    what was computed again although its score was stored.
    """

    def score_part(self, params, part):
        self._write(f"{params['alpha']!r} {part}")
        time.sleep(self.delay_s)
        return {"score": (params["alpha"] - 1.0) ** 2 + part}

    def _write(self, line):
        write_line(self.journal, line)


class Slope:
    """alpha in one part, and half of it beside it."""

    direction = "minimize"
    score_name = "slope"
    parts = ("all",)
    splits_hash = ""

    def __init__(self, table, *, seed) -> None:
        pass

    def score_part(self, params, part):
        return {"score": params["alpha"]}

    def combine(self, parts):
        return {"score": parts[0]["score"], "half": parts[0]["score"] / 2}


class Constant(Slope):
    """One, whatever the parameters are."""

    def score_part(self, params, part):
        return {"score": 1.0}


class Figures(Parabola):
    """Keeps what it costs beside its score, and how far alpha is from 2."""

    def combine(self, parts):
        alpha = parts[0]["alpha"]
        return {**super().combine(parts), "cost": -alpha, "off": abs(alpha - 2.0)}

    def score_part(self, params, part):
        return {**super().score_part(params, part), "alpha": params["alpha"]}
