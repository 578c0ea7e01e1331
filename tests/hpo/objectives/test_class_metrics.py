"""Metrics of classes against scikit-learn's, over random data."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.preprocessing import label_binarize

from hpo.analysis.bootstrap import bootstrap_intervals
from hpo.objectives.class_metrics import CLASS_METRICS, LABEL_METRICS

# Shares of the classes, and to how many decimals their probabilities are known.
KINDS: dict[str, tuple[list[float], int]] = {
    "binary": ([0.5, 0.5], 16),
    "with ties": ([0.5, 0.5], 1),
    "three classes": ([0.2, 0.5, 0.3], 16),
    "five classes with ties": ([0.2] * 5, 1),
    "a class that is rare": ([0.6, 0.38, 0.02], 16),
}


def draw(kind, seed, n_rows=80):
    shares, decimals = KINDS[kind]
    n_classes = len(shares)
    rng = np.random.default_rng(seed)
    y = rng.choice(n_classes, n_rows, p=shares)
    y[:n_classes] = np.arange(n_classes)
    raw = rng.random((n_rows, n_classes)) + 0.8 * np.eye(n_classes)[y] + 1e-3
    proba = np.round(raw / raw.sum(axis=1, keepdims=True), decimals)
    proba[:, -1] = 1.0 - proba[:, :-1].sum(axis=1)
    return y, np.clip(proba, 0.0, 1.0), rng.random(n_rows)


def expected(name, y, proba, weights):
    """What scikit-learn says."""
    labels, binary = np.arange(proba.shape[1]), proba.shape[1] == 2
    predicted, positive = proba.argmax(axis=1), proba[:, 1] if binary else proba
    if name == "f1_macro":
        return sk.f1_score(y, predicted, average="macro", sample_weight=weights)
    if name in LABEL_METRICS:
        function = getattr(sk, f"{name}_score", None) or getattr(sk, name)
        return function(y, predicted, sample_weight=weights)
    if name == "log_loss":
        return sk.log_loss(y, proba, labels=labels, sample_weight=weights)
    if name == "brier_score":
        return sk.brier_score_loss(y, positive, labels=labels, sample_weight=weights)
    if name == "roc_auc" and not binary:  # scikit-learn weighs no rows of several classes here
        return np.mean(
            [sk.roc_auc_score(y == k, proba[:, k], sample_weight=weights) for k in labels]
        )
    actual = y if binary else label_binarize(y, classes=labels)
    return getattr(sk, f"{name}_score")(actual, positive, sample_weight=weights)


@pytest.mark.parametrize("name", CLASS_METRICS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:The y_prob values do not sum")
def test_every_metric_is_scikit_learns(kind, name):
    for seed in range(5):
        y, proba, weights = draw(kind, seed)
        ours = CLASS_METRICS[name]
        plain = expected(name, y, proba, None)
        assert ours(y.astype(float), proba) == pytest.approx(plain, rel=1e-12, abs=1e-12)
        weighed = ours.of_resamples(y.astype(float), proba, weights[None])[0]
        assert weighed == pytest.approx(expected(name, y, proba, weights), rel=1e-10)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_what_is_undefined_without_a_class_is_nan(n_classes):
    proba = np.full((6, n_classes), 1.0 / n_classes)
    found = {name: metric(np.zeros(6), proba) for name, metric in CLASS_METRICS.items()}
    undefined = {name for name, value in found.items() if np.isnan(value)}
    assert undefined == {"roc_auc", "average_precision"}
    assert found["accuracy"] == found["balanced_accuracy"] == 1.0
    assert found["matthews_corrcoef"] == 0.0


@pytest.mark.parametrize("kind", ["binary", "three classes"])
def test_of_resamples_is_each_resample_written_out(kind):
    y, proba, _ = draw(kind, 0)
    rows = np.random.default_rng(0).integers(0, len(y), (20, len(y)))
    counts = np.array([np.bincount(drawn, minlength=len(y)) for drawn in rows])
    for metric in CLASS_METRICS.values():
        found = metric.of_resamples(y.astype(float), proba, counts)
        each = [metric(y[drawn].astype(float), proba[drawn]) for drawn in rows]
        assert found == pytest.approx(each, rel=1e-12, nan_ok=True)


def test_intervals_hold_the_scores_and_groups_widen_them():
    y, proba, _ = draw("binary", 1, n_rows=300)
    y, proba = np.repeat(y, 4).astype(float), np.repeat(proba, 4, axis=0)
    groups = np.repeat(np.arange(300), 4).astype(str)
    by_row = bootstrap_intervals(y, proba, metrics=CLASS_METRICS, n_resamples=300)
    by_group = bootstrap_intervals(y, proba, groups, metrics=CLASS_METRICS, n_resamples=300)
    for name, metric in CLASS_METRICS.items():
        for low, high in (by_row[name], by_group[name]):
            assert low < metric(y, proba) < high
        assert np.ptp(by_group[name]) > 1.5 * np.ptp(by_row[name])
