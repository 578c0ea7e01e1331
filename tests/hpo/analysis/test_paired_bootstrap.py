"""Paired differences: the same numbers as by hand, resample by resample."""

from __future__ import annotations

import numpy as np
import pytest

import hpo.analysis.paired_bootstrap
from hpo.analysis.paired_bootstrap import paired_differences, resample_counts, score_resamples
from hpo.objectives.metrics import METRICS, score_all


def draw(n_rows=40, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=n_rows).round(1)  # with ties
    noise = rng.normal(size=(n_rows, 3))
    return y, (y[:, None] + noise * [0.2, 0.5, 2.0]).round(1), np.arange(n_rows).astype(str)


@pytest.mark.parametrize("by_group", [False, True])
def test_every_resample_is_scored_as_if_it_were_written_out(by_group):
    y, predicted, _ = draw()
    groups = (np.arange(40) // 3).astype(str) if by_group else None
    (counts,) = resample_counts(40, groups, 50, seed=1)
    found = score_resamples(y, predicted, counts)
    for b, of_resample in enumerate(counts):
        rows = np.repeat(np.arange(40), of_resample)
        for k in range(3):
            expected = score_all(y[rows], predicted[rows, k])
            assert {name: found[name][b, k] for name in METRICS} == pytest.approx(expected)


def test_rows_and_groups_are_drawn_as_often_as_there_are():
    groups = np.array(["a", "b", "b", "c", "c", "c"])
    (by_row,) = resample_counts(6, None, 500, seed=0)
    (by_group,) = resample_counts(6, groups, 500, seed=0)
    assert (by_row.sum(axis=1) == 6).all()
    assert (by_group[:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert (by_group[:, 3] == by_group[:, 5]).all()
    assert by_row.mean(axis=0) == pytest.approx(np.ones(6), abs=0.2)


def test_undefined_scores_are_what_the_metrics_say():
    y = np.array([1.0, 1.0, 2.0])
    predicted = np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]])
    counts = np.array([[2, 1, 0], [1, 1, 1]])
    found = score_resamples(y, predicted, counts)
    assert np.isnan(found["r2"][0]).all()
    assert np.isnan(found["spearman"][0]).all()
    assert found["spearman"][1] == pytest.approx([0.0, METRICS["spearman"](y, predicted[:, 1])])


def test_differences_are_plain_and_intervals_those_of_the_resamples(monkeypatch):
    y, predicted, rows = draw()
    groups = (np.arange(40) // 4).astype(str)
    near, far = paired_differences(y, predicted[:, 0], predicted.T[1:], groups)
    first = score_all(y, predicted[:, 0])
    for k, found in ((1, near), (2, far)):
        for name, score in score_all(y, predicted[:, k]).items():
            assert found[name].value == pytest.approx(score - first[name])
            for low, high in (found[name].row, found[name].group):
                assert low < found[name].value < high
    assert far["rmse"].row[0] > 0 > far["r2"].row[1]
    (counts,) = resample_counts(40, None, 2000, seed=0)
    scores = score_resamples(y, predicted, counts)["mae"]
    expected = np.quantile(scores[:, 2] - scores[:, 0], [0.025, 0.975])
    assert far["mae"].row == pytest.approx(expected)
    # With every row a group of its own, groups are rows.
    (same, _) = paired_differences(y, predicted[:, 0], predicted.T[1:], rows)
    assert same["r2"].row == near["r2"].row
    assert np.subtract(*same["r2"].group) == pytest.approx(np.subtract(*same["r2"].row), rel=0.2)
    # Neither the batches nor the company of others change a difference.
    monkeypatch.setattr(hpo.analysis.paired_bootstrap, "CHUNK_CELLS", 40 * 2000)
    (alone,) = paired_differences(y, predicted[:, 0], [predicted[:, 2]], groups)
    for name, one in alone.items():
        assert one.group == pytest.approx(far[name].group)


def test_pairing_cancels_what_is_hard_for_all():
    rng = np.random.default_rng(0)
    y, hard = rng.normal(size=300), 3.0 * rng.normal(size=300)
    one, other = (y + hard + 0.1 * rng.normal(size=300) for _ in range(2))
    (found,) = paired_differences(y, one, [other], np.arange(300).astype(str))
    alone = [METRICS["rmse"](y[rows], one[rows]) for rows in rng.integers(0, 300, (300, 300))]
    assert np.ptp(found["rmse"].row) < 0.2 * np.ptp(np.quantile(alone, [0.025, 0.975]))
