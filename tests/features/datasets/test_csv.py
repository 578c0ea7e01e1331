"""Anybody's CSV file: every row is in the table or in an account of why it is not."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from features.datasets.groups import hold_out, linked_groups
from features.intake.csv_parsing import parse_csv
from features.table import BuildResult, CsvSpec, DatasetError, FeatureTable, TableSpec, build, read
from tests.support.tables.materials import LICL

BASE = "id,formula,target\na,Li2O,1.0\nb,LiCl,2.0\nc,LiF,3.0\n"


def build_csv(folder: Path, text: str | bytes, **settings: Any) -> BuildResult:
    data = text if isinstance(text, bytes) else text.encode()
    (folder / "my.csv").write_bytes(data)
    raw = {"dataset": "csv", "path": "my.csv", "families": ["ratios"], "id": "id"} | settings
    spec = CsvSpec.model_validate({key: value for key, value in raw.items() if value is not None})
    return build(spec, data_dir=None, tables_dir=folder / "tables", base_dir=folder)


def table_of(folder: Path, text: str | bytes, **settings: Any) -> FeatureTable:
    return read(build_csv(folder, text, **settings).path)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("x,Qq2O,1", "'Qq' is no element"),
        ("x,Li2O(,1", "cannot be read"),
        ("x,,1", "is empty"),
        ("x,Li2S,", "is missing"),
        ("x,Li2S,n/a", "is missing"),
        ("x,Li2S,high", "is not a number"),
        ("x,Li2S,inf", "is infinite"),
        ("x,Li2S,1e999", "is infinite"),
        ("x,Li2S,1_0", "is not a number"),
        ("x,Li2S", "2 fields where the header has 3"),
        ("x,Li2S,1,2", "4 fields where the header has 3"),
        ("a,Li2O,1.0", "an exact duplicate of line 2"),
        ("a,Li2S,9.0", "already used on line 2 with another formula, target"),
        (",Li2S,1", "the row needs an id"),
        ('"x"y,Li2S,1', "is no CSV"),
    ],
)
def test_malformed_row_is_reported(tmp_path: Path, row: str, reason: str) -> None:
    result = build_csv(tmp_path, f"{BASE}{row}\nd,LiBr,4\n")
    assert result.n_rows == 4
    assert len(result.skipped) == 1
    assert (result.skipped[0].line, result.skipped[0].source) == (5, "my.csv")
    assert reason in result.skipped[0].reason


@pytest.mark.parametrize("value", ["0", "-1e-5", "<0"])
def test_log10_of_what_is_not_positive(tmp_path: Path, value: str) -> None:
    result = build_csv(tmp_path, f"id,formula,target\na,LiF,0.01\nb,LiCl,{value}\n", log10=True)
    assert "must be above 0" in result.skipped[0].reason
    assert read(result.path).y.tolist() == [-2.0]


def test_numbers_are_read_by_their_whole_column_and_formulas_as_they_are_written(tmp_path) -> None:
    text = "id;formula;target\na;Li₂O;1.234,56\nb;CuSO4.5H2O;2.500\nc;BSCCO;3,5\nd;Mn(IV)O2;<0,5\n"
    table = table_of(tmp_path, text, test_fraction=0.0)
    assert table.y.tolist() == [1234.56, 2500.0, 0.5]
    assert [(row.id, "abbreviation" in row.reason) for row in table.skipped] == [("c", True)]
    said = {row.id: row.reason for row in table.partial}
    assert "decimal commas" in said["*"]
    assert "adduct CuSO4·5H2O" in said["b"]
    assert "oxidation number" in said["d"]


def test_thresholds_are_coerced_and_flagged(tmp_path: Path) -> None:
    text = "id,formula,target\na,LiF,<1E-10\nb,LiCl,1e-3\nc,LiBr,≤ 1e-8\n"
    families = ["ratios", "sigma_is_coerced"]
    table = table_of(tmp_path, text, log10=True, families=families)
    assert table.y.tolist() == [-10.0, -3.0, -8.0]
    assert table.X[:, -1].tolist() == [1.0, 0.0, 1.0]
    assert [column.derived_from_target for column in table.columns] == [False] * 3 + [True]
    assert table.manifest["n_coerced"] == 2


def test_lines_are_right_after_quoted_newlines(tmp_path: Path) -> None:
    text = (
        'id,formula,target,note\na,Li2O,1,"two\nlines"\n\nb,Bad0,1,\nc,LiF,2,"x\r\ny\nz"\nd,,3,\n'
    )
    result = build_csv(tmp_path, text)
    assert [(row.line, row.id) for row in result.skipped] == [(5, "b"), (9, "d")]


@pytest.mark.parametrize(
    "data",
    [
        BASE.encode("utf-8-sig"),
        BASE.replace("\n", "\r\n").encode(),
        BASE.replace("\n", "\r").encode(),
        BASE.replace(",", ";").encode(),
        BASE.replace(",", "\t").encode(),
        BASE.encode("utf-16"),
        BASE.replace(",", " , ").encode(),
        ("\n" + BASE + "\n\n").encode(),
    ],
)
def test_files_as_people_have_them(tmp_path: Path, data: bytes) -> None:
    table = table_of(tmp_path, data)
    assert table.ids.tolist() == ["a", "b", "c"]
    assert table.y.tolist() == [1.0, 2.0, 3.0]
    assert table.skipped == ()


def test_latin_1_is_read_and_noted(tmp_path: Path) -> None:
    table = table_of(tmp_path, "id,formula,target,autor\na,LiF,1,M\xfcller\n".encode("latin-1"))
    assert table.manifest["notes"]["encoding"] == "cp1252"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"id,formula,target\n", "no row below the header"),
        (b"id,formulla,target\na,LiF,1\n", "no column 'formula'.*nearest is 'formulla'"),
        (b"id,formula,formula,target\na,LiF,LiF,1\n", "is there 2 times"),
        (b"id,formula,target\na,Qq,1\nb,LiF,\n", "none of its 2 rows can be used"),
        (b'id,formula,target\na,"LiF,1\n', "line 2: a quotation mark opens"),
        (b"PK\x03\x04rest", "spreadsheet"),
        (b"id,formula,target\na,Li\x00F,1\n", "has a NUL character"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: bytes, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        build_csv(tmp_path, text)


def test_absent_file(tmp_path: Path) -> None:
    spec = CsvSpec(dataset="csv", path=Path("none.csv"), families=("ratios",))
    with pytest.raises(DatasetError, match="there is no file"):
        build(spec, data_dir=None, tables_dir=tmp_path / "t", base_dir=tmp_path)


def test_without_id_and_group_columns(tmp_path: Path) -> None:
    text = "formula,target\nLi2O,1\nLi4O2,2\nO1Li2,2\nLi2O,1\n"
    table = table_of(tmp_path, text, id=None, test_fraction=0.0)
    assert table.ids.tolist() == ["row-2", "row-3", "row-4"]
    assert len(set(table.groups)) == 1
    assert "exact duplicate of line 2" in table.skipped[0].reason


def test_split_column(tmp_path: Path) -> None:
    text = "id,formula,target,s\na,LiF,1,train\nb,LiCl,2,Test\nc,LiBr,3,valid\n"
    table = table_of(tmp_path, text, split="s")
    assert table.is_train.tolist() == [True, False]
    assert "must be 'train' or 'test'" in table.skipped[0].reason


def test_group_column(tmp_path: Path) -> None:
    text = "id,formula,target,g\na,LiF,1,x\nb,LiCl,2,x\nc,LiBr,3,\n"
    table = table_of(tmp_path, text, group="g", test_fraction=0.0)
    assert table.groups.tolist() == ["x", "x"]
    assert "needs a group" in table.skipped[0].reason


@pytest.mark.parametrize(
    "spellings",
    [
        ("10.1021/AB-1", "10.1021/ab-1", "https://doi.org/10.1021/ab-1", "doi: 10.1021/AB-1"),
        ("Smith 2019", "smith  2019", "SMITH\u00a02019", "\uff33mith 2019", "smith 2019 "),
        ("Gr\u00f6\u00dfe", "Gro\u0308sse", "GR\u00d6SSE"),
    ],
)
def test_one_group_in_several_spellings_is_one_group(tmp_path: Path, spellings) -> None:
    rows = "".join(f"r{n},Li{n + 1}F,{n},{name}\n" for n, name in enumerate(spellings))
    text = f"id,formula,target,doi\n{rows}z,LiCl,9,other\n"
    table = table_of(tmp_path, text, group="DOI", test_fraction=0.0)
    assert table.groups.tolist() == [spellings[0]] * len(spellings) + ["other"]
    assert any("was taken for 'DOI'" in row.reason for row in table.partial)


CELLS = "id,formula,target,a,b,c,alpha,beta,gamma,Space group #,Z\n"


def test_cell_values_that_cannot_be_used_leave_the_row(tmp_path: Path) -> None:
    text = CELLS + (
        "ok,LiCl,1,5.14,5.14,5.14,90,90,90,225,4\n"
        "inf,LiCl,2,inf,5.14,5.14,90,90,90,225,4\n"
        "text,LiCl,3,wide,5.14,5.14,90,90,90,225,4\n"
        "sg,LiCl,4,5.14,5.14,5.14,90,90,90,231,4\n"
        "shut,LiCl,5,5.14,5.14,5.14,20,90,170,225,4\n"
        "empty,LiCl,6,5.14,,5.14,90,90,90,225,4\n"
    )
    families = ["cell", "lattice", "space_group"]
    table = table_of(tmp_path, text, families=families, test_fraction=0.0)
    assert table.n_rows == 6
    assert table.skipped == ()
    said = {(row.id, row.family): row.reason for row in table.partial}
    assert "is infinite" in said["inf", "lattice"]
    assert "is not a number" in said["text", "cell"]
    assert "whole number from 1 to 230" in said["sg", "space_group"]
    assert "close no cell" in said["shut", "cell"]
    assert "missing" in said["empty", "lattice"]
    assert not any(row.id == "ok" for row in table.partial)
    assert np.isnan(table.X[1:3, table.feature_names.index("density")]).all()
    assert table.X[3, -230:].sum() == 0.0


def test_missing_cell_column_is_nan_and_said_once(tmp_path: Path) -> None:
    rows = "".join(f"r{i},LiCl,{i},5.1\n" for i in range(20))
    table = table_of(tmp_path, "id,formula,target,a\n" + rows, families=["lattice"])
    assert [(row.id, row.family) for row in table.partial] == [("*", "lattice")]
    assert "b, c, alpha" in table.partial[0].reason
    assert np.isnan(table.X[:, 1:]).all()


def test_family_without_any_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="family lattice: no row has the cell data"):
        build_csv(tmp_path, BASE, families=["lattice"])


def archive(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"cifs/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("packed", [True, False])
def test_cifs_present_broken_absent_and_foreign(tmp_path: Path, packed: bool) -> None:
    files = {"a.cif": LICL, "b.cif": b"rubbish", "zz.cif": LICL, "._a.cif": b"mac"}
    if packed:
        archive(tmp_path / "cifs.tar.gz", files)
    else:
        (tmp_path / "cifs").mkdir()
        for name, data in files.items():
            (tmp_path / "cifs" / name).write_bytes(data)
    cifs = "cifs.tar.gz" if packed else "cifs"
    rows = BASE.replace("Li2O", "LiCl")
    table = table_of(tmp_path, rows, families=["li_environment"], cifs=cifs)
    assert table.X[:, 0].tolist() == [1.0, 0.0, 0.0]
    said = "\n".join(f"{row.id}: {row.reason}" for row in table.partial)
    assert "b: left out: CIF cannot be parsed (line 1: 'rubbish' before the first data_)" in said
    assert "no CIF for 1 of 3 rows (c)" in said
    assert "belong to no row of the table (zz.cif)" in said


def test_damaged_archive_is_refused(tmp_path: Path) -> None:
    archive(tmp_path / "cifs.tar.gz", {"a.cif": LICL})
    whole = (tmp_path / "cifs.tar.gz").read_bytes()
    (tmp_path / "cifs.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match="cannot be read"):
        build_csv(tmp_path, BASE, families=["li_environment"], cifs="cifs.tar.gz")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"dataset": "obelix", "families": []}, "at least one family"),
        ({"dataset": "obelix", "families": ["magpi"]}, "did you mean 'magpie'"),
        ({"dataset": "obelix", "families": ["smact", "smact"]}, "listed twice"),
        ({"dataset": "obelix", "families": ["smact"], "seed": 1}, "Extra inputs"),
        ({"dataset": "transport", "families": ["cell"]}, "needs cell data"),
        ({"dataset": "transport", "families": ["smact"], "target": "zt"}, "seebeck_p"),
        ({"dataset": "csv", "families": ["li_environment"], "path": "x"}, "set `cifs`"),
        ({"dataset": "csv", "families": ["smact"], "path": "x", "cifs": "y"}, "`cifs` needs `id`"),
        ({"dataset": "csv", "families": ["smact"], "path": "x", "split": "s", "seed": 1}, "one or"),
        ({"dataset": "nope", "families": ["smact"]}, "obelix"),
    ],
)
def test_specs_that_are_refused(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(TableSpec).validate_python(raw)


def test_linked_groups_join_through_other_rows() -> None:
    tokens = [("p1", "A"), ("p2", "B"), ("p3", "C"), ("p2", "A"), ("p4", "D")]
    assert linked_groups(tokens) == ("p1", "p1", "p3", "p1", "p4")


def test_hold_out_takes_its_share_of_each_class() -> None:
    classes = [int(row % 10 == 0) for row in range(400)]
    groups = [f"g{row // 2}" for row in range(400)]
    for seed in range(5):
        held = ~hold_out(groups, 0.2, seed, classes)
        assert held.sum() == pytest.approx(80, abs=4)
        assert np.count_nonzero(np.array(classes)[held]) == pytest.approx(8, abs=1)


def test_hold_out_takes_whole_groups_and_never_too_many() -> None:
    groups = [f"g{i % 37}" for i in range(500)]
    stay = hold_out(groups, 0.2, seed=3)
    assert 0.12 * 500 <= np.count_nonzero(~stay) <= 100
    sides = {(group, bool(kept)) for group, kept in zip(groups, stay, strict=True)}
    assert len(sides) == 37
    assert hold_out(["one"] * 9, 0.5, seed=0).all()
    assert hold_out(groups, 0.0, seed=0).all()
    assert not np.array_equal(stay, hold_out(groups, 0.2, seed=4))


def test_csv_line_numbers_survive_any_line_end() -> None:
    for end in ("\n", "\r\n", "\r"):
        parsed = parse_csv("x.csv", end.join(["f,t", "LiF,1", "", "LiCl"]).encode())
        assert [record.line for record in parsed.records] == [2]
        assert [line for line, _ in parsed.malformed] == [4]


@pytest.mark.parametrize("given", [{"seed": 1}, {"test_fraction": 0.5}])
def test_a_split_column_and_a_split_by_lot_exclude_each_other(given):
    raw = {"dataset": "csv", "path": "my.csv", "families": ["ratios"], "split": "split"}
    spec = CsvSpec.model_validate(raw)
    # As a study comes back from its storage: with every field.
    assert CsvSpec.model_validate(spec.model_dump(mode="json")) == spec
    with pytest.raises(ValueError, match=f"`{next(iter(given))}` has no use"):
        CsvSpec.model_validate(raw | given)


@pytest.mark.parametrize("sign", ["\x1b", "\r", "\n", "\x07", "\x9b"])
def test_a_name_with_control_characters_is_no_name(sign, tmp_path):
    """They would break lines of files made from the table, or steer a terminal."""
    lines = f'a,Li2O,1,x\n"b{sign}c",Na2O,2,x\nc,K2O,3,"x{sign}y"\nd,MgO,4,y\n'
    built = build_csv(tmp_path, f"id,formula,target,g\n{lines}", group="g")
    assert list(read(built.path).ids) == ["a", "d"]
    assert ["control characters" in row.reason for row in built.skipped] == [True, True]
