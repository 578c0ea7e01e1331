"""Prototype transfer: who borrows from whom, what stays as it is, and that `hpo` takes it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from features.chemistry.elements import ELEMENTS
from features.families.registry import FAMILIES, TRANSFER_COLUMNS
from features.table import (
    CsvSpec,
    FeatureTable,
    ObelixSpec,
    TableError,
    build,
    changed_families,
    families,
    read,
    read_candidates,
)
from features.tables.transfer import borrow
from hpo.analysis.best_model import predict_folds
from hpo.errors import SpecError
from hpo.estimators.checks import check_estimator, expected_columns
from hpo.objectives.cross_validation import CrossValidation
from hpo.objectives.factory import make_objective
from hpo.spec.loading import validate
from tests.support.studies import make_spec
from tests.support.tables.materials import LICL

FAMILY_NAMES = ("lattice", "smact", "bond_valence", "ewald", "ratios")
TRANSFERRED = ("bond_valence", "ewald")
CELL_HEADER = ["a", "b", "c", "alpha", "beta", "gamma", "space_group_number"]
HEADER = ["id", "formula", "target", "split", "paper", *CELL_HEADER]

# id, formula, split, length a, space group, CIF. All cells are cubic.
MATERIALS = [
    ("alike", "LiCl", "train", 5.10, 225, 5.10),
    ("doped", "Li0.9Na0.1Cl", "train", 5.20, 225, 5.20),
    ("bromine", "LiBr", "train", 5.15, 225, 5.15),  # L1 distance to LiCl is 1
    ("large", "LiCl", "train", 5.60, 225, 5.60),
    ("other-group", "LiCl", "train", 5.14, 221, 5.14),
    ("held-out", "LiCl", "test", 5.14, 225, 5.14),
    ("no-li", "Li0.95Na0.05Cl", "train", 5.14, 225, "Na"),  # its CIF holds none
    ("no-cif", "Li0.95Na0.05Cl", "train", 5.14, 225, None),
    ("new", "LiCl", "test", 5.14, 225, None),
    ("no-cell", "LiCl", "train", None, None, None),
    ("far", "Na3PS4", "test", 5.14, 225, None),
    ("same-paper", "LiCl", "train", 5.14, 225, None),  # as "alike"
]
IDS = [material[0] for material in MATERIALS]
BORROWING = ("no-li", "no-cif", "new", "same-paper")


def cif_of(length: float | str) -> bytes:
    if length == "Na":
        return LICL.replace(b" Li ", b" Na ").replace(b"LiCl", b"NaCl")
    return LICL.replace(b"5.14", str(length).encode())


def write_dataset(folder: Path, materials: list[Any] = MATERIALS, shift: float = 1.0) -> None:
    (folder / "cifs").mkdir(exist_ok=True)
    with (folder / "mine.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(HEADER)
        for number, (name, formula, split, length, group, cif) in enumerate(materials):
            cell = [length] * 3 + [90] * 3 if length else [""] * 6
            paper = "alike" if name == "same-paper" else name
            writer.writerow([name, formula, number * shift + 1, split, paper, *cell, group or ""])
            if cif is not None:
                (folder / "cifs" / f"{name}.cif").write_bytes(cif_of(cif))


def spec_of(transfer: tuple[str, ...] = TRANSFERRED) -> CsvSpec:
    return CsvSpec.model_validate(
        {
            "dataset": "csv",
            "path": "mine.csv",
            "id": "id",
            "split": "split",
            "group": "paper",
            "cifs": "cifs",
            "families": FAMILY_NAMES,
            "transfer": transfer,
            "failed_structures": "use",  # of the row whose CIF has no Li
        }
    )


def build_in(folder: Path, spec: CsvSpec) -> FeatureTable:
    done = build(spec, data_dir=None, tables_dir=folder / "tables", base_dir=folder)
    return read(done.path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prototypes")
    write_dataset(folder)
    return folder


@pytest.fixture(scope="module")
def table(place: Path) -> FeatureTable:
    return build_in(place, spec_of())


@pytest.fixture(scope="module")
def plain(place: Path) -> FeatureTable:
    return build_in(place, spec_of(()))


def values_of(table: FeatureTable, name: str, family: str) -> dict[str, float]:
    row = table.ids.tolist().index(name)
    return {
        column.name: float(table.X[row, index])
        for index, column in enumerate(table.columns)
        if column.family == family
    }


def test_the_columns_come_last(table, plain):
    assert table.columns == (*plain.columns, *TRANSFER_COLUMNS) == spec_of().family_columns
    assert [column.name for column in TRANSFER_COLUMNS] == ["n_prototypes", "prototype_distance"]
    names = {name for family in FAMILIES.values() for name, _ in family.fields}
    assert not names & {column.name for column in TRANSFER_COLUMNS}
    assert "transfer" not in families()


@pytest.mark.parametrize(
    ("name", "donors", "distances"),
    [
        ("no-cif", ["alike", "doped"], [0.05, 0.05]),
        ("no-li", ["alike", "doped"], [0.05, 0.05]),
        ("new", ["alike", "doped"], [0.0, 0.1]),
        ("same-paper", ["alike", "doped"], [0.0, 0.1]),
    ],
)
def test_a_row_gets_the_mean_of_its_prototypes(table, plain, name, donors, distances):
    for family in TRANSFERRED:
        indicator = FAMILIES[family].indicator
        found = values_of(table, name, family)
        assert found.pop(indicator) == 0.0
        lent = [values_of(plain, donor, family) for donor in donors]
        assert all(own[indicator] == 1.0 for own in lent)
        assert any(found.values())
        for column, value in found.items():
            assert value == pytest.approx(np.mean([own[column] for own in lent]), abs=1e-9)
    assert values_of(table, name, "transfer") == pytest.approx(
        {"n_prototypes": len(donors), "prototype_distance": np.mean(distances)}
    )


def test_as_new_a_row_has_no_prototype_of_its_own_group(table, plain):
    row = IDS.index("same-paper")
    names = list(table.feature_names)
    for family in TRANSFERRED:
        lent = values_of(plain, "doped", family)
        lent.pop(FAMILIES[family].indicator)
        for column, value in lent.items():
            assert table.X_new[row, names.index(column)] == pytest.approx(value, abs=1e-9)
    assert table.X_new[row, -2:] == pytest.approx([1.0, 0.1])
    others = np.arange(len(IDS)) != row
    np.testing.assert_array_equal(table.X_new[others], table.X[others])
    assert not table.X_new.flags.writeable
    assert plain.X_new is plain.X
    # Held out, it is such a new row.
    position = table.train.ids.tolist().index("same-paper")
    outer = table.holding_out(np.array([position]))
    np.testing.assert_array_equal(outer.test.X[0], table.X_new[row])
    np.testing.assert_array_equal(outer.train.X, np.delete(table.train.X, position, axis=0))


def test_folds_of_whole_groups_validate_on_rows_as_new(table):
    def objective(scheme):
        cv, estimator = {"scheme": scheme, "folds": 2}, {"name": "extra_trees"}
        made = make_objective(make_spec(cv=cv, estimator=estimator, space={}, trials=1), table)
        assert isinstance(made, CrossValidation)
        return made

    np.testing.assert_array_equal(objective("group_kfold").X_new, table.train.X_new)
    np.testing.assert_array_equal(objective("interleaved").X_new, table.train.X)
    grouped = objective("group_kfold")
    found = predict_folds(grouped, {})
    row = table.train.ids.tolist().index("same-paper")
    (at,) = np.flatnonzero(found.rows == row)
    model = grouped.fit({}, grouped.folds[found.fold[at]].train)
    assert found.predicted[at] == model.predict(table.train.X_new[[row]])[0]


@pytest.mark.parametrize("name", ["no-cell", "far", "alike", "held-out", "bromine", "large"])
def test_rows_without_need_or_prototype_stay_as_they_are(table, plain, name):
    row = IDS.index(name)
    np.testing.assert_array_equal(table.X[row, :-2], plain.X[row])
    assert table.X[row, -2:].tolist() == [0.0, 0.0]


def test_the_table_says_from_whom_a_row_has_its_values(table):
    said = {
        (row.id, row.family): row.reason
        for row in table.partial
        if row.reason.startswith("borrowed")
    }
    assert set(said) == {(name, f) for name in BORROWING for f in TRANSFERRED}
    expected = "borrowed from alike (composition distance 0), doped (composition distance 0.1)"
    assert said["new", "ewald"] == expected
    assert table.manifest["spec"]["transfer"] == list(TRANSFERRED)
    # What was wrong with its own CIF is still there.
    reasons = [row.reason for row in table.partial if row.id == "no-li" and row.family == "ewald"]
    assert any("no Li" in reason for reason in reasons)


def test_targets_play_no_part(tmp_path, table):
    write_dataset(tmp_path, shift=7.0)
    other = build_in(tmp_path, spec_of())
    assert not np.array_equal(other.y, table.y)
    np.testing.assert_array_equal(other.X, table.X)


def test_the_order_of_rows_plays_no_part(tmp_path, table):
    write_dataset(tmp_path, MATERIALS[::-1])
    np.testing.assert_array_equal(build_in(tmp_path, spec_of()).X[::-1], table.X)


def test_a_held_out_row_is_no_prototype(tmp_path, table):
    moved = [(*m[:2], "train", *m[3:]) if m[0] == "held-out" else m for m in MATERIALS]
    write_dataset(tmp_path, moved)
    lent = build_in(tmp_path, spec_of())
    assert values_of(lent, "new", "transfer")["n_prototypes"] == 3.0
    assert values_of(table, "new", "transfer")["n_prototypes"] == 2.0


def test_building_again_reuses_and_another_transfer_does_not(place, table):
    again = build(spec_of(), data_dir=None, tables_dir=place / "tables", base_dir=place)
    assert (again.reused, again.hash) == (True, table.hash)
    fewer = build_in(place, spec_of(("ewald",)))
    assert fewer.hash != table.hash
    assert values_of(fewer, "new", "bond_valence") == dict.fromkeys(
        (name for name, _ in FAMILIES["bond_valence"].fields), 0.0
    )
    assert values_of(fewer, "new", "ewald") == values_of(table, "new", "ewald")


# Against the definition, said plainly ---------------------------------------------------------


def plain_borrow(
    X: np.ndarray, spec: CsvSpec, donor_X: np.ndarray, ids: list[str], groups=None, lent=None
) -> np.ndarray:
    names = [column.name for column in spec.family_columns]
    at = names.index
    smact = [at(f"smact_{symbol}") for symbol in ELEMENTS]
    found = np.hstack([X, np.zeros((len(X), 2))])
    for row, own in enumerate(X):
        used: dict[int, float] = {}
        for family in spec.transfer:
            indicator = at(FAMILIES[family].indicator)
            if own[indicator] == 1.0:
                continue
            near = []
            for donor, other in enumerate(donor_X):
                distance = float(np.abs(own[smact] - other[smact]).sum())
                if (
                    other[indicator] == 1.0
                    and (groups is None or lent is None or groups[row] != lent[donor])
                    and other[at("space_group_number")] == own[at("space_group_number")]
                    and all(
                        abs(own[at(f"lattice_{n}")] - other[at(f"lattice_{n}")])
                        <= 0.06 * own[at(f"lattice_{n}")]
                        for n in "abc"
                    )
                    and distance < 0.6
                ):
                    near.append((round(distance, 9), ids[donor], donor))
            near = sorted(near)[:3]
            used |= {donor: distance for distance, _, donor in near}
            for index, column in enumerate(spec.family_columns):
                if near and column.family == family and index != indicator:
                    found[row, index] = np.mean([donor_X[donor, index] for *_, donor in near])
        if used:
            found[row, -2:] = len(used), np.mean(list(used.values()))
    return found


def made_up(rng: np.random.Generator, n_rows: int, spec: CsvSpec) -> np.ndarray:
    X = rng.normal(size=(n_rows, len(spec.family_columns) - 2))
    for index, column in enumerate(spec.family_columns[:-2]):
        if column.name in {"lattice_a", "lattice_b", "lattice_c"}:
            X[:, index] = rng.uniform(5.0, 5.8, n_rows)
        elif column.name == "space_group_number":
            X[:, index] = np.where(rng.random(n_rows) < 0.1, np.nan, rng.integers(1, 4, n_rows))
        elif column.family == "smact":
            X[:, index] = 0.0
        elif column.name.startswith("has_"):
            X[:, index] = rng.random(n_rows) < 0.5
    lithium = [column.name for column in spec.family_columns].index("smact_Li")
    X[:, lithium : lithium + 4] = rng.dirichlet(np.ones(4), n_rows).round(1)
    X[rng.random(n_rows) < 0.05, lithium - 2 : lithium + 101] = np.nan  # an unknown element
    return np.round(X, 9)


def test_borrowing_is_what_its_definition_says():
    spec = spec_of()
    rng = np.random.default_rng(3)
    donors, rows = made_up(rng, 60, spec), made_up(rng, 90, spec)
    ids = [f"d{n}" for n in rng.permutation(60)]
    found = borrow(rows, spec, donors, ids)
    np.testing.assert_allclose(found.X, plain_borrow(rows, spec, donors, ids), atol=2e-9)
    groups, lent = (np.array([f"g{n}" for n in rng.integers(0, 4, k)]) for k in (90, 60))
    apart = borrow(rows, spec, donors, ids, groups=groups, donor_groups=lent)
    expected = plain_borrow(rows, spec, donors, ids, groups, lent)
    np.testing.assert_allclose(apart.X, expected, atol=2e-9)
    assert apart.X[:, -2].sum() < found.X[:, -2].sum()
    count = found.X[:, -2]
    assert set(count.tolist()) >= {0.0, 1.0, 2.0, 3.0, 4.0}  # up to three for each of two families
    # Donors may be given after they have borrowed themselves.
    lent = borrow(donors, spec, donors, ids).X
    np.testing.assert_array_equal(borrow(rows, spec, lent, ids).X, found.X)


def test_no_rows_borrow_nothing():
    spec = spec_of()
    donors = made_up(np.random.default_rng(0), 5, spec)
    assert borrow(donors[:0], spec, donors, list("abcde")).X.shape == (0, len(spec.family_columns))
    found = borrow(donors, spec, donors[:0], [])
    assert not found.X[:, -2:].any()
    assert found.reasons == {"bond_valence": {}, "ewald": {}}


# Candidates -----------------------------------------------------------------------------------


def write_candidates(path: Path) -> None:
    cell = "5.14,5.14,5.14,90,90,90,225"
    path.write_text(
        "formula,a,b,c,alpha,beta,gamma,space_group_number,cif\n"
        f"LiCl,{cell},\nQq,{cell},\nLiCl,{cell},cifs/held-out.cif\nLiCl,,,,,,,,\n"
        f"Li0.95Na0.05Cl,{cell},cifs/no-li.cif\nNa3PS4,{cell},\n"
    )


def test_candidates_borrow_as_the_tables_rows_do(place, table):
    write_candidates(place / "new.csv")
    lines: list[str] = []
    found = read_candidates(place / "new.csv", spec_of(), log=lines.append, table=table)
    assert found.usable.tolist() == [0, 2, 3, 4, 5]
    like = [IDS.index(name) for name in ("new", "held-out", "no-cell", "no-li", "far")]
    np.testing.assert_array_equal(found.X, table.X[like])
    for family in TRANSFERRED:
        assert found.lacking[family].tolist() == [False, False, True, False, True]
        assert found.remarks[0, family].startswith("borrowed from alike")
    assert "transfer: rows that borrow: bond_valence 2, ewald 2" in lines


def test_candidates_need_the_table_to_borrow_from(place, table, plain):
    write_candidates(place / "new.csv")
    for given in (None, plain):
        with pytest.raises(TableError, match=r"borrow bond_valence, ewald .* give that table"):
            read_candidates(place / "new.csv", spec_of(), table=given)


def test_a_row_that_its_own_paper_alone_helps_borrows_the_same_again(tmp_path):
    write_dataset(tmp_path, [m for m in MATERIALS if m[0] in ("alike", "same-paper", "far")])
    table = build_in(tmp_path, spec_of())
    helped = table.ids.tolist().index("same-paper")
    own = [c.family in TRANSFERRED for c in table.columns]
    assert table.X[helped][own].any()
    assert not table.X_new[helped][own].any()
    assert changed_families(table, spec_of()) == []


def test_a_table_that_would_borrow_otherwise_now_is_found(table, monkeypatch):
    assert changed_families(table, spec_of()) == []
    monkeypatch.setattr("features.tables.transfer.MAX_PROTOTYPES", 1)
    assert changed_families(table, spec_of()) == ["transfer"]


# Specs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "transfer", "message"),
    [
        (("lattice", "smact"), ("ewald",), "'ewald' is none of `families`"),
        (("lattice", "smact", "cell_shape"), ("cell_shape",), "cannot be borrowed.*li_voronoi"),
        (("lattice", "smact", "physics_report"), ("physics_report",), "cannot be borrowed"),
        (("lattice", "smact"), ("smact",), "cannot be borrowed"),
        (("lattice", "smact", "ewald"), ("ewald", "ewald"), "listed twice"),
        (("smact", "ewald"), ("ewald",), "needs lattice, too; add it"),
        (("ewald",), ("ewald",), "needs lattice and smact, too; add them"),
    ],
)
def test_a_transfer_that_makes_no_sense_is_refused(names, transfer, message):
    with pytest.raises(ValidationError, match=message):
        ObelixSpec(dataset="obelix", families=names, transfer=transfer)


# The whole of it ------------------------------------------------------------------------------

STUDY = """
trials = 2
[table]
dataset = "csv"
path = "mine.csv"
id = "id"
split = "split"
cifs = "cifs"
families = ["lattice", "smact", "bond_valence", "ewald", "ratios"]
transfer = ["bond_valence", "ewald"]
[cv]
scheme = "kfold"
folds = 3
[estimator]
name = "hist_gradient_boosting"
params = { min_samples_leaf = 2 }
[space]
max_iter = { type = "int", low = 3, high = 5 }
"""


def many() -> list[Any]:
    """Thirty materials, of which every third has no CIF."""
    return [
        (f"m{n}", f"Li{1 - n / 100}Na{n / 100}Cl", "train" if n < 24 else "test", length, 225)
        + ((length,) if n % 3 else (None,))
        for n, length in enumerate(5.0 + np.arange(30) / 100)
    ]


@pytest.mark.slow
def test_a_study_is_run_and_ranks(hpo: Callable[..., Any], tmp_path: Path) -> None:
    write_dataset(tmp_path, many(), shift=0.5)
    (tmp_path / "mine.toml").write_text(STUDY)
    hpo("check", "mine.toml")
    built = hpo("features", "build", "mine.toml").stdout
    assert "bond_valence: mine.csv line 2 (m0): borrowed from m1 (composition distance" in built
    (folder,) = (tmp_path / "tables").glob("csv-*")
    shown = hpo("features", "show", str(folder)).stdout
    assert "  transfer: 2 features\n" in shown
    hpo("run", "mine.toml", "--workers", "1")
    cell = "5.1,5.1,5.1,90,90,90,225"
    (tmp_path / "new.csv").write_text(
        "formula,a,b,c,alpha,beta,gamma,space_group_number,cif\n"
        f"Li0.9Na0.1Cl,{cell},\nLi0.9Na0.1Cl,{cell},cifs/m10.cif\n"
    )
    said = hpo("rank", "mine", "new.csv").stderr
    assert "transfer: rows that borrow: bond_valence 1, ewald 1" in said
    with (tmp_path / "mine_ranked.csv").open(encoding="utf-8", newline="") as handle:
        ranked = list(csv.DictReader(handle))
    assert [row["reason"] for row in ranked] == ["", ""]
    assert all(row["rank"] for row in ranked)


def test_a_model_may_leave_the_transfer_out() -> None:
    raw: dict[str, Any] = {
        "name": "gate",
        "trials": 1,
        "table": {
            "dataset": "obelix",
            "families": ["lattice", "smact", "ewald"],
            "transfer": ["ewald"],
        },
        "cv": {"scheme": "kfold", "folds": 3},
        "estimator": {
            "name": "gated",
            "gate": ["has_li_site_energy"],
            "base": {"name": "ridge", "without": ["ewald", "transfer"]},
            "second": {"name": "ridge"},
        },
        "space": {"second.alpha": {"type": "float", "low": 0.1, "high": 1.0}},
    }
    spec = validate(raw, "test")
    assert [column.name for column in expected_columns(spec)][-2:] == [
        "n_prototypes",
        "prototype_distance",
    ]
    check_estimator(spec, expected_columns(spec))
    raw["table"]["transfer"] = []
    spec = validate(raw, "test")
    with pytest.raises(SpecError, match="no family 'transfer'"):
        check_estimator(spec, expected_columns(spec))
