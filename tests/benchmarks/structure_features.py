"""How much faster are neighbours, Voronoi cells and coordination numbers than pymatgen's calls?

One thread, processor time, both ways in turn; before they are timed, their results are compared.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.benchmarks.side_by_side import compare, heading

# Space group, lattice parameters in angstrom, and a site of each orbit.
CRYSTALS: dict[str, tuple[int, tuple[float, ...], dict[str, tuple[float, float, float]]]] = {
    "LiF rock salt": (225, (4.03,), {"Li": (0, 0, 0), "F": (0.5, 0, 0)}),
    "LiCoO2 layered": (
        166,
        (2.815, 14.05),
        {"Co": (0, 0, 0), "Li": (0, 0, 0.5), "O": (0, 0, 0.26)},
    ),
    "LiMn2O4 spinel": (
        227,
        (8.24,),
        {"Li": (0, 0, 0), "Mn": (0.625, 0.625, 0.625), "O": (0.388, 0.388, 0.388)},
    ),
    "Li3Nd3Te2O12 garnet": (
        230,
        (12.55,),
        {
            "Li": (0.375, 0, 0.25),
            "Nd": (0.125, 0, 0.25),
            "Te": (0, 0, 0),
            "O": (0.277, 0.107, 0.2),
        },
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each crystal and each thing to compute."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="crystals whose name has this in it")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    print(heading("of all sites"))
    for name in CRYSTALS:
        if options.only not in name:
            continue
        structure = crystal(name)
        print(f"{name}, {len(structure)} atoms")
        for what, (usual, ours, rounds) in ways(structure).items():
            print(f"  {what:26} {compare(usual, ours, options.repeats, rounds=rounds)}", flush=True)
    return 0


def crystal(name: str) -> Any:
    """Return one of `CRYSTALS` as a structure."""
    from pymatgen.core.lattice import Lattice
    from pymatgen.core.structure import Structure

    group, lengths, sites = CRYSTALS[name]
    lattice = Lattice.cubic(lengths[0])
    if len(lengths) > 1:
        lattice = Lattice.hexagonal(lengths[0], lengths[1])
    return Structure.from_spacegroup(group, lattice, list(sites), list(sites.values()))


def ways(structure: Any) -> dict[str, tuple[Any, Any, int]]:
    """Return the usual and our way of each thing, and how often ours is called to be timed."""
    from pymatgen.analysis.local_env import CrystalNN, VoronoiNN

    from features.families.structure.coordination import cells_of_orbits, coordination_numbers

    def usual_numbers() -> list[float]:
        finder: Any = CrystalNN()
        return [finder.get_cn(structure, site) for site in range(len(structure))]

    def usual_cells() -> list[float]:
        finder: Any = VoronoiNN(cutoff=7.0)
        cells = [finder.get_voronoi_polyhedra(structure, n) for n in range(len(structure))]
        return [sum(face["volume"] for face in cell.values()) for cell in cells]

    def our_cells() -> list[float]:
        cells, orbit_of = cells_of_orbits(structure)
        return [cells[orbit].cell.volume for orbit in orbit_of]

    if usual_numbers() != coordination_numbers(structure).tolist():
        raise SystemExit("the coordination numbers differ")
    if not np.allclose(usual_cells(), our_cells(), rtol=1e-9):
        raise SystemExit("the Voronoi cells differ")
    return {
        "neighbours within 4 A": (
            lambda: structure.get_all_neighbors(4.0),
            lambda: structure.get_neighbor_list(4.0),
            20,
        ),
        "Voronoi cells": (usual_cells, our_cells, 1),
        "CrystalNN numbers": (usual_numbers, lambda: coordination_numbers(structure), 1),
    }


if __name__ == "__main__":
    sys.exit(main())
