"""What is on disk between builds: never half, never believed when damaged, never made twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import features.records
import features.tables.build
import features.tables.store
from features.atomic_files import SCRATCH_NAME
from features.families.registry import FAMILIES
from features.rows import Block, Remark
from features.table import BuildResult, CsvSpec, FamilyError, TableError, build, read
from features.tables.cache import BLOCKS_NAME, INDEX_NAME, load_block, save_block
from tests.support.studies import ROOT

FAMILIES_BUILT = ("ratios", "smact", "magpie")
FORMULAS = ("Li2O", "LiF", "LiCl", "Li3N", "Li2S", "Li3PS4", "LiFePO4", "LiCoO2", "NaCl", "MgO")

# What a process does that builds one table: [folder of data.csv, tables_dir, families...].
BUILD_SCRIPT = """
import json, sys, time
from pathlib import Path
from features.table import CsvSpec, build
folder, tables, *families = sys.argv[1:]
spec = CsvSpec(dataset="csv", path=Path("data.csv"), families=tuple(families))
started = time.perf_counter()
done = build(spec, data_dir=None, tables_dir=Path(tables), base_dir=Path(folder))
print(json.dumps({
    "name": done.name,
    "reused": done.reused,
    "wall_s": time.perf_counter() - started,
    "heavy": sorted({"pymatgen", "matminer", "smact", "elementembeddings"} & set(sys.modules)),
}))
"""

# Builds one new table after the other until it is killed: every table has its own content.
ENDLESS_SCRIPT = """
import itertools, sys
from pathlib import Path
from features.table import CsvSpec, build
folder, tables, first = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
for number in itertools.count(first):
    lines = [f"Li{n}O{number},{number + n}" for n in range(1, 120)]
    (folder / "data.csv").write_text("\\n".join(["formula,target", *lines]))
    spec = CsvSpec(dataset="csv", path=Path("data.csv"), families=("ratios", "smact"))
    build(spec, data_dir=None, tables_dir=tables, base_dir=folder)
    if number == first:
        print("ready", flush=True)
"""


def write_csv(folder: Path, *extra: str) -> None:
    lines = [f"{formula},{n}.5" for n, formula in enumerate(FORMULAS)]
    (folder / "data.csv").write_text("\n".join(["formula,target", *lines, *extra]) + "\n")


def write_cells(folder: Path) -> None:
    lines = [f"{formula},{n},4.{n},5,6,90,90,9{n},4,{n + 1}" for n, formula in enumerate(FORMULAS)]
    header = "formula,target,a,b,c,alpha,beta,gamma,Z,space_group"
    (folder / "data.csv").write_text("\n".join([header, *lines]) + "\n")


def build_csv(
    folder: Path,
    families: tuple[str, ...] = FAMILIES_BUILT,
    log: Callable[[str], None] | None = None,
) -> BuildResult:
    spec = CsvSpec(dataset="csv", path=Path("data.csv"), families=families)
    return build(spec, data_dir=None, tables_dir=folder / "tables", base_dir=folder, log=log)


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def build_elsewhere(folder: Path, *families: str) -> dict[str, Any]:
    with start(BUILD_SCRIPT, folder, folder / "tables", *families) as process:
        output, _ = process.communicate()
    assert process.returncode == 0
    return dict(json.loads(output))


def tables_in(tables_dir: Path) -> list[Path]:
    return sorted(path for path in tables_dir.iterdir() if not path.name.startswith("."))


def leftovers(tables_dir: Path) -> list[Path]:
    return list((tables_dir / SCRATCH_NAME).iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_csv(tmp_path)
    return tmp_path


def test_a_table_holds_what_the_file_says(folder):
    done = build_csv(folder)
    table = read(done.path)
    assert (done.name, done.hash, done.reused) == (table.name, table.hash, False)
    assert (done.n_rows, done.n_features) == (10, 3 + 103 + 22) == table.X.shape
    assert table.formulas.tolist() == list(FORMULAS)
    assert table.y.tolist() == [n + 0.5 for n in range(10)]
    assert [c.family for c in table.columns] == ["ratios"] * 3 + ["smact"] * 103 + ["magpie"] * 22
    assert table.manifest["n_coerced"] == 0
    assert table.manifest["packages"]["elementembeddings"]
    assert str(folder) not in (done.path / "manifest.json").read_text()


@pytest.mark.slow
def test_a_second_build_is_quick_and_loads_no_chemistry(folder):
    families = [*FAMILIES_BUILT, "li_chemistry"]
    first = build_elsewhere(folder, *families)
    second = build_elsewhere(folder, *families)
    assert not first["reused"]
    assert "pymatgen" in first["heavy"]  # so the check below can fail
    assert second["reused"]
    assert second["name"] == first["name"]
    assert second["heavy"] == []
    assert second["wall_s"] < 0.5 * first["wall_s"]
    assert len(tables_in(folder / "tables")) == 1


def test_reading_a_table_loads_no_chemistry(folder):
    done = build_csv(folder)
    code = (
        "import sys, features.table as t; from pathlib import Path\n"
        "table = t.read(Path(sys.argv[1])); print(table.n_rows)\n"
        "heavy = {'pymatgen', 'matminer', 'smact', 'elementembeddings', 'sklearn'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    with start(code, done.path) as process:
        output, _ = process.communicate()
    assert output.split() == ["10", "[]"]


def test_a_changed_file_makes_a_new_table_and_keeps_the_old(folder):
    old = build_csv(folder)
    before = {path.name: path.read_bytes() for path in old.path.iterdir()}
    write_csv(folder, "CaO,77")
    new = build_csv(folder)
    assert not new.reused
    assert new.hash != old.hash
    assert read(new.path).n_rows == 11
    assert {path.name: path.read_bytes() for path in old.path.iterdir()} == before
    write_csv(folder)
    assert build_csv(folder).hash == old.hash


def test_families_of_more_than_the_formula_are_computed_once(folder):
    write_cells(folder)
    said: list[str] = []
    build_csv(folder, ("lattice", "cell"), said.append)
    said.clear()
    done = build_csv(folder, ("space_group", "cell", "magpie", "lattice"), said.append)
    made = {line.split(":")[0]: line for line in said if " columns" in line}
    assert "from the cache" in made["lattice"]
    assert "from the cache" in made["cell"]
    assert "columns in" in made["space_group"]
    assert "columns in" in made["magpie"]
    (folder / "fresh").mkdir()
    write_cells(folder / "fresh")
    fresh = build_csv(folder / "fresh", ("space_group", "cell", "magpie", "lattice"))
    assert fresh.hash == done.hash  # what comes from the cache is what would be computed


@pytest.mark.parametrize("damage", [b"[1]", b'{"table": 3}', b"PK\x03\x04", None])
@pytest.mark.parametrize("where", [INDEX_NAME, BLOCKS_NAME])
def test_a_damaged_cache_is_made_again(folder, where, damage):
    write_cells(folder)
    families = ("cell", "ratios", "lattice")
    first = build_csv(folder, families)
    files = list((folder / "tables" / where).iterdir())
    assert len(files) == (1 if where == INDEX_NAME else 2)
    for path in files:
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] if damage is None else damage)
    if where == BLOCKS_NAME:  # or else the index would find the table
        (first.path / "table.parquet").write_bytes(b"PAR1")
    again = build_csv(folder, families)
    assert (again.hash, again.reused) == (first.hash, False)
    assert read(again.path).n_rows == 10
    assert build_csv(folder, families).reused


def test_no_damage_to_a_block_is_fatal_or_believed(tmp_path):
    family = FAMILIES["ratios"]
    block = Block(np.arange(15.0).reshape(5, 3), (Remark(1, "why"),))
    save_block(tmp_path, family, "k", block)
    (path,) = (tmp_path / BLOCKS_NAME).iterdir()
    whole = path.read_bytes()
    refused = 0
    positions = range(0, len(whole), 3)
    for at in positions:
        for flip in (0x01, 0x08, 0xFF):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
            found = load_block(tmp_path, family, "k", 5)
            refused += found is None
            if found is not None:  # a byte that nobody reads, such as the time of writing
                np.testing.assert_array_equal(found.values, block.values)
                assert found.remarks == block.remarks
    assert refused > len(positions)


def test_a_cached_block_of_another_shape_is_not_used(tmp_path):
    save_block(tmp_path, FAMILIES["ratios"], "k", Block(np.zeros((5, 3))))
    assert load_block(tmp_path, FAMILIES["ratios"], "k", 5) is not None
    assert load_block(tmp_path, FAMILIES["ratios"], "k", 6) is None


@pytest.mark.parametrize("name", ["table.parquet", "manifest.json"])
@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_a_damaged_table_is_refused_and_built_again(folder, name, cut):
    first = build_csv(folder)
    path = first.path / name
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(TableError, match="damaged"):
        read(first.path)
    again = build_csv(folder)
    assert (again.hash, again.reused) == (first.hash, False)
    np.testing.assert_array_equal(read(again.path).y, [n + 0.5 for n in range(10)])
    assert leftovers(folder / "tables") == []


@pytest.mark.parametrize("name", ["table.parquet", "manifest.json"])
def test_a_table_that_lost_a_file_is_built_again(folder, name):
    first = build_csv(folder)
    (first.path / name).unlink()
    with pytest.raises(TableError, match=f"it has no {name}"):
        read(first.path)
    assert not build_csv(folder).reused
    assert read(first.path).hash == first.hash


def stop_at_work(process: subprocess.Popen[str], tables: Path, chance: random.Random) -> None:
    """Stop the process at a random moment at which it has work in progress on the disk."""
    while True:
        time.sleep(chance.uniform(0.0, 0.05))
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        if leftovers(tables):
            return
        process.send_signal(signal.SIGCONT)


@pytest.mark.slow
def test_a_killed_build_leaves_nothing_half(tmp_path):
    tables = tmp_path / "tables"
    chance = random.Random(0)
    for kill in range(4):
        with start(ENDLESS_SCRIPT, tmp_path, tables, 1000 * kill + 1) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            stop_at_work(process, tables, chance)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert leftovers(tables) != []
        found = tables_in(tables)
        assert len(found) > kill
        for path in found:
            assert read(path).n_rows in (119, 10)  # theirs, or ours from below
        write_csv(tmp_path)
        assert read(build_csv(tmp_path).path).n_rows == 10
        assert leftovers(tables) == []


def test_a_family_that_breaks_its_word_is_refused(folder, monkeypatch):
    monkeypatch.setattr(
        "features.families.formula.composition.ratios", lambda rows, log: Block(np.zeros((10, 2)))
    )
    with pytest.raises(FamilyError, match=r"family ratios: .* returned the shape \(10, 2\)"):
        build_csv(folder)


def test_what_is_stored_is_rounded_and_has_no_minus_zero(folder, monkeypatch):
    values = np.full((10, 3), -1e-12)
    values[0, 0] = 1.0000000001
    monkeypatch.setattr(
        "features.families.formula.composition.ratios", lambda rows, log: Block(values)
    )
    X = read(build_csv(folder, ("ratios",)).path).X
    assert X[0, 0] == 1.0
    assert not np.signbit(X).any()


def test_a_long_table_is_made_in_pieces_and_is_what_it_would_be_in_one(folder, monkeypatch):
    formulas = [*FORMULAS, "Rb2O", "LiHe"]
    lines = [f"{formulas[n % 12]},{n}.5,{n}" for n in range(50)]
    (folder / "data.csv").write_text("\n".join(["formula,target,note", *lines]) + "\n")
    families = ("ratios", "magpie_statistics", "li_chemistry", "stoichiometry")
    whole = build_csv(folder, families)
    for module in (features.tables.build, features.tables.store):
        monkeypatch.setattr(module, "PIECE_ROWS", 7)
    monkeypatch.setattr(features.records, "_PIECE_ROWS", 3)
    (folder / "pieces").mkdir()
    (folder / "pieces" / "data.csv").write_bytes((folder / "data.csv").read_bytes())
    pieces = build_csv(folder / "pieces", families)
    assert pieces.hash == whole.hash
    assert pieces.partial == whole.partial
    assert len(whole.partial) == 2 * 4
    assert pq.ParquetFile(pieces.path / "table.parquet").num_row_groups == 8
    one, other = read(whole.path), read(pieces.path)
    np.testing.assert_array_equal(one.X, other.X)
    assert one.ids.tolist() == other.ids.tolist()
    assert one.y.tolist() == other.y.tolist()
