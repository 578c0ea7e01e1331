"""The report's section on what an objective tells: totals, baseline, predictions, own figures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import plotly.graph_objects as go

from hpo.analysis.best_model import Predictions
from hpo.analysis.told_trial import (
    PartDifference,
    Parts,
    TotalRow,
    by_target,
    part_differences,
    parts_of,
    told_csv,
    total_rows,
)
from hpo.errors import ObjectiveError
from hpo.objectives.cross_validation import CrossValidation
from hpo.objectives.factory import AnyObjective
from hpo.objectives.folds import mean_repeats
from hpo.objectives.function import FunctionObjective
from hpo.objectives.protocol import Objective, Params, Scores
from hpo.objectives.scores import refusing
from hpo.objectives.told import figures_of, predictions_of
from hpo.report.figures.base import Figure, Panel, pack, parity_panel
from hpo.report.figures.files import refuse_drawing
from hpo.report.formatting import number
from hpo.report.tables import TextTable
from hpo.study.snapshot import StudySnapshot
from hpo.study.told import Baseline, Told, take_told
from hpo.wording import count_of

PX_PER_REM = 16.0
_SIGNS = str.maketrans({"-": "\N{MINUS SIGN}"})


@dataclass(frozen=True)
class ToldSection:
    """What an objective tells of the best trial.

    Attributes
    ----------
    totals, differences
        Of the best trial beside the baseline, and paired over parts; None if there are none.
    baseline
        The parameters of the baseline; "" if it has no score.
    parity
        A panel per target; None without predictions.
    figures
        The objective's own.
    problems
        What could not be told, and why.
    csv
        The predicted rows; "" if there are none.
    on_page_alone
        Figures that cannot be drawn into a file.
    """

    totals: TextTable | None = None
    baseline: str = ""
    differences: TextTable | None = None
    parity: Figure | None = None
    figures: tuple[Figure, ...] = ()
    problems: tuple[str, ...] = ()
    csv: str = ""
    on_page_alone: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        """Whether there is anything to show."""
        return bool(self.totals or self.parity or self.figures or self.problems)

    @property
    def files(self) -> tuple[Figure, ...]:
        """The figures that lie beside the page as files."""
        every = (self.parity, *self.figures) if self.parity is not None else self.figures
        return tuple(figure for figure in every if figure.key not in self.on_page_alone)


def tell(snapshot: StudySnapshot, objective: AnyObjective | None) -> ToldSection:
    """Return what an objective tells of the best trial; whatever it raises is told as well.

    Parameters
    ----------
    objective
        None where it is not what the study was begun with: what is stored can be told.
    """
    record, best = snapshot.record, snapshot.best
    if best is None or (record.spec.validates and snapshot.status.told.baseline is None):
        return ToldSection()
    told = take_told(record.storage, record.study_id, record.fingerprint)
    problems: list[str] = []
    if told.baseline is not None and told.baseline.failure:
        problems.append(f"the baseline has no score: {told.baseline.failure}")
    elif told.baseline is not None and not told.baseline.scores:
        scored = count_of(told.baseline.n_parts, "part")
        problems.append(f"the baseline has no score yet; scored until now: {scored}")
    parts: Parts = parts_of(best)
    baseline: Parts = told.baseline.parts if told.baseline is not None else ()
    rows = total_rows(best, told, snapshot.value_names[0])
    if record.spec.validates:
        # What training rows score says little of either.
        rows = [row for row in rows if not row.name.endswith("_train")]
        parts, baseline = (
            [{k: v for k, v in part.items() if not k.endswith("_train")} for part in of]
            for of in (parts, baseline)
        )
    repeats = (
        mean_repeats(objective.folds, len(objective.y))
        if isinstance(objective, CrossValidation)
        else 1.0
    )
    section = ToldSection(
        totals=_totals(rows, told, best.number),
        baseline=_describe(told.baseline),
        differences=_differences(part_differences(parts, baseline, repeats), told),
        problems=tuple(problems),
    )
    silent = not parts or record.spec.validates
    if objective is None or isinstance(objective, FunctionObjective) or silent:
        return section
    return _ask(section, objective, best.params, parts)


def _ask(
    section: ToldSection, objective: Objective, params: Params, parts: Sequence[Scores]
) -> ToldSection:
    """Add what the objective itself is asked for."""
    problems = [*section.problems]
    try:
        found = predictions_of(objective, params, parts)
        if found is not None:
            with refusing("predictions"):
                predicted = by_target(found, objective.parts)
            section = replace(section, parity=_parity(predicted), csv=told_csv(predicted))
    except ObjectiveError as exc:
        problems.append(str(exc))
    figures: list[Figure] = []
    alone: set[str] = set()
    try:
        for title, given in figures_of(objective, params, parts).items():
            with refusing(f"figures: '{title}'"):
                figures.append(figure := _own(title, given, len(figures)))
            if reason := refuse_drawing(figure):
                alone.add(figure.key)
                problems.append(f"figures: '{title}' is on this page alone: {reason}")
    except ObjectiveError as exc:
        problems.append(str(exc))
    return replace(
        section,
        figures=tuple(figures),
        problems=tuple(problems),
        on_page_alone=frozenset(alone),
    )


def _totals(rows: Sequence[TotalRow], told: Told, trial: int) -> TextTable | None:
    compared = any(row.baseline is not None for row in rows)
    if len(rows) < 2 and not compared:
        # The score alone stands on the page already.
        return None
    columns = ("", f"trial {trial}", *(("baseline", "difference") if compared else ()))
    lines = []
    for row in rows:
        values = (row.best, row.baseline, row.difference) if compared else (row.best,)
        named = row.name in told.totals
        texts = [row.total.write(v) if named else number(v) for v in values]
        lines.append((row.total.heading, *(text.translate(_SIGNS) for text in texts)))
    return TextTable(
        title="Totals of the best trial" + (" beside the baseline" if compared else ""),
        columns=columns,
        rows=tuple(lines),
        numeric=frozenset(range(1, len(columns))),
    )


def _describe(baseline: Baseline | None) -> str:
    if baseline is None or not baseline.scores:
        return ""
    params = ", ".join(f"{name} = {value}" for name, value in baseline.params.items())
    return params or "all parameters at their defaults"


def _differences(found: Sequence[PartDifference], told: Told) -> TextTable | None:
    if not found:
        return None
    lines = []
    for one in found:
        low, high = one.interval
        lines.append(
            (
                told.totals[one.name].label if one.name in told.totals else one.name,
                *(number(value) for value in (one.ours, one.theirs, one.difference)),
                f"{number(low)} to {number(high)}",
            )
        )
    return TextTable(
        title=f"Mean over {count_of(found[0].n_parts, 'part')}, the same for both",
        columns=("scored by part", "best trial", "baseline", "difference", "95 %"),
        rows=tuple(lines),
        numeric=frozenset(range(1, 5)),
    )


def _parity(predicted: dict[str, Predictions]) -> Figure:
    panels = tuple(
        Panel(
            parity_panel(rows, target),
            f"{target}: R² {number(rows.scores['r2'])}, ρ {number(rows.scores['spearman'])}, "
            f"{count_of(rows.n_rows, 'row')}",
            _slug(target),
        )
        for target, rows in predicted.items()
    )
    caption = (
        "Each row is predicted by the model of its part. The solid line is perfect prediction, the "
        "dashed lines are one RMSE away from it. Point at a dot for its row and its part."
    )
    shape = {1: "square", 2: "square"}.get(len(panels), "trio")
    return Figure("parity", "Predicted against actual values", caption, panels, shape)


def _own(title: str, figure: go.Figure, place: int) -> Figure:
    """Return a figure of the objective's as the page shows it; raises what its JSON raises."""
    shown = go.Figure(figure)
    height_px = shown.layout.height or 0.0
    shown.update_layout(autosize=True, width=None, height=None, title=None)
    pack(shown)
    key = f"own_{place}_{_slug(title)}"
    return Figure(key, title, "", (Panel(shown),), "wide", height_px / PX_PER_REM)


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")[:40] or "figure"
