"""A ranking as a CSV file: our columns first, then those of the file of candidates."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from features.table import Candidates, Target
from hpo.analysis.ranking import Ranking
from hpo.errors import HpoError
from hpo.estimators.protocol import Floats
from hpo.system.atomic_files import is_stream, replace_file, replacing
from hpo.wording import shown_cell


def write_ranking(
    path: Path, candidates: Candidates, ranking: Ranking, target: Target, summary: Mapping[str, Any]
) -> tuple[Path, ...]:
    """Write every candidate, best first, and beside it what is to be known of the numbers.

    Parameters
    ----------
    path
        The CSV file; written wholly or not at all.
    candidates, ranking
        What was read, and what became of it.
    target
        Of the study; predictions are in its unit, and in log10 of it where the study's are.
    summary
        Goes into FILE.json.

    Returns
    -------
    tuple of Path
        The CSV file and the JSON file; of a stream, that alone.

    Raises
    ------
    HpoError
        A file cannot be written.
    """
    try:
        with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as handle:
            writer = csv.writer(handle, lineterminator="\n")
            for row in (_header(candidates, ranking, target), *_rows(candidates, ranking, target)):
                writer.writerow(map(shown_cell, row))
        if is_stream(path):
            return (path,)
        beside = path.with_name(f"{path.name}.json")
        replace_file(beside, json.dumps(summary, indent=1, default=str) + "\n")
    except OSError as exc:
        raise HpoError(f"{path}: cannot be written: {exc.strerror}") from exc
    return path, beside


def top_rows(
    candidates: Candidates, ranking: Ranking, target: Target, count: int
) -> list[dict[str, Any]]:
    """Return the first candidates by rank, in the target's own unit."""
    lines = [line for line in ranking.order[:count] if ranking.rank[line]]
    values = _ends(ranking, target)
    if ranking.classes is None:
        ours = ("prediction", "lower", "upper")
        values = {name: found for name, found in values.items() if name.startswith(ours)}
    neutral = _neutral(candidates)
    return [
        {
            "rank": int(ranking.rank[line]),
            "formula": candidates.formulas[line],
            **{name: _plain(column[line]) for name, column in values.items()},
            "ood": bool(ranking.foreign[line]),
            "charge_neutral": neutral[line],
            "reason": ranking.reasons[line],
            "line": candidates.lines[line],
        }
        for line in lines
    ]


_NEUTRAL = {1: "yes", 0: "no", -1: "n/a"}


def _neutral(candidates: Candidates) -> list[str]:
    """Return of each line whether its charges add up to zero; "n/a" where that is not known."""
    found = ["n/a"] * len(candidates.lines)
    for line, code in zip(candidates.usable.tolist(), candidates.neutral.tolist(), strict=True):
        found[line] = _NEUTRAL[code]
    return found


def _plain(value: Any) -> float | str:
    return value if isinstance(value, str) else float(value)


def _ends(ranking: Ranking, target: Target) -> Mapping[str, Any]:
    """Return prediction and interval in the target's own unit, and then in log10 if it has one.

    Of classes, the most probable one, the probability of each, and the set of probable ones. Of
    several targets, these columns for each, with its name behind them.
    """
    if ranking.classes is not None:
        return ranking.classes.columns()
    if ranking.targets is None:
        return _ends_of(target, ranking.predicted, ranking.half_width)
    return {
        f"{name}_{one.name}": values
        for one, predicted, half_width in ranking.targets.each
        for name, values in _ends_of(one, predicted, half_width).items()
    }


def _ends_of(target: Target, predicted: Floats, half_width: float) -> dict[str, Floats]:
    plain = {
        "prediction": predicted,
        "lower": predicted - half_width,
        "upper": predicted + half_width,
    }
    if not target.log10:
        return plain
    with np.errstate(over="ignore"):
        own = {name: np.power(10.0, values) for name, values in plain.items()}
    return own | {f"log10_{name}": values for name, values in plain.items()}


def _header(candidates: Candidates, ranking: Ranking, target: Target) -> list[str]:
    names = _ends(ranking, target)
    formula = [candidates.formula_column] if candidates.formula_column else []
    ours = ["rank", *formula, *names, *_REMARKS]
    return ours + [f"input.{name}" if name in ours else name for name in _kept(candidates)]


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.10g}"


_REMARKS = ("ood", "charge_neutral", "reason", "distance", "nearest", "duplicate_of_line", "line")


def _kept(candidates: Candidates) -> list[str]:
    """Return the input's columns but the formula's, which stands among ours."""
    return [name for name in candidates.columns if name != candidates.formula_column]


def _rows(candidates: Candidates, ranking: Ranking, target: Target) -> Iterator[Sequence[str]]:
    ends = list(_ends(ranking, target).values())
    others = [
        index for index, name in enumerate(candidates.columns) if name != candidates.formula_column
    ]
    neutral = _neutral(candidates)
    for line in ranking.order:
        fields = candidates.fields[line]
        ranked = ranking.rank[line] > 0
        yield [
            str(ranking.rank[line]) if ranked else "",
            *([candidates.formulas[line]] if candidates.formula_column else []),
            *(_cell(values[line]) if ranked else "" for values in ends),
            ("yes" if ranking.foreign[line] else "no") if ranked else "",
            neutral[line],
            ranking.reasons[line],
            f"{ranking.distance[line]:.4f}" if np.isfinite(ranking.distance[line]) else "",
            ranking.nearest[line],
            str(ranking.duplicate_of[line] or ""),
            str(candidates.lines[line]),
            *(fields[index] if fields else "" for index in others),
        ]
