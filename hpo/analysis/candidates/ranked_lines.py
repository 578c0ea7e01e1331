"""All lines of a file of candidates once they are ranked: numbers in memory, texts on disk."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.table import Candidates
from hpo.analysis.candidates.ranking import RankedTargets, Ranking, find_duplicates, order_of
from hpo.analysis.classification.ranked_classes import RankedClasses
from hpo.system.stored_rows import StoredRows


@dataclass(frozen=True, eq=False)
class RankedLines:
    """Every line of a file of candidates, and what became of it.

    Attributes
    ----------
    columns, formula_column
        As `features.table.Candidates` has them.
    lines
        Array of shape (n_lines,): where each record begins; the header is line 1.
    neutral
        Array of shape (n_lines,): 1 where charges can add up to zero, 0 where they cannot, -1
        where that is not known.
    ranking
        The numbers of the ranking of all lines, without its texts.
    texts
        Of each line `(formula, reason, nearest, fields)`.
    left_out
        How many lines have no rank for each reason.
    """

    columns: tuple[str, ...]
    formula_column: str
    lines: NDArray[np.int64]
    neutral: NDArray[np.int8]
    ranking: Ranking
    texts: StoredRows
    left_out: Counter[str]


def collect(
    pieces: Iterable[tuple[Candidates, Ranking]], *, ascending: bool = False
) -> RankedLines:
    """Return the ranking of all lines from candidates and rankings of consecutive ones.

    Of a piece, which comes when the one before it is let go of, numbers alone stay in memory.

    Raises
    ------
    HpoError
        There is no room for the texts on disk.
    """
    texts, left_out, lines = StoredRows(), Counter[str](), array("q")
    parts: list[Ranking] = []
    neutral: list[NDArray[np.int8]] = []
    columns: tuple[str, ...] = ()
    formula_column = ""
    for candidates, ranked in pieces:
        columns, formula_column = candidates.columns, candidates.formula_column
        lines.extend(candidates.lines)
        balanced = np.full(len(candidates.lines), -1, dtype=np.int8)
        balanced[candidates.usable] = candidates.neutral
        neutral.append(balanced)
        rows = zip(
            candidates.formulas, ranked.reasons, ranked.nearest, candidates.fields, strict=True
        )
        texts.extend(rows)
        is_ranked = (ranked.rank > 0).tolist()
        left_out.update(
            reason for reason, ranks in zip(ranked.reasons, is_ranked, strict=True) if not ranks
        )
        none = np.empty(0, dtype=np.int64)
        parts.append(
            replace(ranked, nearest=(), reasons=(), rank=none, order=none, duplicate_of=none)
        )
        del candidates, ranked, rows
    numbers = np.array(lines, dtype=np.int64)
    return RankedLines(
        columns,
        formula_column,
        numbers,
        np.concatenate(neutral),
        _joined(parts, numbers, ascending=ascending),
        texts,
        left_out,
    )


def _joined(pieces: Sequence[Ranking], lines: NDArray[np.int64], *, ascending: bool) -> Ranking:
    whole: dict[str, Any] = {}
    for field in fields(Ranking):
        parts = [getattr(piece, field.name) for piece in pieces]
        if isinstance(parts[0], np.ndarray):
            whole[field.name] = np.concatenate(parts)
        elif isinstance(parts[0], RankedClasses):
            whole[field.name] = RankedClasses.joined(parts)
        elif isinstance(parts[0], RankedTargets):
            whole[field.name] = RankedTargets.joined(parts)
        else:
            whole[field.name] = parts[0]
    whole["rank"], whole["order"] = order_of(whole["predicted"], ascending=ascending)
    whole["duplicate_of"] = find_duplicates(whole["keys"], lines)
    return Ranking(**whole)
