"""Reports as tests read them, and studies to report."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import features.table
from features.table import Column, PartialRow, SkippedRow, Target
from hpo.analysis.best_model import Evaluation, evaluate
from hpo.objectives.function import FunctionObjective
from hpo.records import WorkerRun
from hpo.report.figures import files
from hpo.storage.events import EventKind
from hpo.study.record import StudyRecord
from hpo.study.snapshot import take_snapshot
from hpo.worker.worker import Worker, new_worker_id

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

_encode = files._encode


def draw_in_one_format(patch: pytest.MonkeyPatch | None = None) -> None:
    """Write figures as SVG, and empty files instead of the same drawings as PDF and PNG.

    Most of the time of a report goes into these, and `tests/hpo/report/test_figure_files.py` is
    about all three.
    """

    def encode_svg(canvas: Canvas, suffix: str) -> bytes:
        return _encode(canvas, suffix) if suffix == ".svg" else b""

    (patch or pytest.MonkeyPatch()).setattr(files, "_encode", encode_svg)


class Page(HTMLParser):
    """A report as a reader takes it in: texts, tables, figures and what it would fetch."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.links: list[str] = []
        self.plots: dict[str, int] = {}
        self.styles = ""
        self._within = ""
        self._figure = ""
        self.feed(self.source)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of links, figures and table cells."""
        named = dict(attrs)
        self.links += [
            named[key] or "" for key in ("src", "href", "srcset", "data") if key in named
        ]
        if tag in ("script", "style", "title"):
            self._within = tag
        elif tag == "figure":
            self._figure = named["id"] or ""
            self.plots[self._figure] = 0
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._within = "cell"
        elif tag == "div" and named.get("class") == "plot":
            self.plots[self._figure] += 1

    def handle_endtag(self, tag: str) -> None:
        """Leave a cell or a script."""
        if tag in ("script", "style", "title", "td", "th"):
            self._within = ""

    def handle_data(self, data: str) -> None:
        """Take note of a text."""
        if self._within == "style":
            self.styles += data
        elif self._within != "script":
            self.words.append(data)
        if self._within == "cell":
            self.rows[-1][-1] += data

    def row(self, first: str) -> list[str]:
        """Return the cells of the first row that begins with a text."""
        return next(row for row in self.rows if row and row[0].strip() == first)


def work(record: StudyRecord, meddle: Callable[[int], None] | None = None) -> None:
    """Let one worker run; `meddle` is called with the count of parts before each is scored."""
    _, objective = record.open_objective()
    assert not isinstance(objective, FunctionObjective)
    plain, count = objective.score_part, iter(range(10**6))

    def score_part(params: Mapping[str, Any], part: int) -> Mapping[str, float]:
        if meddle is not None:
            meddle(next(count))
        return plain(params, part)

    objective.score_part = score_part  # type: ignore[method-assign]
    Worker(record, objective, new_worker_id()).run(WorkerRun("here", 1))


def leaky_table(folder: Path, n_skipped: int) -> Path:
    """Write a table with a leak, groups across folds and test set, and rows that are missing."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=60)
    return features.table.write(
        folder,
        dataset="leaky",
        ids=[f"</script><i>{i}" for i in range(60)],
        formulas=["Li2O"] * 60,
        X=np.column_stack([rng.normal(size=60), y > 0]),
        y=y,
        groups=[f"group {i // 2}" for i in range(60)],
        is_train=np.arange(60) < 55,
        columns=[Column("x", "made"), Column("is_high", "flags", derived_from_target=True)],
        target=Target("conductivity", "S/cm", log10=True),
        skipped=[SkippedRow(i + 2, f"lost-{i}", "raw.csv", "no target") for i in range(n_skipped)],
        partial=[PartialRow(7, "row-7", "raw.csv", "bonds", "no parameters for Te6+")],
        provenance={"citation": ["A. Author, Journal 1 (2025)"]},
    )


SPACE = {
    "max_depth": {"type": "int", "low": 1, "high": 6},
    "min_samples_leaf": {"type": "int", "low": 1, "high": 16, "log": True},
    "min_impurity_decrease": {"type": "float", "low": 1e-6, "high": 0.1, "log": True},
    "max_features": {"type": "categorical", "choices": ["sqrt", "log2"]},
    "bootstrap": {"type": "categorical", "choices": [True, False]},
}

SEARCH_FIGURES = (
    "history",
    "importance",
    "slices",
    "contour",
    "parts",
    "parallel",
    "distribution",
    "timeline",
)

# Each group of the hand-made table has rows in every fold, which leaves no intervals of these.
MODEL_FIGURES = {
    "parity": 2,
    "errors": 1,
    "calibration": 1,
    "intervals": 1,
    "importance_families": 1,
    "importance_columns": 1,
}


class Flat:
    """An objective over nothing: always the same score, with a name that is not safe in HTML."""

    direction = "maximize"
    score_name = "flat <score>"
    parts = ("one", "two & a half")
    splits_hash = ""

    def __init__(self, table: object, *, seed: int, broken: bool = False) -> None:
        if broken:
            raise RuntimeError("no licence for this code")

    def score_part(self, params: object, part: int) -> Mapping[str, Any]:
        # A text beside the scores is for the objective alone.
        return {"score": 1.25, "note": "a text", "barrier": 0.5 + part}

    def combine(self, parts: object) -> Mapping[str, float]:
        return {"score": 2.5, "barrier": 1.0}


def flat(**params: Any) -> dict[str, Any]:
    """Return the fields of a study without a table."""
    objective = {"name": f"{__name__}:Flat", "params": params}
    return {"table": None, "cv": None, "estimator": None, "objective": objective}


def stop_at(part: int) -> Callable[[int], None]:
    """Return what sends the worker away after so many parts."""
    return lambda count: signal.raise_signal(signal.SIGTERM) if count == part else None


def evaluated(record: StudyRecord) -> Evaluation:
    """Evaluate a study as its report does."""
    table, objective = record.open_objective()
    evaluation = evaluate(take_snapshot(record), table, objective)
    assert evaluation is not None
    return evaluation


def looks(record: StudyRecord) -> list[dict[str, Any]]:
    """Return the looks at the test set."""
    return [event for event in record.ledger.events() if event["kind"] == EventKind.TEST_EVALUATION]


FOREST: dict[str, Any] = {
    "estimator": {"name": "extra_trees", "params": {"n_estimators": 5}},
    "space": SPACE,
}
