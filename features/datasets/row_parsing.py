"""From CSV files to rows: the part that OBELiX and everybody's own file have in common."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from features.chemistry.cell_geometry import cell_volume
from features.chemistry.composition import composition_key
from features.chemistry.formulas import GrowingCompositions
from features.datasets.cif_files import CifSet
from features.datasets.groups import linked_groups
from features.errors import DatasetError
from features.intake.csv_parsing import CsvFile, Record
from features.intake.formulas import Formula, read_formula
from features.intake.numbers import NumberStyle, parse_interval, parse_number, parse_target
from features.records import CONTROL, SkippedRow, Target
from features.rows import CELL_FIELDS, Remark, Rows

N_SHOWN = 5


@dataclass(frozen=True)
class Layout:
    """Where a dataset keeps what in its files.

    The functions take a record's fields by column name; `read_formula` may raise ValueError
    with a reason to skip the row. So may `read_target`, which takes the target's text and returns
    its value and whether that is a threshold; None reads numbers. Without
    a group token, a row is a group of its own. With `keeps_bounds`, a target that is a limit or a
    range is an interval, not a value. `cell` names the column of each cell field that
    there is, `kept` those whose texts are kept.
    """

    columns: Mapping[str, str]  # required columns, name to purpose
    target_column: str
    target: Target
    read_formula: Callable[[Mapping[str, str]], Formula]
    group_tokens: Callable[[Mapping[str, str], Formula], tuple[str, ...]]
    id: str | None = None
    cell: Mapping[str, str] = field(default_factory=dict)
    read_target: Callable[[str], tuple[float, bool]] | None = None
    kept: Mapping[str, str] = field(default_factory=dict)  # column to purpose
    weight: str | None = None
    more_targets: tuple[Target, ...] = ()  # numbers, in columns of their names
    keeps_bounds: bool = False


@dataclass(frozen=True)
class Part:
    """One CSV file of a dataset; `is_train` decides by a row's id and fields."""

    csv: CsvFile
    is_train: Callable[[str, Mapping[str, str]], bool]


@dataclass
class _Kept:
    """The rows that can be used, column by column: a million rows are no million objects."""

    sources: list[str] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    formulas: list[str] = field(default_factory=list)
    amounts: GrowingCompositions = field(default_factory=GrowingCompositions)
    formula_remarks: dict[int, str] = field(default_factory=dict)
    y: array[float] = field(default_factory=lambda: array("d"))  # of one row after the other
    is_coerced: bytearray = field(default_factory=bytearray)
    is_train: bytearray = field(default_factory=bytearray)
    tokens: list[tuple[str, ...]] = field(default_factory=list)
    cell: dict[str, array[float]] = field(default_factory=dict)
    cell_problems: dict[tuple[int, str], str] = field(default_factory=dict)
    cells: dict[str, list[str]] = field(default_factory=dict)
    weights: array[float] = field(default_factory=lambda: array("d"))
    bounds: array[float] = field(default_factory=lambda: array("d"))  # lower, upper, lower, ...
    by_id: dict[str, int] = field(default_factory=dict)


def read_rows(parts: Sequence[Part], layout: Layout, cif_sets: Sequence[CifSet] = ()) -> Rows:
    """Read every row of `parts`; a row that cannot be used is in `skipped` with its reason.

    Rows are grouped within each part.

    Raises
    ------
    DatasetError
        A column is missing, or no row can be used.
    """
    kept = _Kept(
        cell={name: array("d") for name in layout.cell},
        cells={column: [] for column in layout.kept},
    )
    skipped: list[SkippedRow] = []
    groups: list[str] = []
    file_remarks: list[Remark] = []
    for part in parts:
        csv = part.csv.naming({**layout.columns, **_purposes(layout)})
        targets = [] if layout.read_target else [layout.target_column]
        targets += [target.name for target in layout.more_targets]
        weights = () if layout.weight is None else (layout.weight,)
        numbers = (*targets, *weights, *layout.cell.values())
        styles = csv.styles(numbers)
        skipped += _read_part(replace(part, csv=csv), layout, styles, kept)
        told = [f"column {c!r}: {style.remark}" for c, style in styles.items() if style.remark]
        file_remarks += [Remark(None, remark, csv.name) for remark in (*csv.remarks, *told)]
        groups += linked_groups(kept.tokens[len(groups) :])
    if not kept.ids:
        first = skipped[0]
        raise DatasetError(
            f"{first.source}: none of its {len(skipped)} rows can be used; "
            f"the first, line {first.line}: {first.reason}"
        )
    cifs, cif_remarks = _match_cifs(kept.ids, cif_sets)
    return Rows(
        ids=tuple(kept.ids),
        sources=tuple(kept.sources),
        lines=tuple(record.line for record in kept.records),
        formulas=tuple(kept.formulas),
        amounts=kept.amounts.finish(),
        y=np.array(kept.y).reshape((len(kept.ids), -1) if layout.more_targets else -1),
        is_coerced=np.array(kept.is_coerced, dtype=bool),
        groups=tuple(groups),
        is_train=np.array(kept.is_train, dtype=bool),
        target=layout.target,
        more_targets=layout.more_targets,
        cell={name: np.array(values) for name, values in kept.cell.items()},
        cell_problems=kept.cell_problems,
        cifs=cifs,
        skipped=tuple(skipped),
        formula_remarks=kept.formula_remarks,
        cif_remarks=cif_remarks,
        file_remarks=tuple(file_remarks),
        cells=kept.cells,
        weights=None if layout.weight is None else np.array(kept.weights),
        bounds=_bounds_of(kept) if layout.keeps_bounds else None,
    )


def _bounds_of(kept: _Kept) -> NDArray[np.float64] | None:
    """Return bounds of shape (n_rows, 2); None if every row is measured."""
    bounds = np.array(kept.bounds).reshape(-1, 2)
    return bounds if (bounds[:, 0] < bounds[:, 1]).any() else None


def _purposes(layout: Layout) -> dict[str, str]:
    purposes = {layout.target_column: "target"}
    purposes |= {target.name: "target" for target in layout.more_targets}
    purposes |= {c: what for c, what in ((layout.id, "id"), (layout.weight, "weight")) if c}
    return (
        purposes
        | dict(layout.kept)
        | {column: f"cell's {name}" for name, column in layout.cell.items()}
    )


def _read_part(
    part: Part, layout: Layout, styles: Mapping[str, NumberStyle], kept: _Kept
) -> list[SkippedRow]:
    """Add the usable rows of one file to `kept` and return the others."""
    csv = part.csv
    by_fields: dict[tuple[str, ...], int] = {}
    skipped = [SkippedRow(line, "", csv.name, reason) for line, reason in csv.malformed]
    for record in csv.records:
        fields = dict(zip(csv.columns, record.fields, strict=True))
        row_id = f"row-{record.line}" if layout.id is None else fields[layout.id]
        try:
            if record.fields in by_fields:
                raise ValueError(f"an exact duplicate of line {by_fields[record.fields]}")
            if not row_id:
                raise ValueError(f"column {layout.id!r} is empty: the row needs an id")
            if CONTROL.search(row_id):
                raise ValueError(f"column {layout.id!r}: {row_id!r} has control characters")
            if row_id in kept.by_id:
                raise ValueError(_conflict(csv, record, row_id, kept))
            _read_record(part, layout, styles, record, row_id, fields, kept)
        except ValueError as exc:
            skipped.append(SkippedRow(record.line, row_id, csv.name, str(exc)))
            continue
        by_fields[record.fields] = record.line
    return sorted(skipped, key=lambda row: row.line)


def _read_record(
    part: Part,
    layout: Layout,
    styles: Mapping[str, NumberStyle],
    record: Record,
    row_id: str,
    fields: Mapping[str, str],
    kept: _Kept,
) -> None:
    """Add one row; or raise ValueError with a reason, and add nothing."""
    formula = layout.read_formula(fields)
    y, ends, is_coerced = _read_targets(fields, layout, styles)
    is_train = part.is_train(row_id, fields)
    cell, problems = read_cell(fields, layout.cell, styles)
    tokens = layout.group_tokens(fields, formula) or (row_id,)
    weight = 1.0 if layout.weight is None else _read_weight(fields, layout.weight, styles)
    row = len(kept.ids)
    if formula.remark:
        kept.formula_remarks[row] = formula.remark
    for name, reason in problems.items():
        kept.cell_problems[row, name] = reason
    for name, values in kept.cell.items():
        values.append(cell[name])
    for column, texts in kept.cells.items():
        texts.append(fields[column])
    kept.weights.append(weight)
    kept.sources.append(part.csv.name)
    kept.records.append(record)
    kept.ids.append(row_id)
    kept.formulas.append(formula.text)
    kept.amounts.append(formula.amounts)
    kept.y.extend(y)
    kept.bounds.extend(ends)
    kept.is_coerced.append(is_coerced)
    kept.is_train.append(is_train)
    kept.tokens.append(tokens)
    kept.by_id[row_id] = row


def _read_targets(
    fields: Mapping[str, str], layout: Layout, styles: Mapping[str, NumberStyle]
) -> tuple[list[float], tuple[float, ...], bool]:
    """Return the value of every target, its two bounds if kept, and whether one is not measured."""
    if layout.read_target is not None:
        value, is_coerced = layout.read_target(fields[layout.target_column])
        return [value], (), is_coerced
    if layout.keeps_bounds:
        text, style = fields[layout.target_column], styles[layout.target_column]
        value, lower, upper = parse_interval(text, log10=layout.target.log10, style=style)
        return [value], (lower, upper), lower < upper
    found = []
    named = [(layout.target_column, layout.target)]
    named += [(target.name, target) for target in layout.more_targets]
    for column, target in named:
        what = f"target {column!r}" if layout.more_targets else "target"
        found.append(
            parse_target(fields[column], log10=target.log10, style=styles[column], what=what)
        )
    return [value for value, _ in found], (), any(is_threshold for _, is_threshold in found)


def _read_weight(
    fields: Mapping[str, str], column: str, styles: Mapping[str, NumberStyle]
) -> float:
    weight = parse_number(fields[column], f"weight in {column!r}", styles[column])
    if weight <= 0.0:
        raise ValueError(f"weight in {column!r} {weight:g}: it must be above 0")
    return weight


def _conflict(csv: CsvFile, record: Record, row_id: str, kept: _Kept) -> str:
    row = kept.by_id[row_id]
    other = kept.records[row]
    where = f"line {other.line}"
    if kept.sources[row] != csv.name:
        where += f" of {kept.sources[row]}"
        return f"id {row_id!r} is already used on {where}; give each row an id of its own"
    differing = [
        column
        for column, here, there in zip(csv.columns, record.fields, other.fields, strict=True)
        if here != there
    ]
    return (
        f"id {row_id!r} is already used on {where} with another {', '.join(differing[:N_SHOWN])}; "
        "give each row an id of its own"
    )


def read_cell(
    fields: Mapping[str, str], columns: Mapping[str, str], styles: Mapping[str, NumberStyle]
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the cell values, NaN where there is none to use, and the reasons for the NaN."""
    cell: dict[str, float] = {}
    problems: dict[str, str] = {}
    if not columns:
        return cell, problems
    for name, column in columns.items():
        try:
            cell[name] = _checked(
                name, parse_number(fields[column], f"{name} in {column!r}", styles[column])
            )
        except ValueError as exc:
            cell[name] = math.nan
            problems[name] = str(exc)
    metric = [cell.get(name, math.nan) for name in CELL_FIELDS[:6]]
    if not any(map(math.isnan, metric)) and math.isnan(cell_volume(*metric)):
        for name in ("alpha", "beta", "gamma"):
            problems[name] = f"{name} {cell[name]:g}: the three angles close no cell"
            cell[name] = math.nan
    return cell, problems


def _checked(name: str, value: float) -> float:
    if name == "space_group":
        rule, holds = "a whole number from 1 to 230", value in range(1, 231)
    elif name in ("alpha", "beta", "gamma"):
        rule, holds = "between 0 and 180 degrees", 0.0 < value < 180.0
    else:
        rule, holds = "above 0", value > 0.0
    if not holds:
        raise ValueError(f"{name} {value:g}: it must be {rule}")
    return value


def _match_cifs(
    ids: Sequence[str], cif_sets: Sequence[CifSet]
) -> tuple[tuple[bytes | None, ...], tuple[Remark, ...]]:
    if not cif_sets:
        return (), ()
    known = set(ids)
    by_id: dict[str, bytes] = {}
    remarks = []
    for cif_set in cif_sets:
        unmatched = [stem for stem in cif_set.cifs if stem not in known]
        for stems, fate in (
            (unmatched, "belong to no row of the table"),
            (list(cif_set.doubled), "are there twice with other content: the first is taken"),
        ):
            if stems:
                shown = ", ".join(f"{stem}.cif" for stem in stems[:N_SHOWN])
                more = ", ..." if len(stems) > N_SHOWN else ""
                reason = f"{len(stems)} CIFs {fate} ({shown}{more})"
                remarks.append(Remark(None, reason, cif_set.name))
        by_id = {**cif_set.cifs, **by_id}
    return tuple(by_id.get(row_id) for row_id in ids), tuple(remarks)


def plain_formula(column: str) -> Callable[[Mapping[str, str]], Formula]:
    """Return a reader of the formula in `column`."""

    def read(fields: Mapping[str, str]) -> Formula:
        return read_formula(fields[column])

    return read


def no_formula(_fields: Mapping[str, str]) -> Formula:
    """Return the formula of a row that has none: no atoms."""
    return Formula("", {})


def group_alone(_fields: Mapping[str, str], _formula: Formula) -> tuple[str, ...]:
    """Return no token: the row is like no other."""
    return ()


def group_by_composition(_fields: Mapping[str, str], formula: Formula) -> tuple[str, ...]:
    """Return the one token that formulas of the same material share."""
    return (composition_key(formula.amounts),)
