"""Which structures of OBELiX fail a check, and what does leaving them out do to grouped folds?

Both tables have the same rows; the same folds, whole groups of the training rows at a time, and the
same seeds serve both.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from features.table import FeatureTable, ObelixSpec, build, read
from hpo.analysis.bootstrap import paired_differences
from tests.benchmarks.datasets import add_data

STRUCTURES = ("li_environment", "bond_valence", "ewald", "li_voronoi", "bvse")
FORMULAS = ("ratios", "magpie_statistics", "stoichiometry", "li_chemistry")
FAMILIES = {
    "formula and structure": (*FORMULAS, *STRUCTURES),
    "structure alone": STRUCTURES,
}
N_FOLDS = 5
N_SHOWN = 3

Floats = NDArray[np.float64]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the failures by check, and the scores with and without the structures that fail."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_data(parser)
    parser.add_argument("--seeds", type=int, default=5, help="divisions into folds, and fits")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        for title, families in FAMILIES.items():
            used, left_out = (
                table_of(families, policy, options.data, Path(folder))
                for policy in ("use", "leave_out")
            )
            if title == next(iter(FAMILIES)):
                print_failures(left_out)
            print(f"\n{title}, {left_out.n_features} columns, {options.seeds} seeds")
            for name in ("extra_trees", "hist_gradient_boosting"):
                print_scores(name, used, left_out, options.seeds)
    return 0


def table_of(families: Sequence[str], policy: str, data: Path, folder: Path) -> FeatureTable:
    """Build a table of OBELiX."""
    spec = ObelixSpec.model_validate(
        {"dataset": "obelix", "families": families, "failed_structures": policy}
    )
    started = time.perf_counter()
    done = build(spec, data_dir=data, tables_dir=folder, base_dir=folder, workers=2)
    print(f"built with failed_structures = {policy!r}: {time.perf_counter() - started:.1f} s")
    return read(done.path)


def print_failures(table: FeatureTable) -> None:
    """Print how many structures fail each check, and a few of them."""
    notes = table.manifest["notes"]["structures"]
    reasons = {row.id: row.reason for row in table.partial if row.family == "cif"}
    train = dict(zip(table.ids.tolist(), table.is_train.tolist(), strict=True))
    n_train = sum(train[name] for name in reasons)
    print(f"\n{len(reasons)} of {notes['n_given']} structures fail, {n_train} of training rows")
    of_check: dict[str, list[str]] = defaultdict(list)
    for name, reason in reasons.items():
        for part in reason.removeprefix("left out: ").split("; "):
            check, _, figures = part.partition(": ")
            if check in notes["failed"]:
                of_check[check].append(f"{name}: {figures}")
    counts = Counter({check: len(found) for check, found in of_check.items()})
    for check in ("composition", "distance", "cell", "symmetry"):
        print(f"  {check:12} {counts[check]:3}")
        for line in of_check[check][:N_SHOWN]:
            print(f"      {line}")


def print_scores(name: str, used: FeatureTable, left_out: FeatureTable, n_seeds: int) -> None:
    """Print the scores of an estimator on both tables, and their paired difference."""
    train = used.train
    failed = {row.id for row in left_out.partial if row.family == "cif"}
    predicted = [out_of_fold(name, table, n_seeds) for table in (used, left_out)]
    difference = paired_differences(train.y, predicted[0], [predicted[1]], train.groups)[0]
    errors = [np.abs(values - train.y) for values in predicted]
    is_failed = np.isin(train.ids, list(failed))
    print(f"  {name}")
    for metric in ("rmse", "mae", "r2"):
        found = difference[metric]
        scores = [_score(metric, train.y, values) for values in predicted]
        print(
            f"    {metric:5} used {scores[0]:.4f}, left out {scores[1]:.4f}, difference "
            f"{found.value:+.4f} (rows {found.row[0]:+.4f} to {found.row[1]:+.4f}, groups "
            f"{found.group[0]:+.4f} to {found.group[1]:+.4f})"
        )
    own, others = ([float(e[rows].mean()) for e in errors] for rows in (is_failed, ~is_failed))
    print(
        f"    mae of these {is_failed.sum()} rows: used {own[0]:.3f}, left out {own[1]:.3f}; "
        f"of the others {others[0]:.4f} and {others[1]:.4f}",
        flush=True,
    )


def out_of_fold(name: str, table: FeatureTable, n_seeds: int) -> Floats:
    """Return the prediction of each training row while its group is held out, mean of the seeds."""
    from sklearn.model_selection import GroupKFold

    train = table.train
    total = np.zeros(len(train.y))
    for seed in range(n_seeds):
        folds = GroupKFold(N_FOLDS, shuffle=True, random_state=seed)
        for fitted, held_out in folds.split(train.X, groups=train.groups):
            model = _make(name, seed).fit(train.X[fitted], train.y[fitted])
            total[held_out] += model.predict(train.X[held_out])
    return total / n_seeds


def _make(name: str, seed: int) -> Any:
    from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor

    if name == "extra_trees":
        return ExtraTreesRegressor(200, random_state=seed, n_jobs=2)
    return HistGradientBoostingRegressor(random_state=seed)


def _score(metric: str, y: Floats, predicted: Floats) -> float:
    from hpo.objectives.metrics import METRICS

    return float(METRICS[metric](y, predicted))


if __name__ == "__main__":
    raise SystemExit(main())
