"""How many crystals do the physics families describe, and what does it cost?

Describes every CIF of OBELiX with each family in this one process, without a cache, and prints
coverage and CPU seconds (reading the CIFs included, importing not).

    python -m tests.benchmarks.physics_features --data DIR [FAMILY ...]
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Sequence

from features.datasets.cif_files import read_cifs
from features.families.registry import FAMILIES
from tests.benchmarks.datasets import add_data

FULL = ("bond_valence", "ewald", "li_voronoi", "bvse")
# The family, its indicator, and what the reports have of it: rows of train and test.
MEASURED = {
    "bond_valence": ("has_li_bond_valence", (63, 18)),
    "ewald": ("has_li_site_energy", (120, 39)),
    "li_voronoi": ("has_li_cell", (92, 25)),
    "bvse": ("has_bvse", ()),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each family."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", metavar="FAMILY", default=FULL)
    add_data(parser)
    options = parser.parse_args(arguments)
    folder, families = options.data, options.families
    cifs = {
        split: list(read_cifs(folder / f"{split}_cifs.tar.gz").cifs.values())
        for split in ("train", "test")
    }
    total = sum(map(len, cifs.values()))
    print(f"{'family':14} {'reports':>10} {'ours':>10} {'of CIFs':>10} {'share':>7} {'CPU s':>7}")
    spent = 0.0
    for family in families:
        counts, cpu_s = measure(family, cifs)
        spent += cpu_s
        reported = "/".join(map(str, MEASURED[family][1])) or "none"
        ours, of = "/".join(map(str, counts)), "/".join(str(len(cifs[split])) for split in cifs)
        share = sum(counts) / total
        print(f"{family:14} {reported:>10} {ours:>10} {of:>10} {share:7.1%} {cpu_s:7.1f}")
    print(f"{'together':14} {spent:54.1f}".rstrip())
    return 0


def measure(family: str, cifs: dict[str, list[bytes]]) -> tuple[list[int], float]:
    """Return how many CIFs of each split the family describes, and the CPU seconds."""
    module, _, function = FAMILIES[family].describe.partition(":")
    describe = getattr(importlib.import_module(module), function)
    names = [column.name for column in FAMILIES[family].columns]
    indicator = names.index(MEASURED[family][0])
    describe(cifs["train"][0])  # imports and tables
    started = time.process_time()
    counts = [sum(int(describe(cif)[0][indicator]) for cif in members) for members in cifs.values()]
    return counts, time.process_time() - started


if __name__ == "__main__":
    sys.exit(main())
