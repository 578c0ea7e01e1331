"""Molecules, noise, screening and selection of saddle searches."""

from __future__ import annotations

import numpy as np
import pytest

from hpo.errors import ObjectiveError
from studies.saddle import screening
from studies.saddle.geometries import G2Source, Transition1xSource, XyzSource, read_molecules
from studies.saddle.objective import SaddleSearch
from studies.saddle.samples import divide_molecules, hash_samples, make_samples
from studies.saddle.screening import Screened, select
from tests.support.saddle import PARAMS, installed, prepared


def test_g2_molecules_are_those_that_were_asked_for(ase):
    found = read_molecules(G2Source(source="g2", elements=("H", "O"), min_atoms=3, max_atoms=4))
    assert [molecule.name for molecule in found] == ["H2O", "H2O2", "O3"]
    assert found[0].masses[0] == pytest.approx(15.999)
    with pytest.raises(ObjectiveError, match="no molecule of Li alone with 3 to 9 atoms"):
        read_molecules(G2Source(source="g2", elements=("Li",)))


def test_xyz_folders_are_read_in_the_order_of_their_names(ase, tmp_path):
    for name, distance in (("b", 0.8), ("a", 0.7)):
        (tmp_path / f"{name}.xyz").write_text(f"2\n\nH 0 0 0\nH 0 0 {distance}\n")
    source = XyzSource(source="xyz", folder=tmp_path, min_atoms=2)
    assert [(m.name, m.positions[1, 2]) for m in read_molecules(source)] == [("a", 0.7), ("b", 0.8)]
    (tmp_path / "c.xyz").write_text("2\n\nH 0 0 0\n")
    with pytest.raises(ObjectiveError, match=r"c\.xyz: cannot be read as XYZ"):
        read_molecules(source)
    with pytest.raises(ObjectiveError, match=r"no \*\.xyz files"):
        read_molecules(XyzSource(source="xyz", folder=tmp_path / "none"))


def test_transition1x_files_are_read_by_split_and_state(ase, tmp_path):
    installed("h5py", "saddle")
    import h5py

    path, numbers = tmp_path / "t1x.h5", np.array([8, 1, 1])
    with h5py.File(path, "w") as handle:
        for k, reaction in enumerate(("rxn0", "rxn1")):
            group = handle.create_group(f"train/H2O/{reaction}")
            group["atomic_numbers"] = numbers
            group["positions"] = np.zeros((7, 3, 3))
            state = group.create_group("transition_state")
            state["atomic_numbers"] = numbers
            state["positions"] = np.full((1, 3, 3), float(k))
            group.create_group("product")["positions"] = np.full((1, 3, 3), 9.0)
    source = Transition1xSource(source="transition1x", file=path)
    found = read_molecules(source)
    assert [m.name for m in found] == ["H2O/rxn0", "H2O/rxn1"]
    assert found[1].positions.tolist() == np.ones((3, 3)).tolist()
    products = read_molecules(source.model_copy(update={"state": "product"}))
    assert products[0].positions[0, 0] == 9.0
    with pytest.raises(ObjectiveError, match=r"has no split 'val' \(it has train\)"):
        read_molecules(source.model_copy(update={"split": "val"}))
    with pytest.raises(ObjectiveError, match="reactant"):
        read_molecules(source.model_copy(update={"state": "reactant"}))
    with pytest.raises(ObjectiveError, match="cannot be read"):
        read_molecules(source.model_copy(update={"file": tmp_path / "none.h5"}))


def test_noise_depends_on_seed_and_molecule_alone(ase):
    molecules = read_molecules(G2Source(source="g2"))
    all_of_them = make_samples(molecules, [0, 7], 0.3)
    assert [s.name for s in all_of_them[:2]] == [f"{m.name} 0" for m in molecules[:2]]
    some = make_samples(molecules[3:5], [7], 0.3)
    np.testing.assert_array_equal(some[0].start, all_of_them[len(molecules) + 3].start)
    noise = np.concatenate([(s.start - s.molecule.positions).ravel() for s in all_of_them])
    assert np.std(noise) == pytest.approx(0.3, rel=0.05)
    assert hash_samples(some) == hash_samples(make_samples(molecules[3:5], [7], 0.3))
    assert hash_samples(some) != hash_samples(make_samples(molecules[3:5], [8], 0.3))


def test_molecules_held_out_stay_held_out_when_others_come(ase):
    molecules = read_molecules(G2Source(source="g2"))
    tuning, held_out = divide_molecules(molecules, 0.4)
    assert len(held_out) == round(0.4 * len(molecules))
    assert {m.name for m in tuning} | {m.name for m in held_out} == {m.name for m in molecules}
    more, _ = divide_molecules(molecules, 0.2)
    assert {m.name for m in tuning} < {m.name for m in more}


def test_the_hardest_share_is_selected_and_some_easy_samples_are_watched():
    steps = [5, None, 90, 20, None, 0, 40, 60]
    screened = [
        Screened(str(k), converged=n is not None, steps=100 if n is None else n)
        for k, n in enumerate(steps)
    ]
    assert [row.difficulty for row in screened] == [5, 1000, 90, 20, 1000, 0, 40, 60]
    found = select(screened, 0.5, 3, 2, 100)
    assert found.hard == (1, 4, 2)
    assert found.watched == (5, 6)
    # What takes longer than a trial's searches may would be a regression of the steps alone.
    assert select(screened, 0.25, 3, 9, 45).watched == (5, 0, 3, 6)
    assert select(screened[1:2], 0.5, 3, 2, 100).hard == (0,)


def test_what_a_calculator_has_no_answer_for_is_left_out_and_said(scine, tmp_path, caplog):
    geometries = {"source": "g2", "elements": ["C", "H"], "min_atoms": 4, "max_atoms": 5}
    radicals = prepared(tmp_path, geometries={**geometries, "radicals": True}, held_out=0.0)
    reasons = {row.name: row.reason for row in radicals.screened}
    assert "spin multiplicity" in reasons["CH3 0"]
    assert not reasons["CH4 0"]
    assert "sample CH3 0 is left out" in caplog.text
    assert not any("CH3 " in part for part in radicals.parts)
    closed = prepared(tmp_path, geometries=geometries, held_out=0.0)
    assert closed.parts == radicals.parts
    with pytest.raises(ObjectiveError, match="no answer for any sample; for x: why"):
        select([Screened("x", converged=False, steps=0, reason="why")], 0.5, 3, 2, 100)


def test_a_screening_goes_on_where_it_was_and_again_where_it_is_damaged(
    objective, tmp_path, monkeypatch
):
    files = sorted(tmp_path.glob("*.json"))
    assert len(files) == len(objective.pool) == len(objective.screened)
    files[0].write_text(files[0].read_text()[:10])
    files[1].unlink()
    screened: list[str] = []
    screen_one = screening._screen_one

    def count(sample, *others):
        screened.append(sample.name)
        return screen_one(sample, *others)

    monkeypatch.setattr(screening, "_screen_one", count)
    assert prepared(tmp_path).parts == objective.parts
    assert len(screened) == 2
    assert prepared(tmp_path).parts == objective.parts
    assert len(screened) == 2
    # Where searches begin, or how long they are, is another screening.
    prepared(tmp_path, noise_angstrom=0.5)
    prepared(tmp_path, screening_steps=10)
    assert len(screened) == 2 + 2 * len(files)


def test_nothing_is_screened_to_know_what_a_study_is(objective, monkeypatch):
    def never(*_):
        raise AssertionError("screened")

    monkeypatch.setattr(screening, "_screen_one", never)
    begun = SaddleSearch(None, seed=1, **PARAMS)
    assert begun.splits_hash == objective.splits_hash
    assert not begun.screened
    for changed in ({"noise_angstrom": 0.5}, {"n_samples": 2}, {"screening_steps": 10}):
        assert SaddleSearch(None, seed=1, **{**PARAMS, **changed}).splits_hash != begun.splits_hash


def test_progress_is_told_after_each_sample(scine, tmp_path):
    told: list[tuple[int, int]] = []
    objective = SaddleSearch(None, seed=1, **PARAMS)
    objective.prepare(tmp_path, lambda done, total: told.append((done, total)))
    n = len(objective.pool)
    assert told == [(k + 1, n) for k in range(n)]


def test_parts_are_samples_and_the_default_settings_repeat_their_screening(objective):
    assert len(objective.parts) == objective.n_hard + 2 == 5
    assert [part.startswith("watched ") for part in objective.parts] == [False] * 3 + [True] * 2
    by_name = {row.name: row for row in objective.screened}
    parts = [objective.score_part({}, k) for k in range(5)]
    for sample, part in zip(objective.samples, parts, strict=True):
        assert part["converged"] == by_name[sample.name].converged
        assert part["steps"] == by_name[sample.name].steps
    assert all(part["converged"] and part["score"] == 0.0 for part in parts[3:])
    total = objective.combine(parts)
    assert total["regressions"] == 0
    assert total["watched_rate"] == 1.0
    # The baseline is these very settings.
    assert [objective.score_part(objective.baseline, k) for k in range(5)] == parts
    (figure,) = objective.figures({}, parts).values()
    default, shown = figure.data[:2]
    assert default.x == shown.x
    assert len(shown.y) == 5
    assert set(total) >= set(objective.totals)
