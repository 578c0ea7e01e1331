"""Cells and lines of tables that compare studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from features.table import Target
from hpo.analysis.comparison.differences import Pair, ScoredStudy, difference_cells
from hpo.analysis.comparison.fronts import ComparedFronts
from hpo.analysis.comparison.reported import Reported
from hpo.analysis.comparison.studies import (
    _VARIED,
    AS_IT_IS,
    CLASSES,
    INTERVALS,
    INTERVALS_NOTE,
    NUMBERS,
    Kind,
    Row,
    Shown,
    _differences,
    _minus,
)
from hpo.report.formatting import name_targets
from hpo.wording import plain_number


class TitledCells(NamedTuple):
    """A table of texts, heads first, and what it is of; "" where nothing has to be said."""

    title: str
    cells: list[list[str]]


def tables_of(rows: Sequence[Row], reported: Mapping[str, Reported]) -> list[TitledCells]:
    """Return the comparison as tables, one for each kind of target; see `table_cells`.

    Errors in different units are in different tables, which then say the target and the unit. Of
    several targets there is a table of the means over them, and one for each, which it shares with
    studies of that target alone.
    """
    of_classes = [row for row in rows if CLASSES.suits(row.cv)]
    others = [row for row in rows if row not in of_classes]
    # What has no scores stands in whichever table comes first.
    usual = next((row.kind for row in others if row.cv), ((), False))
    by_kind: dict[Kind, list[Row]] = {}
    for row in others:
        for one in (row, *row.of_each_target()):
            by_kind.setdefault(one.kind if one.cv else usual, []).append(one)
    found = [
        TitledCells(
            title_of(targets, has_intervals) if len(by_kind) > 1 else "",
            table_cells(of_kind, reported, INTERVALS if has_intervals else NUMBERS),
        )
        for (targets, has_intervals), of_kind in by_kind.items()
    ]
    if not rows:
        found = [TitledCells("", table_cells([], {}))]
    return found + ([TitledCells("", table_cells(of_classes, {}, CLASSES))] if of_classes else [])


def title_of(targets: Sequence[Target], has_intervals: bool = False) -> str:
    """Return what scores are of, and the unit of errors."""
    if not targets:
        return "targets that are not known, as their tables are not here"
    name, unit = name_targets(targets)
    of = f"means over {name}" if len(targets) > 1 else name
    errors = f"RMSE and MAE in {unit}" if unit else ""
    if has_intervals:
        errors = f"{errors or 'RMSE and MAE'} from what is known as intervals"
    return f"{of}: {errors}" if errors else of


def difference_tables(pairs: Sequence[Pair], studies: Sequence[ScoredStudy]) -> list[TitledCells]:
    """Return the differences as tables; of several targets one for each, which says the unit."""
    against = [study for study in studies if pairs and study.name == pairs[0].against]
    each = [target for study in against for target in study.row.targets]
    of_one = INTERVALS if any("concordance" in pair.metrics for pair in pairs) else NUMBERS
    found = [TitledCells("", difference_cells(pairs, shown)) for shown in (of_one, CLASSES)]
    if len(each) > 1:
        found += [
            TitledCells(
                title_of([target]), difference_cells([p.of_target(target.name) for p in pairs])
            )
            for target in each
        ]
    return [table for table in found if len(table.cells) > 1]


def table_cells(
    rows: Sequence[Row], reported: Mapping[str, Reported], shown: Shown = NUMBERS
) -> list[list[str]]:
    """Return the comparison as a table of texts, heads first: ours, and below it the reported."""
    heads = ["study", "features", *(f"CV {head}" for head in shown.heads), "n test"]
    for name, head in zip(shown.names, shown.heads, strict=True):
        heads += [f"test {head}", "95 %"] if name in shown.intervals else [f"test {head}"]
    table = [heads]
    for row in rows:
        table.append(_own_cells(row, shown))
        # A reported error has a unit; the mean over several targets has none.
        if row.name in reported and len(row.targets) < 2:
            table.extend(_reported_cells(row, reported[row.name], shown))
    return table


def score_cells(rows: Sequence[Row], reported: Mapping[str, Reported]) -> list[list[str]]:
    """Return the figures of objectives without predictions as a table of texts, heads first.

    Ours, and below them those of the baseline and the reported; empty if there are none.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.scores))
    if not names:
        return []
    totals = {name: total for row in rows for name, total in row.totals.items()}
    heads = [totals[n].heading if n in totals else n.replace("_", " ") for n in names]
    table = [["study", *heads]]
    for row in rows:
        if not row.scores:
            continue
        table.append([row.name, *(_told(row, row.scores.get(name), name) for name in names)])
        if row.baseline:
            of_baseline = (_told(row, row.baseline.get(name), name) for name in names)
            table.append(["  baseline", *of_baseline])
            ahead = (
                _told(row, _minus(row.scores.get(name), row.baseline.get(name)), name, signed=True)
                for name in names
            )
            table.append(["  difference", *ahead])
        theirs = reported[row.name].scores if row.name in reported else {}
        if theirs:
            table.append(["  reported", *(_figure(theirs.get(name)) for name in names)])
            gaps = [_minus(row.scores.get(name), theirs.get(name)) for name in names]
            table.append(["  difference", *(_figure(gap, signed=True) for gap in gaps)])
    return table


def lines(rows: Sequence[Row], reported: Mapping[str, Reported]) -> list[str]:
    """Return the comparison as aligned text, and what there is to say about it."""
    others = [row for row in rows if not row.scores]
    text: list[str] = []
    for title, cells in tables_of(others, reported) if others or not rows else ():
        text += [*([""] if text else []), *([title] if title else []), *align(cells)]
    if own := score_cells(rows, reported):
        text += [*([""] if text else []), *align(own)]
    if any(row.test_intervals for row in rows):
        text.append(INTERVALS_NOTE)
    text += [f"{row.name}: {row.state}; {row.remark}" for row in rows if row.remark]
    return text


def front_cells(compared: ComparedFronts) -> list[list[str]]:
    """Return the Pareto fronts of studies as a table of texts, heads first."""
    heads = ["study", "trials on the front", "hypervolume"]
    return [
        heads,
        *(
            [study, str(compared.sizes[study]), _figure(volume)]
            for study, volume in compared.hypervolumes.items()
        ),
    ]


def describe_fronts(compared: ComparedFronts) -> str:
    """Return what is compared, and up to which point."""
    reference = ", ".join(plain_number(value, ".6g") for value in compared.reference_point)
    names = ", ".join(compared.value_names)
    return f"Pareto fronts of {names}; hypervolumes up to the worst values, ({reference})"


def variant_cells(rows: Sequence[Row]) -> list[list[str]]:
    """Return variants of studies beside one another, heads first; empty if there are none.

    A line per study and figure, a column per variant; the study itself is "as it is".
    """
    known = {row.name: row for row in rows}
    varied: dict[str, dict[str, Row]] = {}
    for row in rows:
        base, _, variant = row.name.rpartition(".")
        if base in known:
            varied.setdefault(base, {AS_IT_IS: known[base]})[variant] = row
    if not any(row.cv or row.test for of_base in varied.values() for row in of_base.values()):
        return []
    variants = list(dict.fromkeys(variant for of_base in varied.values() for variant in of_base))
    table = [["study", "figure", *variants]]
    for base, of_base in varied.items():
        for side, name, head in _VARIED:
            first = base if (side, name) == _VARIED[0][:2] else ""
            scores = [
                getattr(of_base[variant], side).get(name) if variant in of_base else None
                for variant in variants
            ]
            table.append([first, head, *map(_number, scores)])
    return table


def align(table: Sequence[Sequence[str]]) -> list[str]:
    """Return a table of texts as lines; all columns but the first are aligned to the right."""
    widths = [max(len(cells[i]) for cells in table) for i in range(len(table[0]))]
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in table
    ]


def _own_cells(row: Row, shown: Shown) -> list[str]:
    cells = [row.name, _count(row.n_features)]
    cells += [_number(row.cv.get(name)) for name in shown.names]
    cells.append(_count(row.n_test))
    for name in shown.names:
        cells.append(_number(row.test.get(name)))
        if name in shown.intervals:
            ends = row.test_intervals.get("group", {}).get(name)
            cells.append(f"{ends[0]:.2f} to {ends[1]:.2f}" if ends else "")
    return cells


def _reported_cells(row: Row, reported: Reported, shown: Shown) -> list[list[str]]:
    difference = _differences(row, reported)
    theirs = ["  reported", _count(reported.n_features)]
    ours_less_theirs = ["  difference", ""]
    for side, figures in (("cv", reported.cv), ("test", reported.test)):
        if side == "test":
            theirs.append("")
            ours_less_theirs.append("")
        for name in shown.names:
            gap = [""] if side == "test" and name in shown.intervals else []
            theirs += [_number(getattr(figures, name, None)), *gap]
            ours_less_theirs += [_number(difference[side].get(name), signed=True), *gap]
    return [theirs, ours_less_theirs]


def _number(value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return "-"
    return plain_number(value, "+.3f" if signed else ".3f")


def _figure(value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return "-"
    return plain_number(value, "+.4g" if signed else ".4g")


def _told(row: Row, value: float | None, name: str, *, signed: bool = False) -> str:
    """Return a figure as its objective has it written, or as all others are."""
    if value is None or name not in row.totals:
        return _figure(value, signed=signed)
    text = row.totals[name].write(value)
    return f"+{text}" if signed and value > 0 else text


def _count(value: int | None) -> str:
    return "-" if value is None else str(value)
