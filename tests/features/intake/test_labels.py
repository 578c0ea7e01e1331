"""Targets of classes: labels in a file, the order of the classes, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.preprocessing import LabelEncoder

from features.table import Column, CsvSpec, DatasetError, TableError, Target, build, read, write

FORMULAS = ["Li2O", "LiCl", "LiF", "NaCl", "KBr", "MgO", "CaO", "NaF"]


def spec_of(**settings):
    raw = {"path": "my.csv", "target": "kind", "task": "classification", "families": ["ratios"]}
    return CsvSpec.model_validate({"dataset": "csv", **raw, **settings})


def table_of(folder, labels, **settings):
    lines = [f"{f},{label}" for f, label in zip(FORMULAS, labels, strict=False)]
    (folder / "my.csv").write_text("formula,kind\n" + "\n".join(lines) + "\n")
    spec = spec_of(test_fraction=0.0, **settings)
    return read(build(spec, data_dir=None, tables_dir=folder / "t", base_dir=folder).path)


@pytest.mark.parametrize(
    "labels",
    [
        ["metal", "glass", "metal", "crystal", "glass", "metal"],
        ["yes", "no", "no", "yes"],
        ["Größe", "Zoo", "apple", "Größe"],
        ["a b", " c", "a b ", "c"],
    ],
)
def test_classes_are_in_the_order_of_scikit_learn(tmp_path, labels):
    table = table_of(tmp_path, labels)
    plain = [label.strip() for label in labels]
    encoder = LabelEncoder().fit(plain)
    assert table.target == Target("kind", classes=tuple(encoder.classes_))
    assert [table.target.classes[int(at)] for at in table.y] == plain


def test_numbers_are_labels_in_their_order_however_they_are_written(tmp_path):
    table = table_of(tmp_path, ["10", "2", "1", "1.0", "2e0"])
    assert table.target.classes == ("1", "2", "10")
    assert table.y.tolist() == [2, 1, 0, 0, 1]


def test_a_row_without_a_label_is_skipped_and_makes_no_class(tmp_path):
    table = table_of(tmp_path, ["yes", "n/a", "no", "", "yes"])
    assert table.target.classes == ("no", "yes")
    assert [row.line for row in table.skipped] == [3, 5]
    assert all("missing" in row.reason for row in table.skipped)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (["yes", "yes", "yes"], "two or more, there is 'yes'"),
        (["Metal", "metal", "glass"], "'Metal' and 'metal' differ in case alone"),
    ],
)
def test_labels_that_are_no_classes_are_refused(tmp_path, labels, reason):
    with pytest.raises(DatasetError, match=reason):
        table_of(tmp_path, labels)


def test_a_measured_column_is_no_column_of_classes(tmp_path):
    lines = [f"Li{n}O,{n / 7}" for n in range(1, 60)]
    (tmp_path / "my.csv").write_text("formula,kind\n" + "\n".join(lines) + "\n")
    with pytest.raises(DatasetError, match="59 labels in 59 rows are no classes"):
        build(spec_of(), data_dir=None, tables_dir=tmp_path / "t", base_dir=tmp_path)


def test_a_column_of_texts_says_what_to_write_if_they_are_classes(tmp_path):
    with pytest.raises(DatasetError, match='write task = "classification"'):
        table_of(tmp_path, ["yes", "no"], task="regression")


def test_what_is_for_numbers_is_refused():
    for name, value in (("log10", True), ("target_unit", "eV")):
        with pytest.raises(ValidationError, match="is for numbers, and task is 'classification'"):
            spec_of(**{name: value})


@pytest.mark.parametrize(
    ("classes", "y", "reason"),
    [
        (("a",), [0, 0], "two labels or more"),
        (("a", "a"), [0, 1], "two labels or more"),
        (("a", "b"), [0, 2], "got 2"),
        (("a", "b"), [0, 0.5], "got 0.5"),
    ],
)
def test_a_table_refuses_positions_of_no_class(tmp_path, classes, y, reason):
    with pytest.raises(TableError, match=reason):
        write(
            tmp_path,
            dataset="made",
            ids=["1", "2"],
            formulas=["Li", "Li"],
            X=np.ones((2, 1)),
            y=np.array(y, dtype=float),
            groups=["1", "2"],
            is_train=np.array([True, True]),
            columns=[Column("x", "made")],
            target=Target("kind", classes=classes),
        )


def test_a_target_of_numbers_is_written_as_before_there_were_classes():
    assert Target("y", "eV").as_dict() == {"name": "y", "unit": "eV", "log10": False}
