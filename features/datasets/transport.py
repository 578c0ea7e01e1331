"""The `transport` dataset: computed transport properties that come with matminer.

Ricci et al., Sci. Data 4, 170085 (2017), doi:10.1038/sdata.2017.85: BoltzTraP on PBE bands at
300 K and 1e18 carriers per cm^3, p- and n-type, one relaxation time for all. The file's columns
have no units; those given here follow from the paper and from relations that the rows obey
(power factor = conductivity times Seebeck squared, Wiedemann-Franz, mass = n e^2 tau / sigma).
matminer's second file, of pure elements, repeats rows of this one (47 of its 50) and is left out.
"""

from __future__ import annotations

import io
import lzma
import statistics
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from features.chemistry.formulas import Compositions, parse_formula
from features.datasets.groups import hold_out, lot
from features.datasets.sources import Source, csv_files, read_source
from features.errors import DatasetError
from features.families.registry import Need
from features.intake.csv_parsing import CsvFile, parse_csv
from features.intake.numbers import log10_of, parse_number
from features.records import SkippedRow, Target
from features.rows import Log, Rows
from features.specs import TransportSpec

_UNITS = {
    "seebeck": ("S", "uV/K"),
    "log10_conductivity": ("sigma", "1e15 S/(m s)"),
    "log10_thermal_conductivity": ("kappa", "1e9 W/(m K s)"),
    "log10_power_factor": ("PF", "1e9 W/(m K^2 s)"),
    "log10_effective_mass": ("m", "m_e"),
}


@dataclass
class _Polymorphs:
    """The records of one formula."""

    line: int
    values: list[float] = field(default_factory=list)


def sources_of(
    spec: TransportSpec, *, data_dir: Path | None, base_dir: Path, needs: frozenset[Need], log: Log
) -> tuple[Source, ...]:
    """Read the compressed table from matminer's folder, without importing matminer."""
    del spec, data_dir, base_dir, needs
    package = find_spec("matminer")
    if package is None or package.origin is None:
        raise DatasetError("transport: matminer, which carries the data, is not installed")
    folder = Path(package.origin).parent / "utils" / "data_files" / "mp_transport"
    log("transport: reading transport_database.tar.xz")
    return (read_source(folder / "transport_database.tar.xz", "transport"),)


def rows_of(spec: TransportSpec, sources: tuple[Source, ...], needs: frozenset[Need]) -> Rows:
    """Return one row per formula, its target the median over the formula's polymorphs.

    Composition cannot tell polymorphs apart, so one value stands for them. `rows` formulas are
    drawn by `seed`: a smaller draw is part of a larger one. A group is a chemical system, such
    as Li-O, since formulas of the same elements resemble each other.
    """
    del needs
    stem, kind = spec.target.rsplit("_", 1)
    symbol, unit = _UNITS[stem]
    target = Target(stem.removeprefix("log10_") + f"_{kind}", unit, stem.startswith("log10_"))
    csv = _unpack(csv_files(sources)[0].data)
    name = csv.name
    by_formula, skipped = _read(csv, f"{symbol}_{kind}", target)
    amounts: dict[str, Mapping[str, float]] = {}
    for formula in _drawn(by_formula, spec):
        try:
            amounts[formula] = parse_formula(formula)
        except ValueError as exc:
            skipped.append(SkippedRow(by_formula[formula].line, formula, name, str(exc)))
    formulas = tuple(amounts)
    groups = tuple("-".join(sorted(amounts[formula])) for formula in formulas)
    return Rows(
        ids=formulas,
        sources=(name,) * len(formulas),
        lines=tuple(by_formula[formula].line for formula in formulas),
        formulas=formulas,
        amounts=Compositions.of(amounts.values()),
        y=np.array([statistics.median(by_formula[formula].values) for formula in formulas]),
        is_coerced=np.zeros(len(formulas), dtype=bool),
        groups=groups,
        is_train=hold_out(groups, spec.test_fraction, spec.seed),
        target=target,
        skipped=tuple(skipped),
        notes={
            "n_records": sum(len(entry.values) for entry in by_formula.values()),
            "n_formulas": len(by_formula),
        },
    )


def _unpack(data: bytes) -> CsvFile:
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:xz") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.name.endswith(".csv") else None
                if content is not None:
                    return parse_csv(Path(member.name).name, content.read())
        raise tarfile.ReadError("no CSV file in it")
    except (tarfile.TarError, lzma.LZMAError, EOFError) as exc:
        raise DatasetError(
            f"transport: transport_database.tar.xz is damaged ({exc}); install matminer again"
        ) from exc


def _read(
    csv: CsvFile, column: str, target: Target
) -> tuple[dict[str, _Polymorphs], list[SkippedRow]]:
    """Return the target's values by formula, in file order, and what could not be read."""
    names = ("mp_id", "pretty_formula", column)
    if not {*names} <= {*csv.columns}:
        raise DatasetError(f"transport: {csv.name} has no column {column!r}; install matminer 0.10")
    by_formula: dict[str, _Polymorphs] = {}
    skipped = []
    for record, row_id, formula, text in zip(csv.records, *map(csv.values, names), strict=True):
        try:
            value = parse_number(text, column)
            if target.log10:
                value = log10_of(value, column)
        except ValueError as exc:
            skipped.append(SkippedRow(record.line, row_id, csv.name, str(exc)))
            continue
        by_formula.setdefault(formula, _Polymorphs(record.line)).values.append(value)
    return by_formula, skipped


def _drawn(by_formula: Mapping[str, _Polymorphs], spec: TransportSpec) -> list[str]:
    """Return the formulas of the subset, in file order."""
    if spec.rows is None or spec.rows >= len(by_formula):
        return list(by_formula)
    chosen = set(sorted(by_formula, key=lambda formula: lot(spec.seed, formula))[: spec.rows])
    return [formula for formula in by_formula if formula in chosen]
