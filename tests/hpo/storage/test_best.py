"""The best trials are Optuna's own: of one score and of several, with constraints and without."""

from __future__ import annotations

import itertools
import math

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from hpo.records import Access
from hpo.storage.backends import open_storage
from hpo.storage.best import (
    front_places,
    hypervolume,
    read_best_trials,
    read_constraints,
    read_front,
    worst,
)

# Few numbers, so that many are equal.
NUMBERS = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0])
DIRECTIONS = st.lists(st.sampled_from(list(StudyDirection)[1:]), min_size=1, max_size=3)


@st.composite
def studies(draw):
    directions = draw(DIRECTIONS)
    values = st.lists(
        NUMBERS | st.sampled_from([math.inf, -math.inf]),
        min_size=len(directions),
        max_size=len(directions),
    )
    constraints = st.dictionaries(st.sampled_from(["a", "b"]), NUMBERS)
    ended = st.tuples(st.just(TrialState.COMPLETE), values, constraints)
    failed = st.tuples(st.just(TrialState.FAIL), st.none(), constraints)
    return directions, draw(st.lists(ended | failed, max_size=12))


@settings(max_examples=40, deadline=None)
@given(drawn=st.lists(studies(), min_size=1, max_size=3))
def test_the_best_trials_are_those_of_optuna(url_once, drawn):
    storage = open_storage(url_once, Access.CREATE)
    for directions, trials in drawn:
        study = optuna.create_study(storage=storage, directions=directions)
        study.add_trials(
            [
                create_trial(state=state, values=values, constraints=constraints)
                for state, values, constraints in trials
            ]
        )
        study_id = study._study_id
        with storage.read() as c:
            best, constraints = read_best_trials(c, study_id), read_constraints(c, study_id)
            front = read_front(c, study_id)
        by_id = {trial._trial_id: trial for trial in study.trials}
        told = [by_id[trial_id].number for trial_id in best]
        assert {i: t.constraints for i, t in by_id.items() if t.constraints} == dict(constraints)
        if len(directions) > 1:
            assert sorted(told) == sorted(trial.number for trial in study.best_trials)
            assert (front.numbers if front else ()) == tuple(told)
            continue
        try:
            expected = study.best_trial
        except ValueError:
            assert told == []
        else:
            assert by_id[best[0]].values == expected.values
            # Of equal ones the first.
            alike = [t for t in study.trials if t.values == expected.values]
            assert told == [
                next(t.number for t in alike if all(v <= 0 for v in t.constraints.values()))
            ]


@pytest.fixture(scope="module")
def url_once(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('best') / 'hpo.db'}"


def test_constraints_of_optunas_earlier_versions_are_read(url):
    storage = open_storage(url, Access.CREATE)
    study = optuna.create_study(storage=storage, directions=["minimize"])
    old = [([-1.0, 0.0], 2.0), ([1.0, -3.0], 1.0), ([0.0, 0.0], 3.0)]
    for violations, value in old:
        study.add_trial(create_trial(value=value, system_attrs={"constraints": violations}))
    with storage.read() as c:
        assert read_best_trials(c, study._study_id) == [study.trials[0]._trial_id]
    assert study.best_trial.number == 0
    storage.engine.dispose()


@given(
    values=st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=20),
    directions=st.lists(st.sampled_from(list(StudyDirection)[1:]), min_size=3, max_size=3),
)
def test_what_is_on_the_front_is_dominated_by_nothing(values, directions):
    losses = np.array(values) * [1 if d is StudyDirection.MINIMIZE else -1 for d in directions]
    dominated = [
        any((other <= one).all() and (other < one).any() for other in losses) for one in losses
    ]
    places = front_places(np.array(values), directions)
    assert sorted(places) == [place for place, lost in enumerate(dominated) if not lost]
    firsts = [losses[place][0] for place in places]
    assert firsts == sorted(firsts)


@given(values=st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=8))
def test_the_hypervolume_is_the_area_between_front_and_reference(values):
    directions = [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE]
    reference = worst(np.array(values), directions)
    assert reference.tolist() == [max(x for x, _ in values), min(y for _, y in values)]
    # Cells between all coordinates, each of which some trial reaches beyond or none does.
    xs, ys = sorted({x for x, _ in values}), sorted({y for _, y in values})
    area = sum(
        (right - left) * (upper - lower)
        for left, right in itertools.pairwise(xs)
        for lower, upper in itertools.pairwise(ys)
        if any(x <= left and y >= upper for x, y in values)
    )
    assert hypervolume(values, reference, directions) == pytest.approx(area)


def test_a_trial_beyond_the_reference_point_counts_nothing():
    directions = [StudyDirection.MINIMIZE] * 2
    assert hypervolume([(0.0, 0.0), (9.0, -9.0)], (1.0, 1.0), directions) == 1.0
    assert worst(np.array([(1.0, math.inf), (2.0, 0.0)]), directions).tolist() == [2.0, 0.0]
