"""An objective that tells all that one may tell, and writes down what is computed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import plotly.graph_objects as go

from hpo.objectives.told import PredictedRows, Total

N_UNITS = 6
STUDY = """
trials = {trials}
lease_s = 2
checkpoint_s = 0
[objective]
name = "tests.support.prepared:Prepared"
params = {{ delay_s = {delay_s}, journal = "journal.txt", until = "{until}" }}
[space]
alpha = {{ type = "float", low = 0.0, high = 10.0 }}
"""


class Prepared:
    """(alpha - 1)^2 in parts that are known when `N_UNITS` units are prepared."""

    direction = "minimize"
    score_name = "loss"
    splits_hash = "the same"
    totals: ClassVar = {
        "mean": Total("mean distance", "m", ".2f"),
        "share": Total("share", format=".0%"),
    }
    baseline: ClassVar = {"alpha": 4.0}

    def __init__(self, table, *, seed, delay_s=0.0, journal="", until="", hangs=False) -> None:
        self.delay_s, self.journal, self.until = delay_s, journal, until
        self.hangs = hangs
        self.prepared: list[float] = []

    def note(self, line):
        if self.journal:
            descriptor = os.open(self.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(descriptor, f"{line} {os.getpid()}\n".encode())
            os.close(descriptor)

    def prepare(self, folder, progress):
        if self.until and not Path(self.until).exists():
            raise ValueError(f"there is no {self.until}")
        self.note("prepare")
        for unit in range(N_UNITS):
            file = folder / str(unit)
            if not file.exists():
                time.sleep(self.delay_s)
                file.write_text("done")
                self.note(f"unit {unit}")
            progress(unit + 1, N_UNITS)
        return [0.0, 1.0, 2.0]

    def set_prepared(self, prepared):
        self.prepared = prepared

    @property
    def parts(self):
        return tuple(f"at {offset:g}" for offset in self.prepared)

    def score_part(self, params, part):
        time.sleep(1000.0 if self.hangs and params == self.baseline else self.delay_s)
        self.note(f"part {part} of {params['alpha']!r}")
        return {"score": (params["alpha"] - 1.0) ** 2 + self.prepared[part], "text": f"of {part}"}

    def combine(self, parts):
        score = sum(part["score"] for part in parts) / len(parts)
        return {"score": score, "mean": score**0.5, "share": 1.0 / (1.0 + score)}

    def predictions(self, params, parts):
        observed = np.arange(12.0).reshape(6, 2)
        return PredictedRows(
            ids=[f"row {k}" for k in range(6)],
            parts=[k // 2 for k in range(6)],
            targets=("width (m)", "height (m)"),
            observed=observed,
            predicted=observed + 1.0,
        )

    def figures(self, params, parts):
        scores = [part["score"] for part in parts]
        return {
            "Scores in a row": go.Figure(go.Scatter(y=scores, x=[*range(len(scores))])),
            "A map": go.Figure(go.Contour(z=[scores, scores])),
        }


def write_prepared(trials=4, delay_s=0.0, name="x", until="") -> str:
    """Write NAME.toml in the working directory."""
    Path(f"{name}.toml").write_text(STUDY.format(trials=trials, delay_s=delay_s, until=until))
    return f"{name}.toml"
