"""Datasets: every row of every file is a row of the table or an account of why it is not."""

from __future__ import annotations

import csv
import importlib.metadata
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymatgen.core.composition import Composition
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from features.datasets import csv as csv_dataset
from features.datasets import obelix as obelix_dataset
from features.datasets.sources import SourceFile
from features.intake.csv_parsing import parse_csv
from features.rows import Rows
from features.specs import TransportTarget
from features.table import (
    BuildResult,
    CsvSpec,
    DatasetError,
    FeatureTable,
    ObelixSpec,
    TransportSpec,
    build,
    families,
    read,
)

SIGMA = "Ionic conductivity (S cm-1)"


def silent(_line: str) -> None:
    pass


# --- OBELiX ---------------------------------------------------------------------------------------


def records_of(obelix_dir: Path, split: str) -> list[dict[str, str]]:
    with (obelix_dir / f"{split}.csv").open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def build_obelix(
    data_dir: Path | None,
    tables_dir: Path,
    chosen: tuple[str, ...] = ("ratios",),
    log: Callable[[str], None] = silent,
) -> BuildResult:
    spec = ObelixSpec(dataset="obelix", families=chosen)
    return build(spec, data_dir=data_dir, tables_dir=tables_dir, base_dir=tables_dir, log=log)


@pytest.fixture(scope="module")
def obelix(obelix_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureTable:
    """OBELiX with all but its CIFs."""
    chosen = ("ratios", "sigma_is_coerced", "cell", "lattice", "space_group")
    return read(build_obelix(obelix_dir, tmp_path_factory.mktemp("tables"), chosen).path)


@pytest.fixture(scope="module")
def obelix_rows(obelix_dir: Path) -> Rows:
    spec = ObelixSpec(dataset="obelix", families=("li_environment",))
    needs = frozenset(families()["li_environment"].needs)
    sources = obelix_dataset.sources_of(
        spec, data_dir=obelix_dir, base_dir=obelix_dir, needs=needs, log=silent
    )
    return obelix_dataset.rows_of(spec, sources, needs)


def test_obelix_target_spans_what_its_authors_measured(obelix):
    assert 10 ** obelix.y.min() == pytest.approx(4.2e-18, rel=0.1)
    assert 10 ** obelix.y.max() == pytest.approx(2.5e-2, rel=0.01)
    assert (obelix.target.name, obelix.target.unit, obelix.target.log10) == (
        "ionic_conductivity",
        "S/cm",
        True,
    )


def test_obelix_thresholds_count_as_their_value(obelix, obelix_dir):
    flag = obelix.X[:, obelix.feature_names.index("sigma_is_coerced")]
    records = records_of(obelix_dir, "train") + records_of(obelix_dir, "test")
    for record, y, coerced in zip(records, obelix.y, flag, strict=True):
        text = record[SIGMA]
        assert coerced == text.startswith("<")
        assert y == pytest.approx(np.log10(float(text.lstrip("<"))), abs=1e-9)
    assert flag[obelix.is_train].sum() == 29


def test_obelix_row_with_crystal_water_has_its_cell_content(obelix, obelix_dir):
    (record,) = [r for r in records_of(obelix_dir, "test") if r["ID"] == "na5"]
    content = Composition(record["True Composition"])
    row = obelix.ids.tolist().index("na5")
    assert not obelix.is_train[row]
    found = dict(zip(obelix.feature_names, obelix.X[row], strict=True))
    assert found["li_atomic_fraction"] == pytest.approx(content.get_atomic_fraction("Li"))
    assert found["n_elements"] == len(content)
    assert found["n_li"] == pytest.approx(content["Li"])
    assert not [row for row in obelix.partial if row.id == "na5"]


def test_obelix_formula_that_cannot_be_read_has_its_cell_content_and_a_remark():
    fields = {"Reduced Composition": "Li3-xN", "True Composition": "Li6.0N2.0", "Z": "2"}
    found = obelix_dataset._read_formula(fields)
    assert (found.text, found.amounts) == ("Li3N1", {"Li": 3.0, "N": 1.0})
    assert "True Composition over Z stands in" in found.remark


def test_obelix_lattice_is_that_of_the_file(obelix, obelix_dir):
    records = records_of(obelix_dir, "train") + records_of(obelix_dir, "test")
    names = ["a", "b", "c", "alpha", "beta", "gamma", "Space group #"]
    given = np.array([[float(record[name]) for name in names] for record in records])
    first = obelix.feature_names.index("lattice_a")
    np.testing.assert_allclose(obelix.X[:, first : first + 7], given, atol=1e-9)
    one_hot = obelix.X[:, -230:]
    np.testing.assert_array_equal(one_hot.argmax(axis=1) + 1, given[:, -1])
    assert set(one_hot.sum(axis=1)) == {1.0}


@pytest.mark.parametrize(
    ("split", "n_groups", "in_small"), [("train", 118, 229), ("test", 42, 121)]
)
def test_obelix_groups_are_the_components_of_shared_papers_and_materials(
    obelix, obelix_dir, split, n_groups, in_small
):
    view = getattr(obelix, split)
    shared: dict[str, list[int]] = {}
    for row, record in enumerate(records_of(obelix_dir, split)):
        for doi in record["DOI"].lower().split("|"):
            shared.setdefault(doi.strip(), []).append(row)
        column = "True Composition" if record["ID"] == "na5" else "Reduced Composition"
        content = Composition(record[column]).fractional_composition
        material = " ".join(f"{e}{content[e]:.4f}" for e in sorted(content, key=str))
        shared.setdefault(material, []).append(row)
    pairs = [(rows[0], row) for rows in shared.values() for row in rows]
    ends = np.array(pairs).T
    n_rows = len(view.ids)
    graph = coo_matrix((np.ones(len(pairs)), (ends[0], ends[1])), shape=(n_rows, n_rows))
    count, component = connected_components(graph, directed=False)
    assert len(set(view.groups)) == count == n_groups
    assert len(set(zip(view.groups, component, strict=True))) == count  # the same partition
    sizes = Counter(view.groups)
    assert sum(size for size in sizes.values() if size <= 24) == in_small


def test_obelix_cifs_belong_to_their_rows(obelix_rows):
    present = np.array([cif is not None for cif in obelix_rows.cifs])
    assert present[obelix_rows.is_train].sum() == 254
    assert present[~obelix_rows.is_train].sum() == 67
    assert obelix_rows.cif_remarks == ()  # no CIF without a row, none twice


def test_obelix_is_found_in_the_folder_and_below_it(obelix_dir, tmp_path):
    itself = build_obelix(obelix_dir, tmp_path)
    (tmp_path / "above").mkdir()
    (tmp_path / "above" / "obelix").symlink_to(obelix_dir)
    below = build_obelix(tmp_path / "above", tmp_path)
    assert (below.hash, below.reused) == (itself.hash, True)


def test_obelix_without_its_archives_builds_what_needs_none(obelix_dir, tmp_path):
    for name in ("train.csv", "test.csv"):
        shutil.copyfile(obelix_dir / name, tmp_path / name)
    assert build_obelix(tmp_path, tmp_path / "t", ("ratios", "cell")).n_rows == 599
    with pytest.raises(DatasetError, match=r"no CIFs for train\.csv \(none of train_cifs\.tar\.gz"):
        build_obelix(tmp_path, tmp_path / "t", ("ratios", "cell_shape"))


def test_obelix_reads_unpacked_cifs_alike(obelix_dir, obelix_rows, tmp_path):
    for name in ("train", "test"):
        shutil.copyfile(obelix_dir / f"{name}.csv", tmp_path / f"{name}.csv")
        with tarfile.open(obelix_dir / f"{name}_cifs.tar.gz") as archive:
            # Python 3.11 before 3.11.4 has no filters.
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            archive.extractall(tmp_path / f"{name}_cifs")
    needs = frozenset(families()["li_environment"].needs)
    spec = ObelixSpec(dataset="obelix", families=("li_environment",))
    sources = obelix_dataset.sources_of(
        spec, data_dir=tmp_path, base_dir=tmp_path, needs=needs, log=silent
    )
    assert obelix_dataset.rows_of(spec, sources, needs).cifs == obelix_rows.cifs


def test_obelix_with_half_an_archive_is_refused(obelix_dir, tmp_path):
    for path in obelix_dir.iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    archive = tmp_path / "test_cifs.tar.gz"
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=r"test_cifs\.tar\.gz cannot be read"):
        build_obelix(tmp_path, tmp_path / "t", ("li_environment",))


@pytest.mark.parametrize("present", ["train.csv", "test.csv", None])
def test_obelix_with_half_its_files_is_not_found(tmp_path, present):
    if present is not None:
        (tmp_path / present).write_text("ID\n")
    with pytest.raises(DatasetError, match=r"--data DIR or HPO_DATA.*train\.csv and test\.csv"):
        build_obelix(tmp_path, tmp_path / "t")


def test_obelix_uses_the_download_of_the_last_time(obelix_dir, obelix, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    release = importlib.metadata.version("obelix-data")
    folder = tmp_path / "hpo" / f"obelix-{release}"
    folder.mkdir(parents=True)
    train, test = ((obelix_dir / f"{n}.csv").read_text("utf-8") for n in ("train", "test"))
    (folder / "all.csv").write_text(train + test.split("\n", 1)[1], "utf-8")
    (folder / "test.csv").write_text(test, "utf-8")
    said: list[str] = []
    table = read(build_obelix(None, tmp_path / "t", log=said.append).path)
    assert not any("downloading" in line for line in said)
    assert table.ids.tolist() == obelix.ids.tolist()
    assert table.groups.tolist() == obelix.groups.tolist()
    assert table.is_train.tolist() == obelix.is_train.tolist()


# --- transport ------------------------------------------------------------------------------------


def build_transport(folder: Path, **changes: object) -> FeatureTable:
    raw = {"dataset": "transport", "families": ["ratios"], "rows": 40, **changes}
    spec = TransportSpec.model_validate(raw)
    done = build(spec, data_dir=None, tables_dir=folder, base_dir=folder)
    return read(done.path)


@pytest.mark.slow
@pytest.mark.parametrize("target", get_args(TransportTarget))
def test_every_transport_target_builds(tmp_path, target):
    table = build_transport(tmp_path, target=target)
    assert np.isfinite(table.y).all()
    assert len(set(table.y)) > 20
    assert table.target.name == target.removeprefix("log10_")
    assert table.target.log10 == target.startswith("log10_")
    assert table.target.unit


@pytest.mark.slow
def test_transport_is_the_same_anywhere_and_split_by_whole_systems(tmp_path):
    here, there = build_transport(tmp_path / "a"), build_transport(tmp_path / "b")
    assert here.hash == there.hash
    assert here.n_rows == 40
    assert 0 < np.count_nonzero(~here.is_train) <= 8
    assert not set(here.train.groups) & set(here.test.groups)
    for formula, group in zip(here.formulas, here.groups, strict=True):
        assert "-".join(sorted(e.symbol for e in Composition(formula))) == group


# --- CSV ------------------------------------------------------------------------------------------

GOOD = ["Li2O", "LiF", "Li3PS4", "Li6.4La3Zr1.4Ta0.6O12", "NaCl", "D2O"]
FORMULAS_AS_FOUND = [*GOOD, "Qq2O", "Li2O(", "", "nan", "Li0", "Li-1O2"]
TARGETS_AS_FOUND = ["1", "-2.5", "1e-5", "<1e-10", "", "n/a", "inf", "1e999", "1,5", "high", "0"]
NOTES_AS_FOUND = ["", "two\nlines", "three\r\n\r\nlines", 'a "word"', "Δ;\t,"]

found_rows = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c", "d", "e", ""]),
        st.sampled_from(FORMULAS_AS_FOUND),
        st.sampled_from(TARGETS_AS_FOUND),
        st.sampled_from(NOTES_AS_FOUND),
        st.integers(-1, 1),  # fields too few or too many
    ),
    max_size=12,
)


def as_csv(rows: list[tuple[str, ...]], separator: str, end: str) -> tuple[str, list[int]]:
    """Return the text, and the line on which each row begins."""
    text = separator.join(["id", "formula", "target", "note"]) + end
    lines = []
    for row in rows:
        lines.append(len((text + "x").splitlines()))
        quoted = ['"' + field.replace('"', '""') + '"' for field in row]
        text += separator.join(quoted) + end
    return text, lines


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=found_rows,
    separator=st.sampled_from([",", ";", "\t"]),
    end=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    log10=st.booleans(),
    has_ids=st.booleans(),
)
def test_every_row_is_kept_or_accounted_for(rows, separator, end, encoding, log10, has_ids):
    written = [(*row[:3], *[row[3]] * (1 + row[4])) for row in rows]
    text, lines = as_csv([("z", "MgO", "1", ""), *written], separator, end)
    spec = CsvSpec(
        dataset="csv",
        path=Path("x.csv"),
        families=("ratios",),
        id="id" if has_ids else None,
        log10=log10,
    )
    source = SourceFile("x.csv", text.encode(encoding))
    found = csv_dataset.rows_of(spec, (source,), frozenset({"formula"}))
    skipped = [row.line for row in found.skipped]
    assert sorted([*found.lines, *skipped]) == lines
    assert all(row.reason and row.source == "x.csv" for row in found.skipped)
    assert len(set(found.ids)) == len(found)
    assert np.isfinite(found.y).all()
    assert found.is_train.any()
    by_line = dict(zip(lines, [("z", "MgO", "1", ""), *written], strict=True))
    for line, formula in zip(found.lines, found.formulas, strict=True):
        assert by_line[line][1] == formula
        assert formula in {*GOOD, "MgO"}
        assert len(by_line[line]) == 4 or not any(by_line[line][4:])


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ("a,LiF,1", "an exact duplicate of line 2"),
        ("a,LiF,2", "id 'a' is already used on line 2 with another target"),
        ("a,LiCl,1", "id 'a' is already used on line 2 with another formula"),
    ],
)
def test_a_second_row_of_one_id_says_how_it_differs(second, reason):
    spec = CsvSpec(dataset="csv", path=Path("x.csv"), families=("ratios",), id="id")
    source = SourceFile("x.csv", f"id,formula,target\na,LiF,1\n{second}\n".encode())
    found = csv_dataset.rows_of(spec, (source,), frozenset({"formula"}))
    assert found.ids == ("a",)
    assert reason in found.skipped[0].reason


def test_a_duplicate_of_a_skipped_row_has_that_rows_reason():
    spec = CsvSpec(dataset="csv", path=Path("x.csv"), families=("ratios",), id="id")
    source = SourceFile("x.csv", b"id,formula,target\na,LiF,1\nb,Qq,1\nb,Qq,1\nb,LiCl,3\n")
    found = csv_dataset.rows_of(spec, (source,), frozenset({"formula"}))
    assert found.ids == ("a", "b")
    assert ["no element" in row.reason for row in found.skipped] == [True, True]


@pytest.mark.parametrize("wrong", ["sigma", "Targett", "targets"])
def test_a_missing_column_is_named_with_the_nearest(wrong):
    parsed = parse_csv("x.csv", f"name,{wrong},zzz\na,1,2\n".encode())
    with pytest.raises(DatasetError) as caught:
        parsed.position("target" if wrong != "sigma" else "sigmas", "target")
    assert f"the nearest is '{wrong}'" in str(caught.value)
    assert f"Columns: name, {wrong}, zzz" in str(caught.value)


def test_a_folder_of_cifs_that_is_not_there_is_named(tmp_path):
    (tmp_path / "x.csv").write_text("id,formula,target\na,LiF,1\n")
    raw = {"dataset": "csv", "path": "x.csv", "id": "id", "cifs": "nowhere"}
    spec = CsvSpec.model_validate({**raw, "families": ["cell_shape"]})
    with pytest.raises(DatasetError, match=r"no folder or archive .*nowhere"):
        build(spec, data_dir=None, tables_dir=tmp_path / "t", base_dir=tmp_path)
