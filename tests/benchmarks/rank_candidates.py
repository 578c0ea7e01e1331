"""How long does it take to rank candidates?

A study over made-up conductivities of made-up formulas is run once; then `hpo rank` is called as a
user does, twice: the first time it fits and saves the model. Beside it a script does the same as
one would write it with pandas, pymatgen and scikit-learn, without intervals, domain, duplicates and
charges: it reads both files, takes atomic fractions and the file's own columns, fits the same
model, predicts, sorts and writes. Measured are wall and CPU seconds and the largest resident memory
of the whole command.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
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
PLAIN = """
import sys
import numpy as np, pandas as pd
from pymatgen.core import Composition, Element
from sklearn.ensemble import HistGradientBoostingRegressor

position = {Element.from_Z(z).symbol: z - 1 for z in range(1, 104)}


def describe(frame):
    fractions = np.zeros((len(frame), 103))
    for row, text in enumerate(frame["formula"]):
        for symbol, share in Composition(text).fractional_composition.get_el_amt_dict().items():
            fractions[row, position[symbol]] = share
    own = [name for name in frame.columns if name.startswith("x")]
    return np.hstack([fractions, frame[own].to_numpy()])


known, new = pd.read_csv("known.csv"), pd.read_csv("new.csv")
model = HistGradientBoostingRegressor(random_state=42)
model.fit(describe(known), np.log10(known["sigma"]))
new["prediction"] = model.predict(describe(new))
new.sort_values("prediction", ascending=False).to_csv("plain_ranked.csv", index=False)
"""
STUDY = """
trials = 2
[table]
dataset = "csv"
path = "known.csv"
target = "sigma"
log10 = true
families = [{families}]
columns = [{columns}]
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
    parser.add_argument("--own-columns", type=int, default=0)
    parser.add_argument("--plain", action="store_true", help="the script with pandas, too")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["PYTHONPATH"] = str(ROOT)
        prepare(options)
        run = [sys.executable, "-m", "hpo", "run", "known.toml", "--workers", "1"]
        subprocess.run(run, check=True, capture_output=True)
        print(
            f"{options.candidates} candidates, {options.training_rows} rows in the study, "
            f"families {options.families}, {options.own_columns} own columns"
        )
        print(f"{'hpo rank':24} {'wall s':>7} {'CPU s':>7} {'peak GB':>8}")
        commands = dict.fromkeys(("first: fits the model", "again: loads the model"), RANK)
        commands |= {"plain script": ["-c", PLAIN]} if options.plain else {}
        for what, command in commands.items():
            print(f"{what:24} {measure(command)}", flush=True)
        os.chdir(ROOT)
    return 0


def prepare(options: argparse.Namespace) -> None:
    """Write the study, what it knows, and the candidates."""
    rng = np.random.default_rng(0)
    own = [f"x{number}" for number in range(options.own_columns)]

    def rows_of(count: int) -> Iterator[list[str]]:
        for text in formulas(count, rng):
            yield [text, *(f"{value:.4f}" for value in rng.random(len(own)))]

    known = ([*row, f"{10.0 ** rng.uniform(-9, -2):.4g}"] for row in rows_of(options.training_rows))
    for name, header, rows in (
        ("known.csv", ["formula", *own, "sigma"], known),
        ("new.csv", ["formula", *own], rows_of(options.candidates)),
    ):
        with Path(name).open("w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle)
            writer.writerow(header)
            writer.writerows(rows)
    families = ", ".join(f'"{name}"' for name in options.families.split(","))
    columns = ", ".join(f'"{name}"' for name in own)
    Path("known.toml").write_text(STUDY.format(families=families, columns=columns))


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


RANK = ["-m", "hpo", "rank", "known", "new.csv"]


def measure(command: Sequence[str]) -> str:
    """Run Python with these arguments; return wall and CPU seconds, and the peak memory in GB."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    wall_s, cpu_s = time.perf_counter() - began, used.ru_utime + used.ru_stime
    return f"{wall_s:7.1f} {cpu_s:7.1f} {used.ru_maxrss / 1e6:8.2f}"


if __name__ == "__main__":
    sys.exit(main())
