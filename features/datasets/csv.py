"""The `csv` dataset: anybody's own file of formulas and a measured target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.datasets.cif_files import read_cifs
from features.datasets.groups import hold_out
from features.datasets.row_parsing import (
    Layout,
    Part,
    group_alone,
    group_by_composition,
    no_formula,
    plain_formula,
    read_rows,
)
from features.datasets.sources import Source, cif_sets, csv_files, read_source
from features.errors import DatasetError
from features.families.own_columns import own_columns
from features.families.registry import Need
from features.intake.csv_parsing import CsvFile, parse_csv
from features.intake.foreign_files import expand_home
from features.intake.formulas import Formula
from features.intake.labels import Labels
from features.intake.numbers import is_missing, parse_number
from features.intake.text import fold_name
from features.records import CONTROL
from features.rows import Log, Rows
from features.specs import CellColumns, CsvSpec

# Names under which a cell column is taken if the study file does not name it.
_USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "a": ("a", "lattice_a", "cell_length_a"),
    "b": ("b", "lattice_b", "cell_length_b"),
    "c": ("c", "lattice_c", "cell_length_c"),
    "alpha": ("alpha", "lattice_alpha", "cell_angle_alpha"),
    "beta": ("beta", "lattice_beta", "cell_angle_beta"),
    "gamma": ("gamma", "lattice_gamma", "cell_angle_gamma"),
    "space_group": ("space_group_number", "Space group #", "space_group", "spacegroup"),
    "formula_units": ("Z", "formula_units"),
}

_SPLITS = {"train": True, "test": False}


def sources_of(
    spec: CsvSpec, *, data_dir: Path | None, base_dir: Path, needs: frozenset[Need], log: Log
) -> tuple[Source, ...]:
    """Read the CSV file, and the CIFs if a family needs them."""
    del data_dir  # a CSV file has its own path
    log(f"csv: reading {spec.path}")
    table = read_source(base_dir / expand_home(spec.path), "csv")
    if spec.cifs is None or "cif" not in needs:
        return (table,)
    return table, read_cifs(base_dir / expand_home(spec.cifs))


def rows_of(spec: CsvSpec, sources: tuple[Source, ...], needs: frozenset[Need]) -> Rows:
    """Return the usable rows; without a split column, hold out whole groups."""
    file = csv_files(sources)[0]
    csv = parse_csv(file.name, file.data)
    formula = spec.formula or ("formula" if _has_formulas(csv, needs) else None)
    columns = {} if formula is None else {formula: "formula"}
    if spec.group is not None:
        columns[spec.group] = "group"
    if spec.split is not None:
        columns[spec.split] = "split"
    target, *more_targets = spec.targets
    labels = Labels(f"{file.name}: column {target.name!r}")
    classifies = spec.task == "classification"
    layout = Layout(
        columns=columns,
        target_column=target.name,
        target=target,
        more_targets=tuple(more_targets),
        read_target=labels.read if classifies else None,
        read_formula=no_formula if formula is None else plain_formula(formula),
        group_tokens=_grouping(spec, formula),
        id=spec.id,
        cell=cell_columns(spec.cell_columns, csv) if "cell" in needs else {},
        kept=dict.fromkeys((*spec.columns, *spec.categorical), "feature")
        | ({} if spec.fold is None else {spec.fold: "fold"}),
        weight=spec.weight,
        keeps_bounds=spec.keeps_bounds,
    )
    csv = csv.naming(layout.kept)
    try:
        rows = read_rows([Part(csv, _splitter(spec.split))], layout, cif_sets(sources))
    except DatasetError as exc:
        if classifies or "it is not a number" not in str(exc):
            raise
        raise DatasetError(
            f'{exc}; if its texts are classes, write task = "classification" in [table]'
        ) from exc
    if classifies:
        classes, y = labels.finish(rows.y)
        rows = replace(rows, y=y, target=replace(target, classes=classes))
    if spec.split is None:
        of_rows = rows.y.astype(int).tolist() if classifies else None
        stay = hold_out(rows.groups, spec.test_fraction, spec.seed, of_rows)
        rows = replace(rows, is_train=stay)
    made = own_columns(
        file.name,
        rows.cells,
        csv.styles(spec.columns),
        spec.categorical,
        rows.is_train,
        rows.y,
        classes=bool(rows.target.classes),
    )
    return replace(
        rows,
        notes={"encoding": csv.encoding},
        cells={},
        own=made,
        test_fold=None if spec.fold is None else _test_fold(file.name, spec.fold, rows),
    )


def _has_formulas(csv: CsvFile, needs: frozenset[Need]) -> bool:
    """Return whether the column `formula` is to be read where none is named."""
    return "formula" in needs or csv.find(("formula",)) is not None


def _grouping(
    spec: CsvSpec, formula: str | None
) -> Callable[[Mapping[str, str], Formula], tuple[str, ...]]:
    if spec.group is not None:
        return _group_by(spec.group)
    return group_alone if formula is None else group_by_composition


def _test_fold(source: str, column: str, rows: Rows) -> NDArray[np.int64]:
    """Return the fold that validates each training row, counted from 0; -1 where none does."""
    labels = [_fold_label(text) for text in rows.cells[column]]
    used = {label for label, trains in zip(labels, rows.is_train, strict=True) if trains}
    named = sorted(used - {""}, key=lambda label: (not label.isdecimal(), label.zfill(20), label))
    if len(named) < 2:
        raise DatasetError(
            f"{source}: column {column!r} names {len(named)} folds of the training rows; it takes "
            "two or more (0, 1, ...; empty or -1 for rows that are always trained on)"
        )
    position = {label: at for at, label in enumerate(named)}
    found = np.array([position.get(label, -1) for label in labels], dtype=np.int64)
    return np.where(rows.is_train, found, -1)


def _fold_label(text: str) -> str:
    """Return a fold's name, "" for none; 1.0, as pandas writes 1 beside gaps, is 1."""
    try:
        value = parse_number(text, "fold")
    except ValueError:
        return "" if is_missing(text) else text
    if value == -1.0:
        return ""
    return str(int(value)) if value.is_integer() else text


def cell_columns(named: CellColumns, csv: CsvFile) -> dict[str, str]:
    """Return the column of each cell field: the named one, or one with a usual name."""
    names: dict[str, str | None] = named.model_dump()
    found = {name: column or csv.find(_USUAL_NAMES[name]) for name, column in names.items()}
    return {name: column for name, column in found.items() if column is not None}


def _group_by(column: str) -> Callable[[Mapping[str, str], Formula], tuple[str, ...]]:
    """Return a reader of groups; one that is written in several ways is called as it first is."""
    names: dict[str, str] = {}

    def tokens(fields: Mapping[str, str], _formula: Formula) -> tuple[str, ...]:
        if not fields[column]:
            raise ValueError(f"column {column!r} is empty: the row needs a group")
        if CONTROL.search(fields[column]):
            raise ValueError(f"column {column!r}: {fields[column]!r} has control characters")
        return (names.setdefault(fold_name(fields[column]), fields[column]),)

    return tokens


def _splitter(column: str | None) -> Callable[[str, Mapping[str, str]], bool]:
    def is_train(_row_id: str, fields: Mapping[str, str]) -> bool:
        if column is None:
            return True
        split = fields[column]
        if split.lower() not in _SPLITS:
            raise ValueError(f"{column} {split!r}: it must be 'train' or 'test'")
        return _SPLITS[split.lower()]

    return is_train
