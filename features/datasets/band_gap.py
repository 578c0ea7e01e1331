"""The `band_gap` dataset: gaps in eV, measured by formula or computed by structure.

Measured gaps are a CSV file of formulas and gaps, Matbench's `expt_gap`. It was cleaned so that a
composition has one row, unless formulas are written in two ways; where such rows differ by more
than `SPREAD_EV`, the composition is left out, as those who made the file did (Dunn et al.,
npj Comput. Mater. 6, 138 (2020)), else their median is its gap.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.chemistry.composition import composition_key
from features.chemistry.formulas import Compositions, parse_formula
from features.datasets import materials_project
from features.datasets.binary_crystals import FILE_NAME as CRYSTALS_NAME
from features.datasets.binary_crystals import read_crystals
from features.datasets.groups import hold_out
from features.datasets.materials_project import FILE_NAME as QUERY_NAME
from features.datasets.materials_project import KEY_VARIABLE, given_key
from features.datasets.row_parsing import Layout, Part, plain_formula, read_rows
from features.datasets.sources import Source, cif_sets, csv_files, read_source, user_cache
from features.errors import DatasetError
from features.families.registry import Need
from features.intake.csv_parsing import parse_csv
from features.intake.formulas import Formula
from features.records import SkippedRow, Target
from features.rows import Log, Rows
from features.specs import BandGapSpec

MEASURED_NAME = "expt_gap.csv"
SPREAD_EV = 0.1
TARGET = Target("band_gap", "eV")
IS_METAL = Target("is_metal", classes=("no", "yes"))


def sources_of(
    spec: BandGapSpec, *, data_dir: Path | None, base_dir: Path, needs: frozenset[Need], log: Log
) -> tuple[Source, ...]:
    """Read what the spec's source says; ask Materials Project where that is not stored yet."""
    del base_dir, needs
    if spec.source == "binary_crystals":
        log(f"band_gap: reading {CRYSTALS_NAME}, which is shipped")
        return read_crystals()
    folders = [] if data_dir is None else [data_dir, data_dir / "bandgap"]
    if spec.source != "measured":
        found = _find_query(folders, spec, log)
        if found is not None:
            log(f"band_gap: computed gaps, reading {found}")
            return (read_source(found, "band_gap"),)
    for folder in folders:
        if (folder / MEASURED_NAME).is_file():
            log(f"band_gap: measured gaps, reading {folder / MEASURED_NAME}")
            return (read_source(folder / MEASURED_NAME, "band_gap"),)
    where = f"neither {folders[0]} nor its bandgap/ holds it" if folders else "no folder was given"
    raise DatasetError(
        f"band_gap: measured gaps are read from {MEASURED_NAME}, and {where}; give its folder "
        f"(--data DIR or HPO_DATA), or a key of Materials Project ({KEY_VARIABLE}) to ask for "
        "computed gaps"
    )


def _find_query(folders: Sequence[Path], spec: BandGapSpec, log: Log) -> Path | None:
    """Return the stored answer of Materials Project; None where measured gaps will do."""
    cached = user_cache() / QUERY_NAME
    for path in (*(folder / QUERY_NAME for folder in folders), cached):
        if path.is_file():
            return path
    key = given_key()
    if not key:
        if spec.source == "auto":
            return None
        raise DatasetError(
            f"band_gap: Materials Project is asked with a key, and {KEY_VARIABLE} has none; set it "
            "(https://materialsproject.org/api), on a machine with internet, or put a stored "
            f"{QUERY_NAME} into the folder of data, or use measured gaps "
            "(table.source = 'measured')"
        )
    log(
        f"band_gap: {KEY_VARIABLE} is set, asking Materials Project, which takes minutes; "
        "table.source=measured would not"
    )
    n_entries, n_kept = materials_project.fetch(key, cached)
    log(f"band_gap: {n_entries} entries, {n_kept} of them kept, stored as {cached}")
    return cached


def rows_of(spec: BandGapSpec, sources: tuple[Source, ...], needs: frozenset[Need]) -> Rows:
    """Return one row per composition, with its split; what is left out is in `skipped`.

    A group is a chemical system, such as Ge-Si: alloys of the same elements resemble each other.
    """
    file = csv_files(sources)[0]
    if file.name == QUERY_NAME:
        rows = _computed_rows(file.data, with_cifs="cif" in needs)
    else:
        shipped = file.name == CRYSTALS_NAME
        layout = Layout(
            columns={"formula": "formula"},
            target_column="gap_eV" if shipped else "target",
            target=TARGET,
            read_formula=plain_formula("formula"),
            group_tokens=_chemical_system,
            id="formula" if shipped else None,
        )
        part = Part(parse_csv(file.name, file.data), lambda _id, _fields: True)
        rows = _one_per_composition(read_rows([part], layout, cif_sets(sources)))
    is_metal = rows.y == 0.0
    rows = replace(rows, is_train=_split(rows, is_metal, spec))
    notes = {
        "gaps": "computed" if file.name == QUERY_NAME else "measured",
        "n_metals": int(is_metal.sum()),
        "n_other": int((~is_metal).sum()),
    }
    if spec.target == "is_metal":
        rows = replace(rows, y=is_metal.astype(np.float64), target=IS_METAL)
    return replace(_without_metals(rows, is_metal, spec), notes=notes)


def _chemical_system(_fields: Mapping[str, str], formula: Formula) -> tuple[str, ...]:
    return ("-".join(sorted(formula.amounts)),)


def _one_per_composition(rows: Rows) -> Rows:
    """Put rows of the same composition together, and leave out those that contradict each other."""
    members: dict[str, list[int]] = defaultdict(list)
    for row in range(len(rows)):
        members[composition_key(rows.amounts[row])].append(row)
    y, skipped, kept = rows.y.copy(), list(rows.skipped), []
    for of_composition in members.values():
        first, *others = of_composition
        gaps = [float(rows.y[row]) for row in of_composition]
        if max(gaps) - min(gaps) > SPREAD_EV:
            listed = ", ".join(f"{rows.formulas[row]} {rows.y[row]:g}" for row in of_composition)
            reason = f"a composition with gaps further apart than {SPREAD_EV:g} eV: {listed}"
            skipped += [_skip(rows, row, reason) for row in of_composition]
            continue
        y[first] = statistics.median(gaps)
        kept.append(first)
        reason = f"the composition of line {rows.lines[first]}, which has the median of their gaps"
        skipped += [_skip(rows, row, reason) for row in others]
    skipped.sort(key=lambda row: row.line)
    return replace(replace(rows, y=y).take(sorted(kept)), skipped=tuple(skipped))


def _skip(rows: Rows, row: int, reason: str) -> SkippedRow:
    return SkippedRow(rows.lines[row], rows.ids[row], rows.sources[row], reason)


def _computed_rows(data: bytes, *, with_cifs: bool) -> Rows:
    entries = materials_project.load(data)
    numbered = list(enumerate(entries, start=2))
    kept = [(line, entry) for line, entry in numbered if not entry.left_out]
    if not kept:
        raise DatasetError(f"band_gap: {QUERY_NAME} has no entry that can be used")
    amounts = [parse_formula(entry.formula) for _, entry in kept]
    cifs: tuple[bytes | None, ...] = ()
    if with_cifs:
        # As they are in the file: dictionaries, which are structures only now.
        cifs = tuple(materials_project.write_cif(entry.structure) for _, entry in kept)
    return Rows(
        ids=tuple(entry.material_id for _, entry in kept),
        sources=(QUERY_NAME,) * len(kept),
        lines=tuple(line for line, _ in kept),
        formulas=tuple(entry.formula for _, entry in kept),
        amounts=Compositions.of(amounts),
        y=np.array([entry.band_gap for _, entry in kept], dtype=np.float64),
        is_coerced=np.zeros(len(kept), dtype=bool),
        groups=tuple("-".join(sorted(atoms)) for atoms in amounts),
        is_train=np.ones(len(kept), dtype=bool),
        target=TARGET,
        cifs=cifs,
        skipped=tuple(
            SkippedRow(line, entry.material_id, QUERY_NAME, entry.left_out)
            for line, entry in numbered
            if entry.left_out
        ),
    )


def _split(rows: Rows, is_metal: NDArray[np.bool_], spec: BandGapSpec) -> NDArray[np.bool_]:
    """Hold the same share out of the metals and of the others.

    A chemical system that is kept whole counts as what most of its rows are.
    """
    if spec.split == "rows":
        names = [composition_key(amounts) for amounts in rows.amounts]
        stratum = is_metal
    else:
        names = list(rows.groups)
        metals = Counter(name for name, metal in zip(names, is_metal, strict=True) if metal)
        sizes = Counter(names)
        stratum = np.array([2 * metals[name] > sizes[name] for name in names], dtype=bool)
    is_train = np.ones(len(rows), dtype=bool)
    for members in (np.flatnonzero(stratum), np.flatnonzero(~stratum)):
        if len(members):
            is_train[members] = hold_out(
                [names[row] for row in members], spec.test_fraction, spec.seed
            )
    return is_train


def _without_metals(rows: Rows, is_metal: NDArray[np.bool_], spec: BandGapSpec) -> Rows:
    unwanted = is_metal & np.where(rows.is_train, not spec.train_metals, not spec.test_metals)
    if not unwanted.any():
        return rows
    if unwanted.all():
        raise DatasetError("band_gap: all rows are metals; set train_metals = true")
    reasons = {
        True: "a metal (gap 0), left out of the training rows (train_metals = false)",
        False: "a metal (gap 0), left out of the held-out rows (test_metals = false)",
    }
    skipped = [
        _skip(rows, row, reasons[bool(rows.is_train[row])])
        for row in np.flatnonzero(unwanted).tolist()
    ]
    ordered = sorted((*rows.skipped, *skipped), key=lambda row: row.line)
    return replace(rows.take(np.flatnonzero(~unwanted).tolist()), skipped=tuple(ordered))
