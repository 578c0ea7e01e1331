"""Writes the page that compares studies, and its figures as files."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpo.analysis.comparison.differences import (
    Pair,
    ScoredStudy,
    remarks,
)
from hpo.analysis.comparison.fronts import compare_fronts
from hpo.analysis.comparison.leaderboard import describe_line, prediction_cells
from hpo.analysis.comparison.parts import PartPair, part_cells, part_remarks
from hpo.analysis.comparison.reported import Reported
from hpo.analysis.comparison.studies import INTERVALS_NOTE, Kind, Outside
from hpo.analysis.discovery_metrics import Values, screening_cells
from hpo.errors import HpoError
from hpo.report.comparison_tables import (
    TitledCells,
    describe_fronts,
    difference_tables,
    front_cells,
    score_cells,
    tables_of,
    variant_cells,
)
from hpo.report.figures.base import Figure
from hpo.report.figures.comparison import comparison_figures, draw_outside, styles
from hpo.report.figures.files import write_figures
from hpo.report.formatting import name_targets, utc
from hpo.report.html import render
from hpo.report.tables import TextTable
from hpo.system.atomic_files import is_stream, replace_file

PAGE_NAME = "comparison.html"
_SIGNS = str.maketrans({"-": "\N{MINUS SIGN}"})
_METRICS = {"R2": "R²", "rho": "ρ"}


def write_comparison(
    studies: Sequence[ScoredStudy],
    pairs: Sequence[Pair],
    reported: Mapping[str, Reported],
    page: Path,
    worth: Mapping[str, Values],
    outside: Sequence[Outside] = (),
    parts: Sequence[PartPair] = (),
) -> Path:
    """Write the page of a comparison, and its figures into `<page>_figures/`.

    The page is one file that needs no network. Of a stream, it is written alone.

    Parameters
    ----------
    studies
        The studies as they are compared.
    pairs
        Differences to one of them.
    reported
        What was reported elsewhere, by study.
    page
        Where to write it.
    worth
        What the studies' rankings are worth, by name; empty if that was not asked for.
    outside
        Scores from outside, such as a leaderboard's.
    parts
        Differences that are paired over parts.

    Raises
    ------
    HpoError
        If the files cannot be written.
    """
    figures, keys = _draw(studies, pairs)
    figures += [draw_outside(found, k) for k, found in enumerate(outside)]
    folder = page.with_name(f"{page.stem}_figures")
    predicting = [study.row for study in studies if not study.row.scores]
    context = {
        "names": [study.name for study in studies],
        "against": pairs[0].against if pairs else "",
        "written": utc(time.time()),
        "tables": [_scores(one) for one in tables_of(predicting, reported)] if predicting else [],
        "own": _own(score_cells([study.row for study in studies], reported)),
        "fronts": [
            _table(describe_fronts(fronts), *_split(front_cells(fronts)), ())
            for fronts in compare_fronts([study.row for study in studies])
        ],
        "outside": [_outside(found) for found in outside],
        "sources": _sources(studies, reported),
        "note": INTERVALS_NOTE if any(study.row.test_intervals for study in studies) else "",
        "parts": _parts(parts),
        "differences": [
            _table(_titled("Score less that of the other study", title), *_split(cells), ())
            for title, cells in difference_tables(pairs, studies)
        ],
        "variants": _variants(studies),
        "screening": _screening(worth),
        "remarks": [
            *(f"{study.name}: {study.row.remark}" for study in studies if study.row.remark),
            *remarks(studies, pairs),
            *part_remarks(parts),
        ],
        "figures": figures,
        "folder": folder.name,
        "keys": keys,
    }
    try:
        if is_stream(page):
            replace_file(page, render("comparison.html.j2", context))
            return page
        page.parent.mkdir(parents=True, exist_ok=True)
        replace_file(page, render("comparison.html.j2", context))
        write_figures(figures, folder, together=True)
    except OSError as exc:
        raise HpoError(f"{page}: cannot be written: {exc.strerror}") from exc
    return page


def _draw(
    studies: Sequence[ScoredStudy], pairs: Sequence[Pair]
) -> tuple[list[Figure], dict[str, list[tuple[str, str]]]]:
    """Return the figures, those of each target apart, and the key to the lines of some."""
    by_kind: dict[Kind, list[ScoredStudy]] = {}
    for study in studies:
        for one in study.each_target():
            by_kind.setdefault(one.row.kind, []).append(one)
    figures: list[Figure] = []
    keys: dict[str, list[tuple[str, str]]] = {}
    for k, ((targets, has_intervals), of_kind) in enumerate(by_kind.items()):
        theirs: Sequence[Pair] = []
        if any(pairs and study.name == pairs[0].against for study in of_kind):
            several = any(s.name == pairs[0].against and len(s.row.targets) > 1 for s in studies)
            theirs = [pair.of_target(targets[0].name) for pair in pairs] if several else pairs
        name, unit = name_targets(targets)
        suffix = f"-{k + 1}" if len(by_kind) > 1 else ""
        of = f"{targets[0].name}{', intervals' if has_intervals else ''}: " if targets else ""
        for figure in comparison_figures(of_kind, theirs, name, unit):
            title = f"{of if suffix else ''}{figure.title}"
            figures.append(replace(figure, key=f"{figure.key}{suffix}", title=title))
        keys[f"errors{suffix}"] = _key([study for study in of_kind if study.predicts_value])
    return figures, keys


def _key(drawn: Sequence[ScoredStudy]) -> list[tuple[str, str]]:
    return [
        (study.name if dash == "solid" else f"{study.name} ({dash})", colour)
        for study, (colour, dash) in zip(drawn, styles(len(drawn)), strict=True)
    ]


def _sources(
    studies: Sequence[ScoredStudy], reported: Mapping[str, Reported]
) -> dict[str, tuple[str, str]]:
    names = [study.name for study in studies if study.name in reported]
    return {name: (reported[name].name, reported[name].source) for name in names}


def _scores(table: TitledCells) -> TextTable:
    heads, *rows = table.cells
    at = heads.index("n test")
    columns = [head.removeprefix("CV ").removeprefix("test ") for head in heads]
    columns[at] = "rows"
    return _table(
        _titled("Best trials", table.title),
        columns,
        rows,
        (("", 1), ("", 1), ("CV", at - 2), ("test", len(heads) - at)),
    )


def _titled(title: str, of: str) -> str:
    return f"{title}, {of}" if of else title


def _parts(pairs: Sequence[PartPair]) -> TextTable | None:
    heads, *rows = part_cells(pairs) or [[]]
    if not rows:
        return None
    return _table(f"Means over parts less those of {pairs[0].against}", heads, rows, ())


def _own(cells: Sequence[Sequence[str]]) -> TextTable | None:
    if not cells:
        return None
    return _table("Best trials, by what their objectives tell", cells[0], cells[1:], ())


def _outside(found: Outside) -> dict[str, Any]:
    """Return a line through outside scores in words, and what it predicts as a table."""
    external, cells = (
        found.external,
        prediction_cells(found.line, found.scores, found.external.measured),
    )
    return {
        "title": f"{external.name[:1].upper()}{external.name[1:]} against the score, {found.of}",
        "lines": [
            line[:1].upper() + line[1:]
            for line in describe_line(found.line, external.name, external.target)
        ],
        "table": _table("What the line predicts of studies", cells[0], cells[1:], ())
        if found.scores
        else None,
    }


def _variants(studies: Sequence[ScoredStudy]) -> TextTable | None:
    cells = variant_cells([study.row for study in studies])
    return _table("Scores by variant", cells[0], cells[1:], ()) if cells else None


def _screening(worth: Mapping[str, Values]) -> TextTable | None:
    heads, *rows = screening_cells(worth)
    return _table("Values above the threshold", heads, rows, ()) if rows else None


def _table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    heads: tuple[tuple[str, int], ...],
) -> TextTable:
    names = {"CV": "Cross-validation, out of fold", "test": "Held-out test set"}
    return TextTable(
        title=title,
        columns=tuple(_METRICS.get(column, column) for column in columns),
        rows=tuple((_first(first), *map(_true_minus, others)) for first, *others in rows),
        numeric=frozenset(range(1, len(columns))),
        heads=tuple((names.get(head, head), span) for head, span in heads),
    )


def _split(cells: Sequence[Sequence[str]]) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    return cells[0], cells[1:]


def _first(cell: str) -> str:
    return cell.replace("  ", "\N{EM SPACE}", 1) if cell.startswith("  ") else cell


def _true_minus(cell: str) -> str:
    return "–" if cell == "-" else cell.translate(_SIGNS)
