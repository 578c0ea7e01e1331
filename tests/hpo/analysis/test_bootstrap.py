"""Bootstrap: the same numbers as by hand, resample by resample, and what an interval promises."""

from __future__ import annotations

import numpy as np
import pytest

import hpo.analysis.bootstrap
from hpo.analysis.bootstrap import (
    bootstrap_intervals,
    paired_differences,
    resample_counts,
    score_resamples,
)
from hpo.objectives.metrics import METRICS, mae, quantile_metrics, score_all

RNG = np.random.default_rng(3)
Y = RNG.normal(size=50)
PREDICTED = np.round(Y + RNG.normal(size=50), 1)  # with ties


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
    monkeypatch.setattr(hpo.analysis.bootstrap, "CHUNK_CELLS", 40 * 2000)
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


# Intervals of scores ----------------------------------------------------------------------------


@pytest.mark.parametrize("by_group", [False, True])
def test_intervals_are_those_of_drawing_one_resample_after_the_other(by_group):
    group_of_row = RNG.permutation(50) // 4 if by_group else np.arange(50)
    members = [np.flatnonzero(group_of_row == g) for g in range(group_of_row.max() + 1)]
    metrics = {**quantile_metrics(0.9), "worst": lambda y, p: float(np.max(np.abs(y - p)))}
    stream, scores = np.random.default_rng(7), []
    for _ in range(200):
        drawn = stream.integers(0, len(members), len(members))
        rows = np.concatenate([members[g] for g in drawn])
        scores.append(score_all(Y[rows], PREDICTED[rows], metrics))
    # Named so that their order is that of the numbers.
    groups = np.char.zfill(group_of_row.astype(str), 2) if by_group else None
    found = bootstrap_intervals(Y, PREDICTED, groups, n_resamples=200, seed=7, metrics=metrics)
    for name in metrics:
        expected = np.quantile([of_one[name] for of_one in scores], [0.025, 0.975])
        assert found[name] == pytest.approx(expected, rel=1e-12)


def test_a_metric_is_known_by_what_it_computes_not_by_its_name():
    renamed = bootstrap_intervals(Y, PREDICTED, n_resamples=50, metrics={"rmse": mae})
    usual = bootstrap_intervals(Y, PREDICTED, n_resamples=50)
    assert renamed["rmse"] == pytest.approx(usual["mae"])


def test_resamples_without_a_score_are_left_out():
    y = np.array([1.0, 1.0, 1.0, 2.0])
    found = bootstrap_intervals(y, y + np.arange(4.0) / 10.0, n_resamples=200)
    assert np.isfinite(list(found.values())).all()
    nothing = bootstrap_intervals(np.ones(4), np.arange(4.0), n_resamples=20)
    assert np.isnan([nothing["r2"], nothing["spearman"]]).all()


def test_intervals_hold_the_score_and_shrink_with_the_level():
    wide = bootstrap_intervals(Y, PREDICTED, level=0.95, n_resamples=500)
    narrow = bootstrap_intervals(Y, PREDICTED, level=0.5, n_resamples=500)
    for name, value in score_all(Y, PREDICTED).items():
        assert wide[name][0] < value < wide[name][1]
        assert wide[name][0] < narrow[name][0] < narrow[name][1] < wide[name][1]


def test_drawing_whole_groups_of_equal_rows_widens_the_interval():
    y, predicted = np.repeat(Y, 8), np.repeat(PREDICTED, 8)
    groups = np.repeat([f"g{i}" for i in range(50)], 8)
    by_row = bootstrap_intervals(y, predicted, n_resamples=500)["r2"]
    by_group = bootstrap_intervals(y, predicted, groups, n_resamples=500)["r2"]
    assert by_group[1] - by_group[0] > 2 * (by_row[1] - by_row[0])


def test_the_interval_of_a_mean_error_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for repetition in range(100):
        errors = rng.normal(size=80)
        low, high = bootstrap_intervals(errors, np.zeros(80), n_resamples=200, seed=repetition)[
            "mae"
        ]
        covered += low <= np.sqrt(2 / np.pi) <= high
    assert 85 <= covered <= 100


def test_every_metric_has_an_interval():
    assert bootstrap_intervals(Y, PREDICTED, n_resamples=10).keys() == METRICS.keys()
    metrics = quantile_metrics(0.9)
    assert bootstrap_intervals(Y, PREDICTED, n_resamples=10, metrics=metrics).keys() == {
        "pinball",
        "coverage",
        *METRICS,
    }
