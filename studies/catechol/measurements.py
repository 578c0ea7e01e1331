"""The measured yields and the solvents' descriptors, as the rows of one table.

Both data sets of the catechol benchmark are in it, each row in the group that the official splits
hold out together: a solvent of the 656 rows in one solvent, or a ramp of the 1,227 rows that go
from one solvent to another. The target is what is left of the starting material; both products
are columns that no model may see as features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.table import Column, CsvFile, DatasetError, OwnRows, SkippedRow, Target, read_csv

CITATION = (
    "The catechol benchmark: yields of the allyl-substituted catechol's rearrangement in 24 "
    "solvents and 13 of their mixtures, with look-ups of solvent descriptors, MIT licence"
)
SINGLE, RAMP = "solvent", "ramp"
TARGETS = ("SM", "Product 2", "Product 3")
PRODUCTS = "products"
CONDITIONS = (("residence_time", "min"), ("temperature", "C"), ("fraction_b", ""))
LOOK_UPS = {
    "spange": "spange_descriptors_lookup.csv",
    "acs": "acs_pca_descriptors_lookup.csv",
    "drfp": "drfps_catechol_lookup.csv",
    "fragprints": "fragprints_lookup.csv",
}
_FILES = {
    SINGLE: Path("single_solvent") / "catechol_single_solvent_yields.csv",
    RAMP: Path("full_data") / "catechol_full_data_yields.csv",
}
_LOOK_UP_FOLDER = "featurization_look_ups"

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LookUp:
    """Descriptors of solvents: `values` of shape (n_solvents, n_names), constant ones left out."""

    names: tuple[str, ...]
    row_of: Mapping[str, int]
    values: Floats

    def of(self, solvents: Sequence[str]) -> Floats:
        """Return the descriptors of solvents, of shape (len(solvents), n_names)."""
        return self.values[[self.row_of[solvent] for solvent in solvents]]


@dataclass(frozen=True)
class _Measured:
    """One row of a file."""

    id: str
    kind: str
    solvents: tuple[str, str]
    conditions: tuple[float, float, float]
    yields: tuple[float, float, float]

    @property
    def group(self) -> str:
        """What the official splits hold out with it."""
        names = [shorten(solvent) for solvent in dict.fromkeys(self.solvents)]
        return f"{self.kind} {' + '.join(names)}"


def load(data_dir: Path | None) -> OwnRows:
    """Read both data sets and all four look-ups.

    Parameters
    ----------
    data_dir
        The folder with the data, or the one above its `catechol/`.

    Raises
    ------
    DatasetError
        If there is no such folder, or a file or a column is missing.
    """
    folder = _find(data_dir)
    measured: list[_Measured] = []
    skipped: list[SkippedRow] = []
    for kind, name in _FILES.items():
        _read_yields(folder / name, kind, measured, skipped)
    files = {family: folder / _LOOK_UP_FOLDER / name for family, name in LOOK_UPS.items()}
    solvents = sorted({solvent for row in measured for solvent in row.solvents})
    look_ups = {family: read_look_up(path, solvents) for family, path in files.items()}
    yields = np.array([row.yields for row in measured])
    blocks = [np.array([row.conditions for row in measured])]
    for look_up in look_ups.values():
        blocks += [look_up.of([row.solvents[side] for row in measured]) for side in (0, 1)]
    return OwnRows(
        ids=[row.id for row in measured],
        groups=[row.group for row in measured],
        labels=[" + ".join(dict.fromkeys(row.solvents)) for row in measured],
        X=np.hstack([*blocks, yields[:, 1:]]),
        y=yields[:, 0],
        columns=columns_of(look_ups),
        target=Target("SM", "fraction"),
        skipped=skipped,
        sources=[*(folder / name for name in _FILES.values()), *files.values()],
        citation=CITATION,
    )


def columns_of(look_ups: Mapping[str, LookUp]) -> list[Column]:
    """Return the columns of the table: conditions, both solvents by each look-up, products."""
    columns = [Column(name, "conditions", unit) for name, unit in CONDITIONS]
    for family, look_up in look_ups.items():
        for side in "ab":
            columns += [Column(f"{family}_{side} {name}", family) for name in look_up.names]
    return columns + [
        Column(name, PRODUCTS, "fraction", derived_from_target=True) for name in TARGETS[1:]
    ]


def read_look_up(path: Path, solvents: Sequence[str]) -> LookUp:
    """Read the descriptors of these solvents; those that are equal for all of them are left out.

    Raises
    ------
    DatasetError
        If a solvent or a value is missing.
    """
    names: tuple[str, ...] = ()
    found: dict[str, list[float]] = {}
    for line, record in _records(_read(path)):
        (_, solvent), *values = record.items()
        names = tuple(name for name, _ in values)
        try:
            found[solvent] = [float(value) for _, value in values]
        except ValueError as exc:
            raise DatasetError(f"catechol: {path.name}, line {line}: {exc}") from exc
    missing = [solvent for solvent in solvents if solvent not in found]
    if missing:
        raise DatasetError(f"catechol: {path.name} has no row for {', '.join(missing)}")
    values_of = np.array([found[solvent] for solvent in solvents])
    varies = np.ptp(values_of, axis=0) > 0
    return LookUp(
        names=tuple(name for name, kept in zip(names, varies, strict=True) if kept),
        row_of={solvent: row for row, solvent in enumerate(solvents)},
        values=values_of[:, varies],
    )


def shorten(solvent: str) -> str:
    """Return a solvent's name without its other name in brackets."""
    return solvent.partition(" [")[0]


def _find(data_dir: Path | None) -> Path:
    if data_dir is None:
        raise DatasetError(
            "catechol: where are the data? Give the folder (--data DIR, or HPO_DATA)"
        )
    for folder in (data_dir, data_dir / "catechol"):
        if (folder / _FILES[SINGLE]).is_file():
            return folder
    raise DatasetError(f"catechol: neither {data_dir} nor its catechol/ has {_FILES[SINGLE]}")


def _read_yields(
    path: Path, kind: str, measured: list[_Measured], skipped: list[SkippedRow]
) -> None:
    """Add the usable rows of one file, and why the others are not."""
    names = ("SOLVENT NAME",) * 2 if kind == SINGLE else ("SOLVENT A NAME", "SOLVENT B NAME")
    table = _read(path)
    skipped += [SkippedRow(line, "", path.name, reason) for line, reason in table.malformed]
    for line, record in _records(table):
        row_id = f"{kind}-{line}"
        try:
            fraction = 0.0 if kind == SINGLE else float(record["SolventB%"])
            conditions = (float(record["Residence Time"]), float(record["Temperature"]), fraction)
            yields = (float(record["SM"]), float(record["Product 2"]), float(record["Product 3"]))
            solvents = (record[names[0]], record[names[1]])
            _check(conditions, yields)
        except KeyError as exc:
            raise DatasetError(f"catechol: {path.name} has no column {exc}") from exc
        except (TypeError, ValueError) as exc:
            skipped.append(SkippedRow(line, row_id, path.name, str(exc)))
            continue
        measured.append(_Measured(row_id, kind, solvents, conditions, yields))


def _check(conditions: tuple[float, ...], yields: tuple[float, ...]) -> None:
    time_min, _, fraction = conditions
    if not np.isfinite((*conditions, *yields)).all():
        raise ValueError("a number is missing")
    if time_min <= 0.0:
        raise ValueError(f"residence time {time_min:g} min: must be above 0")
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"SolventB% {fraction:g}: must be between 0 and 1")


def _read(path: Path) -> CsvFile:
    try:
        return read_csv(path)
    except DatasetError as exc:
        raise DatasetError(f"catechol: {exc}") from exc


def _records(table: CsvFile) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line and the fields of each record."""
    for record in table.records:
        yield record.line, dict(zip(table.columns, record.fields, strict=True))
