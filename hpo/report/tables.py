"""Sentences and tables on the outcome of a study."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from features.table import Target
from hpo.analysis.best_model import Evaluation, Predictions
from hpo.analysis.calibration import Calibrated, Labels
from hpo.analysis.conformal import Assessment, assess
from hpo.records import WALL_KEY, part_key
from hpo.report.formatting import (
    BOUNDS_LABELS,
    CLASS_LABELS,
    METRIC_LABELS,
    NO_BREAK,
    QUANTILE_LABELS,
    _interval,
    _label,
    name_target,
    name_targets,
    number,
    shown_metrics,
)
from hpo.spec.space import (
    CategoricalDimension,
    Dimension,
    FamiliesDimension,
    StagedDimension,
    as_choice,
)
from hpo.storage.best import Front
from hpo.study.trials import Search, score
from hpo.wording import count_of, plain_number

MAX_FRONT = 30
SET_HEADS = {"cv": "Cross-validation, out of fold", "test": "Held-out test set"}
# What a study file has, or a function has said.
_Searched: TypeAlias = Dimension | FloatDistribution | IntDistribution | CategoricalDistribution
_CHOICES = (CategoricalDimension, FamiliesDimension, CategoricalDistribution)
EDGE = 0.01  # share of a searched range, at either end


@dataclass(frozen=True)
class TextTable:
    """A small table of texts.

    Attributes
    ----------
    numeric
        Positions of the columns that hold numbers.
    more
        What is not in it and where to find that; "" if it is complete.
    heads
        Names that stand above several columns, and how many; empty if there are none.
    n_summary
        How many of the last rows sum up the others.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int] = frozenset()
    more: str = ""
    heads: tuple[tuple[str, int], ...] = ()
    n_summary: int = 0


# In one sentence ------------------------------------------------------------------------------


def sum_up(search: Search, evaluation: Evaluation | None, unit: str, *, holds_out: bool) -> str:
    """Return the outcome in one sentence.

    Parameters
    ----------
    search, evaluation
        The trials, and the best of them fitted again.
    unit
        Of an error.
    holds_out
        Whether there are rows that the search never sees.
    """
    if search.best is None and search.infeasible:
        n_broken = count_of(len(search.infeasible), "finished trial")
        return f"No best trial yet: constraints are broken by {n_broken}, which are all."
    if search.best is None:
        failed = len(search.failed)
        return "No trial has finished yet" + (f"; {failed} failed." if failed else ".")
    finished, pruned = len(search.finished), len(search.pruned)
    broken = len(search.infeasible)
    of = f"The best of {finished} trials" if finished > 1 else "The one finished trial"
    if pruned:
        of = f"The best of {finished + pruned} trials ({pruned} of them ended early)"
    if broken:
        of += f", beside {broken} that {'break' if broken > 1 else 'breaks'} a constraint,"
    trial = search.best.number
    if search.front is not None:
        return _sum_up_front(search, search.front, of_model=evaluation is not None)
    if evaluation is None:
        return f"{of} is trial {trial}, with {search.score_name} {number(score(search.best))}."
    in_words = functools.partial(_in_words, evaluation, unit)
    text = f"{of}, trial {trial}, reaches {in_words(evaluation.cv)} in cross-validation"
    if evaluation.withheld:
        return f"{text}. The held-out rows were left alone: {evaluation.withheld}."
    if evaluation.test is not None:
        rows = count_of(evaluation.test.n_rows, "held-out row")
        return f"{text}, and {in_words(evaluation.test)} on {rows}."
    if holds_out:
        return f"{text}. The held-out rows are evaluated once, when the budget is finished."
    return f"{text}."


def _sum_up_front(search: Search, front: Front, *, of_model: bool) -> str:
    first, *_ = front.numbers
    reference = ", ".join(map(number, front.reference_point))
    broken = len(search.infeasible)
    without = f", beside {broken} that {'break' if broken > 1 else 'breaks'} a constraint"
    model = ": it is the model of this page" if of_model else ""
    return (
        f"Of {count_of(len(search.finished), 'finished trial')}{without if broken else ''}, "
        f"{len(front.numbers)} make up the Pareto front. Its hypervolume is "
        f"{number(front.hypervolume)}, up to the worst values, ({reference}). Trial {first} has "
        f"the best {search.score_name} of them, {number(front.values[0][0])}{model}."
    )


def _in_words(evaluation: Evaluation, unit: str, predictions: Predictions) -> str:
    if predictions.targets:
        one = replace(predictions, targets=())
        return (
            f"{_in_words(evaluation, unit, one)}, the mean over {len(predictions.targets)} targets,"
        )
    headline, scores = evaluation.headline, predictions.scores
    low, high = predictions.row_intervals[headline]
    interval = f"(95~% interval {number(low)} to {number(high)})"
    if headline == "pinball":
        loss, covered = number(scores["pinball"]), number(scores["coverage"])
        text = f"a pinball loss of {loss}~{unit}".strip("~")
        text += f" {interval} and covers {covered} where {evaluation.level:g} is asked for"
    elif headline in CLASS_LABELS:
        also = "" if headline == "balanced_accuracy" else " and balanced accuracy~"
        text = f"{CLASS_LABELS[headline]}~{number(scores[headline])} {interval}"
        text += f"{also}{number(scores['balanced_accuracy'])}" if also else ""
    elif headline == "concordance":
        text = f"concordance~{number(scores['concordance'])} {interval}"
        text += f" and RMSE~{number(scores['rmse'])}~{unit} beyond what is known"
    elif headline == "spearman":
        text = f"Spearman ρ~{number(scores['spearman'])} {interval}"
    else:
        text = f"R²~{number(scores['r2'])} {interval} and RMSE~{number(scores['rmse'])}~{unit}"
    return text.strip("~").replace("~", NO_BREAK)


def front_table(search: Search) -> TextTable | None:
    """Return the trials of the Pareto front: values, parameters; None with one objective."""
    front = search.front
    if front is None:
        return None
    params = {trial.number: trial.params for trial in search.finished}
    names = [name for name in search.params if any(name in params[at] for at in front.numbers)]
    rows = [
        (
            str(at),
            *map(number, values),
            *(_param(params[at][name]) if name in params[at] else "" for name in names),
        )
        for at, values in zip(front.numbers, front.values, strict=True)
    ]
    columns = ("trial", *search.value_names, *names)
    n_more = len(rows) - MAX_FRONT
    return TextTable(
        title="Trials that no other one is better than in every value",
        columns=columns,
        rows=tuple(rows[:MAX_FRONT]),
        numeric=frozenset(range(1, len(columns))),
        more=f"{n_more} more: hpo export {search.name}" if n_more > 0 else "",
    )


# Scores ---------------------------------------------------------------------------------------


def score_rows(evaluation: Evaluation, targets: Sequence[Target]) -> list[dict[str, Any]]:
    """Return a row per metric: its label, then score and intervals for each set of rows.

    Of several targets these are their means, and behind them a row per target and metric.
    """
    rows = _score_rows(evaluation, name_targets(targets)[1])
    if not evaluation.cv.targets:
        return rows
    rows = [{**row, "label": f"Mean: {row['label']}"} for row in rows]
    for position, target in enumerate(targets):
        name, unit = name_target(target)
        of_target = _score_rows(evaluation.of_target(position), unit)
        rows += [{**row, "label": f"{name}: {row['label']}"} for row in of_target]
    return rows


def _score_rows(evaluation: Evaluation, unit: str) -> list[dict[str, Any]]:
    sets = [p for p in (evaluation.cv, evaluation.test) if p is not None]
    return [
        {
            "label": _label(name, unit),
            "sets": [
                {
                    "value": number(predictions.scores[name]),
                    "by_row": _interval(predictions.row_intervals[name]),
                    "by_group": _interval(predictions.group_intervals[name]),
                    "baseline": number(predictions.baseline.get(name)),
                }
                for predictions in sets
            ],
        }
        for name in shown_metrics(evaluation.cv.scores)
    ]


def parts_table(search: Search, best: FrozenTrial, unit: str) -> TextTable | None:
    """Return every stored score of the best trial by part, and then over all parts.

    None for a trial without parts.
    """
    if not search.in_parts:
        return None
    steps = [step for step in sorted(best.intermediate_values) if part_key(step) in best.user_attrs]
    parts = {step: best.user_attrs[part_key(step)] for step in steps}
    if not parts:
        return None
    # A text that a part keeps beside its scores is for its objective, not for a table.
    names = [
        name
        for part in parts.values()
        for name, value in part.items()
        if name not in ("score", WALL_KEY) and not isinstance(value, str)
    ]
    metrics = _paired_metrics({*names})
    pairs = [f"{metric}_{side}" for metric in metrics for side in ("val", "train")]
    paired = bool(pairs)
    names = [*(pairs if paired else dict.fromkeys(names)), "score"]
    columns: tuple[str, ...] = ("part", *names[:-1], search.score_name)
    heads: tuple[tuple[str, int], ...] = ()
    if paired:
        columns = ("part", *("val.", "train.") * len(metrics), search.score_name)
        heads = (("", 1), *((_label(name, unit), 2) for name in metrics), ("", 1))
    # An undefined score is stored as null, which this reads as NaN.
    stored = [[part.get(name) for name in names] for part in parts.values()]
    values = np.array(stored, dtype=np.float64)
    rows = [
        (search.part_name(step), *map(number, scores))
        for step, scores in zip(parts, values, strict=True)
    ]
    if paired:
        summary = {"mean": values.mean(axis=0), "std. dev.": values.std(axis=0, ddof=1)}
        if not math.isclose(summary["mean"][-1], score(best), rel_tol=1e-9):
            apart = np.full(len(names) - 1, math.nan)
            summary["all parts together"] = np.array([*apart, score(best)])
    else:
        # What an objective of the user's own makes of its parts need not be their mean.
        whole = [best.user_attrs.get(name, math.nan) for name in names[:-1]]
        summary = {"whole trial": np.array([*whole, score(best)])}
    rows += [(label, *map(number, scores)) for label, scores in summary.items()]
    return TextTable(
        title=f"Trial {best.number}, part by part",
        columns=columns,
        rows=tuple(rows),
        numeric=frozenset(range(1, len(columns))),
        heads=heads,
        n_summary=len(summary),
    )


def _paired_metrics(names: Set[str]) -> tuple[str, ...]:
    """Return the metrics that parts store for both of their sides, if those are all they store.

    Of all else that an objective of the user's own may store, nothing is to be left out.
    """
    for metrics in (tuple(QUANTILE_LABELS), tuple(METRIC_LABELS), tuple(CLASS_LABELS)):
        if {f"{metric}_{side}" for metric in metrics for side in ("val", "train")} <= names:
            also = (*BOUNDS_LABELS, "scoring")
            return (*metrics, *(name for name in also if f"{name}_val" in names))
    return ("spearman",) if names == {"spearman_val", "spearman_train", "spearman_pooled"} else ()


# Parameters -----------------------------------------------------------------------------------


def param_rows(space: Mapping[str, Dimension], best: FrozenTrial) -> list[dict[str, Any]]:
    """Return a row per parameter: value, searched range, place in it in per cent, remark.

    A function says what it draws from only when it is called: without a space, it is what it said.
    """
    rows = []
    searched: Mapping[str, _Searched] = space or cast("Mapping[str, _Searched]", best.distributions)
    names = [name for name in searched if name in best.params]
    for name in [*names, *(name for name in best.params if name not in searched)]:
        value, dimension = best.params[name], searched.get(name)
        place = None if dimension is None else _place(dimension, value)
        edge = ""
        if place is not None and not EDGE < place < 1 - EDGE:
            edge = f"at the {'lower' if place <= EDGE else 'upper'} end: consider widening"
        rows.append(
            {
                "name": name,
                "value": _param(value),
                "range": "not in the present space" if dimension is None else _range(dimension),
                "place": None if place is None else round(100 * place, 1),
                "edge": edge,
            }
        )
    return rows


def _param(value: Any) -> str:
    return plain_number(value, ".6g") if isinstance(value, float) else str(value)


def _place(dimension: _Searched, value: Any) -> float | None:
    """Return where a value lies in its range, 0 to 1; None for choices."""
    if isinstance(dimension, _CHOICES) or dimension.low == dimension.high:
        return None
    low, high, at = float(dimension.low), float(dimension.high), float(value)
    if dimension.log:
        low, high, at = math.log(low), math.log(high), math.log(at)
    return min(1.0, max(0.0, (at - low) / (high - low)))


def _range(dimension: _Searched) -> str:
    if isinstance(dimension, _CHOICES):
        return ", ".join(str(as_choice(choice)) for choice in dimension.choices)
    scale = ", log scale" if dimension.log else ""
    step = f", step {dimension.step:g}" if dimension.step not in (None, 1) else ""
    step += ", read off the curve" if isinstance(dimension, StagedDimension) else ""
    return f"{dimension.low:g} to {dimension.high:g}{scale}{step}"


# Texts ----------------------------------------------------------------------------------------


def coverage_table(
    calibrated: Calibrated,
    rows: Mapping[str, Predictions],
    classes: Mapping[str, Labels],
    unit: str,
) -> TextTable:
    """Return coverage and mean width over all rows and by class.

    Parameters
    ----------
    calibrated
        The intervals.
    rows, classes
        Predictions of "cv" and, if there are any, "test"; the class of every row of each.
    unit
        Of a width.
    """
    found: dict[str, Assessment | None] = {}
    for name, predictions in rows.items():
        made = calibrated.cv if name == "cv" else calibrated.test
        found[name] = assess(made, predictions.y, classes[name]) if made is not None else None
    sizes = Counter(np.concatenate([classes[name] for name in rows]).tolist())
    counts = {name: Counter(classes[name].tolist()) for name in rows}
    lines: list[tuple[str, ...]] = []
    for label, _ in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        of_class = [
            cell
            for name, of_all in found.items()
            for cell in _cells(of_all and of_all.families.get(label), counts[name][label])
        ]
        lines.append((label, *of_class))
    everything = [
        cell for name, of_all in found.items() for cell in _cells(of_all, len(rows[name].y))
    ]
    lines.append(("all rows", *everything))
    width = f"mean width ({unit})" if unit else "mean width"
    columns = ("class by anions", *("rows", "coverage", width) * len(rows))
    return TextTable(
        title=f"Intervals of {100 * calibrated.coverage:g} % nominal coverage",
        columns=columns,
        rows=tuple(lines),
        numeric=frozenset(range(1, len(columns))),
        heads=(("", 1), *((SET_HEADS[name], 3) for name in rows)),
        n_summary=1,
    )


def _cells(found: Assessment | None, n_rows: int) -> tuple[str, str, str]:
    if found is None:
        return str(n_rows), "–", "–"
    return str(found.n_rows), f"{found.coverage:.3f}", number(found.mean_width)
