"""A ranking as a CSV file: our columns first, then those of the file of candidates."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.table import Target
from hpo.analysis.candidates.ranked_lines import RankedLines
from hpo.analysis.candidates.ranking import Ranking
from hpo.errors import HpoError
from hpo.estimators.protocol import Floats
from hpo.system.atomic_files import is_stream, replace_file, replacing
from hpo.wording import shown_cell, shown_cells

_BLOCK_LINES = 4096  # whose numbers are put into words together


def write_ranking(
    path: Path, found: RankedLines, target: Target, summary: Mapping[str, Any]
) -> tuple[Path, ...]:
    """Write every candidate, best first, and beside it what is to be known of the numbers.

    Parameters
    ----------
    path
        The CSV file; written wholly or not at all.
    found
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
            writer.writerow(map(shown_cell, _header(found, target)))
            writer.writerows(_rows(found, target))
        if is_stream(path):
            return (path,)
        beside = path.with_name(f"{path.name}.json")
        replace_file(beside, json.dumps(summary, indent=1, default=str) + "\n")
    except OSError as exc:
        raise HpoError(f"{path}: cannot be written: {exc.strerror}") from exc
    return path, beside


def top_rows(found: RankedLines, target: Target, count: int) -> list[dict[str, Any]]:
    """Return the first candidates by rank, in the target's own unit."""
    ranking = found.ranking
    lines = ranking.order[:count]
    lines = lines[ranking.rank[lines] > 0]
    values = _ends(ranking, target, lines)
    if ranking.classes is None:
        ours = ("prediction", "lower", "upper")
        values = {name: found for name, found in values.items() if name.startswith(ours)}
    return [
        {
            "rank": int(ranking.rank[line]),
            "formula": formula,
            **{name: _plain(column[at]) for name, column in values.items()},
            "ood": bool(ranking.foreign[line]),
            "charge_neutral": _NEUTRAL[int(found.neutral[line])],
            "reason": reason,
            "line": int(found.lines[line]),
        }
        for at, (line, (formula, reason, *_)) in enumerate(
            zip(lines, found.texts.take(lines), strict=True)
        )
    ]


_NEUTRAL = {1: "yes", 0: "no", -1: "n/a"}


def _plain(value: Any) -> float | str:
    return value if isinstance(value, str) else float(value)


def _ends(ranking: Ranking, target: Target, lines: NDArray[np.int64]) -> Mapping[str, Any]:
    """Return prediction and interval in the target's own unit, and then in log10 if it has one.

    Of classes, the most probable one, the probability of each, and the set of probable ones. Of
    several targets, these columns for each, with its name behind them.
    """
    if ranking.classes is not None:
        return ranking.classes.columns(lines)
    if ranking.targets is None:
        return _ends_of(target, ranking.predicted[lines], ranking.half_width)
    return {
        f"{name}_{one.name}": values
        for one, predicted, half_width in ranking.targets.each
        for name, values in _ends_of(one, predicted[lines], half_width).items()
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


def _header(found: RankedLines, target: Target) -> list[str]:
    names = _ends(found.ranking, target, found.ranking.order[:0])
    formula = [found.formula_column] if found.formula_column else []
    ours = ["rank", *formula, *names, *_REMARKS]
    kept = [found.columns[at] for at in _kept(found)]
    return ours + [f"input.{name}" if name in ours else name for name in kept]


_REMARKS = ("ood", "charge_neutral", "reason", "distance", "nearest", "duplicate_of_line", "line")


def _kept(found: RankedLines) -> list[int]:
    """Return the input's columns but the formula's, which stands among ours."""
    return [at for at, name in enumerate(found.columns) if name != found.formula_column]


def _cells(values: Any) -> list[str]:
    values = values.tolist() if isinstance(values, np.ndarray) else values
    return [shown_cell(v) if isinstance(v, str) else f"{v:.10g}" for v in values]


def _rows(found: RankedLines, target: Target) -> Iterator[Sequence[str]]:
    ranking, kept = found.ranking, _kept(found)
    nothing = [""] * len(kept)
    for start in range(0, len(found.lines), _BLOCK_LINES):
        lines = ranking.order[start : start + _BLOCK_LINES]
        ends = zip(*map(_cells, _ends(ranking, target, lines).values()), strict=True)
        numbers = zip(
            ranking.rank[lines].tolist(),
            ranking.foreign[lines].tolist(),
            found.neutral[lines].tolist(),
            ranking.distance[lines].tolist(),
            ranking.duplicate_of[lines].tolist(),
            found.lines[lines].tolist(),
            strict=True,
        )
        texts = found.texts.take(lines.tolist())
        for told, (rank, foreign, neutral, distance, duplicate_of, line), texts_of in zip(
            ends, numbers, texts, strict=True
        ):
            formula, reason, nearest, fields = texts_of
            others = [fields[at] for at in kept] if fields else nothing
            formula, reason, nearest, *others = shown_cells([formula, reason, nearest, *others])
            yield [
                rank or "",
                *([formula] if found.formula_column else []),
                *(told if rank else [""] * len(told)),
                ("yes" if foreign else "no") if rank else "",
                _NEUTRAL[neutral],
                reason,
                f"{distance:.4f}" if math.isfinite(distance) else "",
                nearest,
                duplicate_of or "",
                line,
                *others,
            ]
