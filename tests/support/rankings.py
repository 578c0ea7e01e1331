"""Small studies of made-up compositions, and files of candidates for them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from features.table import FeatureTable
from hpo.study.record import StudyRecord

METALS = ("Na", "K", "Mg", "Al", "Ge", "P", "Zr", "Ti")

ANIONS = ("O", "S", "Cl")

BAD = {
    "Qq2O": "is no element",
    "Li2O(": "cannot be read",
    "": "is empty",
}


def formulas(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [
        f"Li{rng.integers(1, 9)}{METALS[rng.integers(8)]}{rng.integers(1, 5)}"
        f"{ANIONS[rng.integers(3)]}{rng.integers(1, 13)}"
        for _ in range(count)
    ]


def write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


STUDY = """
trials = 3
[table]
dataset = "csv"
path = "mine.csv"
formula = "Material"
target = "sigma"
target_unit = "S/cm"
log10 = true
group = "paper"
families = ["ratios", "magpie"]
[cv]
scheme = "{scheme}"
folds = 4
[estimator]
name = "ridge"
[space]
alpha = {{ type = "float", low = 0.01, high = 10.0, log = true }}
"""


OBJECTIVES = {"rho": 'name = "spearman"', "upper": 'name = "quantile"\nlevel = 0.9'}


def table_of(record: StudyRecord) -> FeatureTable:
    table = record.read_table()
    assert table is not None
    return table
