"""What does a table of a million formulas cost, and what does it cost to let a table grow?

`formulas`: a CSV file of so many formulas becomes a table of 132 columns, in a process of its own;
wall and processor seconds, and the largest amount of memory. `structures`: a table over CIFs is
built, 1 % of rows are added, it is built again; and once more nothing is added.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.benchmarks.rank_candidates import ROOT, formulas

CIF = """data_x
_cell_length_a {a}
_cell_length_b {a}
_cell_length_c {a}
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_symmetry_equiv_pos_as_xyz
'x, y, z'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
{cation}1 {cation} 0.5 0.5 0.5 1.0
Li1 Li 0.0 0.0 0.0 1.0
O1 O 0.5 0.5 0.0 1.0
O2 O 0.5 0.0 0.5 1.0
O3 O 0.0 0.5 0.5 1.0
"""
CATIONS = ("Nb", "Ta", "V", "Sb", "P", "As")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line for each build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--formulas", type=int, default=1_000_000, help="0: none")
    parser.add_argument("--structures", type=int, default=2000, help="0: none")
    parser.add_argument("--families", default="li_environment,coordination", help="of structures")
    parser.add_argument("--workers", default="1", help="processes that share the structures")
    options = parser.parse_args(arguments)
    os.environ["PYTHONPATH"] = str(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        print(f"{'build':32} {'wall s':>8} {'CPU s':>8} {'peak MB':>8}")
        if options.formulas:
            grow_formulas(options.formulas)
        if options.structures:
            grow_structures(options.structures, options.families, options.workers)
        os.chdir(ROOT)
    return 0


def grow_formulas(count: int) -> None:
    """Build a table of formulas, and again with 1 % more."""
    rng = np.random.default_rng(0)
    texts = formulas(count + count // 100, rng)
    rows = [
        [text, f"{value:.4g}"] for text, value in zip(texts, rng.random(len(texts)), strict=True)
    ]
    for what, n_rows in ((f"{count} formulas", count), ("with 1 % more", len(rows))):
        write("formulas.csv", ["formula", "target"], rows[:n_rows])
        build(what, "magpie_statistics", "path=formulas.csv", "target=target")


def grow_structures(count: int, families: str, workers: str) -> None:
    """Build a table over CIFs, again with 1 % more, and once more as it is."""
    Path("cifs").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for row in range(count + count // 100):
        cation = CATIONS[row % len(CATIONS)]
        text = CIF.format(a=f"{4.0 + rng.uniform(-0.4, 0.4):.6f}", cation=cation)
        (Path("cifs") / f"m{row}.cif").write_text(text)
        rows.append([f"m{row}", f"Li{cation}O3", f"{rng.uniform(1.0, 9.0):.6g}"])
    whats = (f"{count} structures", count), ("with 1 % more", len(rows)), ("as it is", len(rows))
    for what, n_rows in whats:
        write("structures.csv", ["id", "formula", "target"], rows[:n_rows])
        settings = ("path=structures.csv", "target=target", "id=id", "cifs=cifs")
        build(what, families, *settings, workers=workers)


def write(name: str, header: list[str], rows: list[list[str]]) -> None:
    """Write a CSV file."""
    with Path(name).open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(header)
        writer.writerows(rows)


def build(what: str, families: str, *settings: str, workers: str = "1") -> None:
    """Run `hpo features build` and print what it took."""
    command = [sys.executable, "-m", "hpo", "features", "build", "--dataset", "csv"]
    command += ["--families", families, "--workers", workers]
    for setting in settings:
        command += ["--set", setting]
    began = time.perf_counter()
    with Path("log.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
    wall_s, process.returncode = time.perf_counter() - began, os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(Path("log.txt").read_text())
    peak_mb = used.ru_maxrss / 1024
    print(
        f"{what:32} {wall_s:8.1f} {used.ru_utime + used.ru_stime:8.1f} {peak_mb:8.0f}", flush=True
    )


if __name__ == "__main__":
    sys.exit(main())
