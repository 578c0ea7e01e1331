"""How long does it take to rank candidates?

A study over made-up conductivities of made-up formulas is run once; then `hpo rank` is called as a
user does, twice: the first time it fits and saves the model. Measured are wall and CPU seconds of
the whole command.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
METALS = [
    "Na",
    "K",
    "Mg",
    "Al",
    "Ga",
    "Ge",
    "Si",
    "P",
    "Zr",
    "Ti",
    "La",
    "Ta",
    "Nb",
    "Y",
    "Sc",
    "In",
    "Sn",
]
ANIONS = ("O", "S", "Cl", "Br", "I", "F")
STUDY = """
trials = 2
[table]
dataset = "csv"
path = "known.csv"
target = "sigma"
log10 = true
families = [{families}]
[cv]
scheme = "group_kfold"
[estimator]
name = "hist_gradient_boosting"
[space]
learning_rate = {{ type = "float", low = 0.02, high = 0.1, log = true }}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line for each call of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=100_000)
    parser.add_argument("--training-rows", type=int, default=500)
    parser.add_argument("--families", default="ratios,smact,magpie")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["PYTHONPATH"] = str(ROOT)
        prepare(options)
        hpo("run", "known.toml", "--workers", "1")
        print(
            f"{options.candidates} candidates, {options.training_rows} rows in the study, "
            f"families {options.families}"
        )
        print(f"{'hpo rank':24} {'wall s':>7} {'CPU s':>7}")
        for what in ("first: fits the model", "again: loads the model"):
            wall_s, cpu_s = hpo("rank", "known", "new.csv")
            print(f"{what:24} {wall_s:7.1f} {cpu_s:7.1f}", flush=True)
        os.chdir(ROOT)
    return 0


def prepare(options: argparse.Namespace) -> None:
    """Write the study, what it knows, and the candidates."""
    rng = np.random.default_rng(0)
    known = [[text, 10.0 ** rng.uniform(-9, -2)] for text in formulas(options.training_rows, rng)]
    for name, header, rows in (
        ("known.csv", ["formula", "sigma"], known),
        ("new.csv", ["formula"], [[text] for text in formulas(options.candidates, rng)]),
    ):
        with Path(name).open("w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle)
            writer.writerow(header)
            writer.writerows(rows)
    families = ", ".join(f'"{name}"' for name in options.families.split(","))
    Path("known.toml").write_text(STUDY.format(families=families))


def formulas(count: int, rng: np.random.Generator) -> list[str]:
    """Return formulas such as Li3Na2Ge1.5S12, nearly all different."""
    metals, anions = np.array(METALS), np.array(ANIONS)
    pieces = zip(
        rng.integers(1, 13, count),
        metals[rng.integers(0, len(metals), (count, 2))],
        rng.integers(1, 10, (count, 2)) / 2.0,
        anions[rng.integers(0, len(anions), count)],
        rng.integers(1, 15, count),
        strict=True,
    )
    return [f"Li{a}{m[0]}{n[0]:g}{m[1]}{n[1]:g}{x}{b}" for a, m, n, x, b in pieces]


def hpo(*arguments: str) -> tuple[float, float]:
    """Run `hpo ARGUMENTS` and return its wall and CPU seconds."""
    before, began = cpu_s(), time.perf_counter()
    command = [sys.executable, "-m", "hpo", *arguments]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began, cpu_s() - before


def cpu_s() -> float:
    """Return the CPU seconds of all processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
