"""The gate that structures pass before anything is computed from them.

What a CIF holds and which checks it fails is kept like any description of a structure; whether it
fits its row is compared here, and what the study file says of failed ones is done.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from features.chemistry.elements import ELEMENTS
from features.errors import DatasetError
from features.families.registry import FamilyInfo
from features.families.structure.per_structure import describe_cifs
from features.intake.structure_checks import N_VALUES, check_composition, describe_checks
from features.rows import Block, Log, Rows
from features.specs import FailedStructures
from features.tables.cache import family_version
from features.tables.structure_cache import describe_with_cache

CHECK_NAMES = ("CIF cannot be parsed", "composition", "distance", "cell", "symmetry")

# No family of a table, but described, claimed and kept as one.
CHECKS = FamilyInfo(
    "structure_checks",
    "what a CIF holds, and which checks it fails",
    ("cif",),
    (*((f"fraction_{symbol}", "") for symbol in ELEMENTS), ("has_structure", "")),
    "features.tables.structure_gate:compute_checks",
    ("pymatgen", "pymatgen-core", "spglib", "scipy"),
    describe="features.intake.structure_checks:describe_checks",
)


def compute_checks(rows: Rows, log: Log) -> Block:
    """Return what is in each CIF, and as remarks which checks it fails."""
    return describe_cifs(CHECKS.name, describe_checks, N_VALUES, rows, log)


def check_structures(rows: Rows, policy: FailedStructures, log: Log) -> Rows:
    """Return the rows with the structures that are used, checked in this process."""
    return _admit(rows, compute_checks(rows, log), policy)


def check_structures_with_cache(
    rows: Rows, policy: FailedStructures, tables_dir: Path, workers: int, log: Log
) -> Rows:
    """Return the rows with the structures that are used, and a remark on each that failed.

    Raises
    ------
    DatasetError
        There are structures, and none of them is used.
    """
    version = family_version(CHECKS)
    block = describe_with_cache(CHECKS, version, tables_dir, workers, rows, log)
    admitted = _admit(rows, block, policy)
    n_given, n_used = (sum(cif is not None for cif in r.cifs) for r in (rows, admitted))
    remarks = admitted.structure_remarks
    if remarks:
        log(f"structures: {len(remarks)} of {n_given} fail a check, {n_used} are used")
    if n_given and not n_used:
        row = min(remarks)
        raise DatasetError(
            f"structures: none of the {n_given} is used; the first, of row {rows.ids[row]!r}, is "
            f'{remarks[row]}. Correct the CIFs, set failed_structures = "use", or leave out the '
            "families that need structures"
        )
    notes = {"n_given": n_given, "n_used": n_used, "failed": dict(_count(remarks))}
    return replace(admitted, notes={**admitted.notes, "structures": notes})


def _admit(rows: Rows, checks: Block, policy: FailedStructures) -> Rows:
    failed = {remark.row: remark.reason for remark in checks.remarks if remark.row is not None}
    cifs, remarks = list(rows.cifs), {}
    for row, cif in enumerate(cifs):
        if cif is None:
            continue
        *fractions, is_read = checks.values[row].tolist()
        reasons = [failed[row]] if row in failed else []
        if is_read and (amounts := rows.amounts[row]):  # where the row has a formula
            in_cif = dict(zip(ELEMENTS, fractions, strict=True))
            reasons = [*check_composition(in_cif, amounts), *reasons]
        if not reasons:
            continue
        is_used = is_read and policy == "use"
        if not is_used:
            cifs[row] = None
        remarks[row] = f"{'used' if is_used else 'left out'}: {'; '.join(reasons)}"
    return replace(rows, cifs=tuple(cifs), structure_remarks=remarks)


def _count(remarks: Mapping[int, str]) -> Counter[str]:
    """Return how many structures fail each check; one may fail several."""
    return Counter(
        check
        for remark in remarks.values()
        for check in CHECK_NAMES
        if re.search(rf"(?:: |; ){check}\b", remark)
    )
