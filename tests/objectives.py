"""Objectives that a test names in a study file."""

from __future__ import annotations

import os
import signal
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


class Half:
    """Not an objective: it has no parts."""

    direction = "minimize"

    def __init__(self, table, *, seed) -> None:
        pass
