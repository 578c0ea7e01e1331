"""The alloy Si(1-x)Ge(x): its measured gap, its compositions, and its ordered variants."""

from __future__ import annotations

import csv
import shutil
import warnings
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from features.table import Candidates, FeatureTable, TableSpec, read_candidates
from hpo.errors import HpoError

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

Floats = NDArray[np.float64]

CROSSOVER = 0.85
# Lattice parameters at room temperature in angstrom, as in features/binary_crystals.csv.
SI_ANGSTROM, GE_ANGSTROM = 5.431, 5.658
SYSTEMS = ("Si", "Ge", "Ge-Si")
MOST_ATOMS = 12


def measured_gap(x: ArrayLike) -> Floats:
    """Return the measured gap of Si(1-x)Ge(x) at 4.2 K in eV.

    The lower of the X and the L band, E_X = 1.155 - 0.43 x + 0.206 x^2 and E_L = 2.010 - 1.270 x,
    which cross near Si0.15Ge0.85: Weber & Alonso, Phys. Rev. B 40, 5683 (1989). At room temperature
    gaps are 0.04 to 0.08 eV lower.

    Parameters
    ----------
    x
        Atomic fraction of germanium, 0 to 1.
    """
    x = np.asarray(x, dtype=np.float64)
    # By composition rather than by the minimum: the two fits differ by 0.01 eV where they meet.
    return np.where(x < CROSSOVER, 1.155 - 0.43 * x + 0.206 * x**2, 2.010 - 1.270 * x)


def formula_of(x: float) -> str:
    """Return the formula of Si(1-x)Ge(x)."""
    parts = (("Si", round(1.0 - x, 6)), ("Ge", round(x, 6)))
    return "".join(f"{symbol}{amount:g}" for symbol, amount in parts if amount)


def lattice_parameter(x: float, *, scaled: bool) -> float:
    """Return the lattice parameter in angstrom of the diamond lattice that the alloy is put on.

    That of silicon, or by Vegard's rule (Z. Phys. 5, 17 (1921)) linear between silicon and
    germanium; the real one is below it by at most 0.01 angstrom (Dismukes, Ekstrom & Paff, J. Phys.
    Chem. 68, 3021 (1964)).
    """
    return SI_ANGSTROM + (GE_ANGSTROM - SI_ANGSTROM) * x if scaled else SI_ANGSTROM


def describe_compositions(
    x: Sequence[float], folder: Path, spec: TableSpec, table: FeatureTable
) -> Candidates:
    """Compute the features of Si(1-x)Ge(x) that a composition model of this table needs."""
    path = folder / "alloys.csv"
    _write(path, ("formula",), ((formula_of(value),) for value in x))
    return read_candidates(path, spec, table=table)


def describe_variants(
    variants: Sequence[Structure], folder: Path, spec: TableSpec, table: FeatureTable
) -> Candidates:
    """Compute the features of structures that a structure model of this table needs."""
    cifs = folder / "cifs"
    shutil.rmtree(cifs, ignore_errors=True)
    cifs.mkdir(parents=True)
    lines = []
    for number, structure in enumerate(variants):
        name = f"{number:04d}.cif"
        structure.to(str(cifs / name), fmt="cif")
        lines.append((structure.composition.reduced_formula, f"cifs/{name}"))
    path = folder / "variants.csv"
    _write(path, ("formula", "cif"), lines)
    found = read_candidates(path, spec, table=table)
    unread = [reason for reason in found.reasons if reason]
    if unread:
        raise HpoError(f"{path}: {len(unread)} structures cannot be read; the first: {unread[0]}")
    return found


def _write(path: Path, header: Sequence[str], lines: Any) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as stream:
            csv.writer(stream).writerows([header, *lines])
    except OSError as exc:
        raise HpoError(f"{path}: cannot be written ({exc}); name another --output") from exc


# Ordered variants -----------------------------------------------------------------------------


def enumerate_variants(most_atoms: int) -> tuple[list[Structure], str]:
    """Return every ordering of Si and Ge on the diamond lattice, up to so many atoms per cell.

    Those that symmetry makes equivalent count once; the pure elements are among them. pymatgen's
    EnumerateStructureTransformation finds them where enumlib's `enum.x` is on the PATH, else icet
    (Hart & Forcade, Phys. Rev. B 77, 224115 (2008) is the method of both).

    Returns
    -------
    list of Structure, str
        With the lattice parameter of silicon, by rising number of atoms; and who found them.

    Raises
    ------
    HpoError
        If neither program is there, or the number is not an even one from 2 to 12.
    """
    if most_atoms % 2 or not 2 <= most_atoms <= MOST_ATOMS:
        raise HpoError(
            f"--atoms {most_atoms}: must be even, as a primitive cell has two, and from 2 to "
            f"{MOST_ATOMS}"
        )
    if shutil.which("enum.x") and shutil.which("makestr.x"):
        found, how = list(_by_enumlib(most_atoms // 2)), "pymatgen with enum.x"
    else:
        found, how = _by_icet(most_atoms // 2), "icet"
    return sorted(found, key=len), how


def _diamond(species: Any) -> Structure:
    from pymatgen.core.structure import Structure

    half = SI_ANGSTROM / 2.0
    matrix = [[0.0, half, half], [half, 0.0, half], [half, half, 0.0]]
    return Structure(matrix, [species] * 2, [[0.0] * 3, [0.25] * 3])


def _by_icet(cells: int) -> list[Structure]:
    try:
        from icet.tools import enumerate_structures
    except ImportError as exc:
        raise HpoError(
            "orderings are found by enumlib's enum.x, which is not on the PATH, or by the package "
            "icet, which is not installed; install one of them (pip install icet)"
        ) from exc
    from pymatgen.io.ase import AseAtomsAdaptor

    parent = AseAtomsAdaptor.get_atoms(_diamond("Si"), msonable=False)
    with warnings.catch_warnings():
        # icet calls spglib as older versions of that want it.
        warnings.filterwarnings("ignore", "Set OLD_ERROR_HANDLING", DeprecationWarning)
        found = list(enumerate_structures(parent, range(1, cells + 1), ["Si", "Ge"]))
    return [AseAtomsAdaptor.get_structure(atoms) for atoms in found]


def _by_enumlib(cells: int) -> Iterator[Structure]:
    from pymatgen.transformations.advanced_transformations import EnumerateStructureTransformation

    yield from (_diamond("Si"), _diamond("Ge"))
    transformation = EnumerateStructureTransformation(1, cells, n_jobs=1)
    fractions = {Fraction(k, 2 * n) for n in range(1, cells + 1) for k in range(1, 2 * n)}
    for x in sorted(fractions):
        disordered = _diamond({"Si": 1.0 - float(x), "Ge": float(x)})
        found: Any = transformation.apply_transformation(disordered, return_ranked_list=10**6)
        yield from (ranked["structure"] for ranked in found)


def germanium_fraction(structure: Structure) -> float:
    """Return the atomic fraction of germanium."""
    return float(structure.composition.get_atomic_fraction("Ge"))


def on_lattice(structure: Structure, *, scaled: bool) -> Structure:
    """Return a variant with the lattice parameter of silicon, or of its composition."""
    made = structure.copy()
    a = lattice_parameter(germanium_fraction(structure), scaled=scaled)
    made.scale_lattice(len(made) * a**3 / 8.0)
    return made


# What is said of a curve ----------------------------------------------------------------------


def sum_up(x: Floats, gap: Floats) -> dict[str, float | bool]:
    """Return how a predicted curve compares with the measured one.

    Parameters
    ----------
    x, gap
        Arrays of shape (n,), x ascending from 0 to 1.
    """
    at = {value: float(np.interp(value, x, gap)) for value in (0.0, 0.51, 0.7, CROSSOVER, 1.0)}
    ends = sorted((at[0.0], at[1.0]))
    return {
        "si": at[0.0],
        "si49ge51": at[0.51],
        "si15ge85": at[CROSSOVER],
        "ge": at[1.0],
        "si49ge51_between": ends[0] <= at[0.51] <= ends[1],
        "slope_below": (at[CROSSOVER] - at[0.7]) / (CROSSOVER - 0.7),
        "slope_above": (at[1.0] - at[CROSSOVER]) / (1.0 - CROSSOVER),
        "rmse_to_measured": float(np.sqrt(np.mean((gap - measured_gap(x)) ** 2))),
    }
