"""Candidates in the order of their predictions, with intervals and a look at how foreign they are.

Intervals are those of split conformal prediction with absolute residuals (Lei et al., J. Am. Stat.
Assoc. 113, 1094 (2018)), on the out-of-fold residuals of the best trial: one half-width for all.
The predicting model has seen all training rows, those of the folds a part of them, as in
cross-conformal prediction (Vovk, Ann. Math. Artif. Intell. 74, 9 (2015)), so that the coverage is
no guarantee but what folds show.

How foreign a candidate is, is asked in the space of atomic fractions: the distance is the share of
atoms to be exchanged to get from one composition to another, half the sum of |x_i - y_i|. It needs
no scale, means the same for every study, and counts an element that a tree model never had to
split on, to which a standardised feature space is blind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import get_tags

from features.table import OWN_COLUMNS, Candidates, FeatureTable, Target, families
from hpo.analysis.candidates.applicability_domain import Domain, Floats, domain_of, look_around
from hpo.analysis.classification.prediction_sets import coverage_across_folds as sets_across_folds
from hpo.analysis.classification.prediction_sets import sets_at
from hpo.analysis.classification.ranked_classes import RankedClasses, find_class
from hpo.analysis.conformal import assess, conformal_quantile, cross_calibrate_residuals
from hpo.analysis.saved_model import Calibration, Model
from hpo.errors import HpoError, ModelError, ObjectiveError, SpecError, suggest
from hpo.estimators.construction import of_one_target
from hpo.estimators.probabilities import class_probabilities
from hpo.wording import count_of

# A gap is known to a model if at least this share of its training rows had the same.
MIN_COVERED = 0.05


@dataclass(frozen=True, eq=False)
class Ranking:
    """Every line of a file of candidates, in the order of the lines.

    Attributes
    ----------
    rank
        Array of shape (n_lines,): from 1, equal predictions sharing one; 0 for what has none.
    order
        Positions of the lines: by rank, then those without one.
    predicted
        Array of shape (n_lines,), in units of the target; NaN without a rank.
    half_width
        Of every interval, in units of the target. Of classes, how far a probability may be below 1
        for its class to be in a set.
    distance, nearest
        Share of atoms to exchange for the nearest training composition (NaN if unknown), and a
        formula of that.
    foreign
        Whether a candidate is out of the training rows' domain: their compositions, their
        categories, and the range of each of the user's own columns.
    reasons
        Why a line has no rank, or why it is foreign.
    duplicate_of
        Array of shape (n_lines,): the first line with the same composition and features; 0 if
        that is the line itself.
    limit
        The distance above which a candidate is foreign.
    keys
        Array of shape (n_lines, 2): hashes of composition and features.
    classes
        What is predicted where the target has classes, and `predicted` is the probability of one
        of them; None where it is a number.
    targets
        What is predicted of several targets, of which `predicted` and `half_width` are those that
        lines are ranked by; None where there is one.
    """

    rank: NDArray[np.int64]
    order: NDArray[np.int64]
    predicted: Floats
    half_width: float
    distance: Floats
    nearest: tuple[str, ...]
    foreign: NDArray[np.bool_]
    reasons: tuple[str, ...]
    duplicate_of: NDArray[np.int64]
    limit: float
    keys: NDArray[np.uint64]
    classes: RankedClasses | None = None
    targets: RankedTargets | None = None


@dataclass(frozen=True, eq=False)
class RankedTargets:
    """What is predicted of every line of a file of candidates, of several targets.

    Attributes
    ----------
    targets, by
        The targets, and the position of the one that lines are ranked by.
    predicted
        Array of shape (n_lines, n_targets), in units of the targets; NaN without a rank.
    half_widths
        Of the intervals of each target, in its unit.
    """

    targets: Sequence[Target]
    by: int
    predicted: Floats
    half_widths: Sequence[float]

    @classmethod
    def joined(cls, pieces: Sequence[RankedTargets]) -> RankedTargets:
        """Return what is predicted of the lines of all pieces, in their order."""
        return replace(pieces[0], predicted=np.concatenate([one.predicted for one in pieces]))

    @property
    def each(self) -> Iterator[tuple[Target, Floats, float]]:
        """Every target with its predictions and the half-width of their intervals."""
        return zip(self.targets, self.predicted.T, self.half_widths, strict=True)


def find_target(name: str | None, targets: Sequence[Target]) -> int:
    """Return the position of a target; the first one if none is named.

    Raises
    ------
    SpecError
        If there is no such target.
    """
    names = [target.name for target in targets]
    if name is not None and name not in names:
        raise SpecError(f"--by {name}: is no target of the study; {suggest(name, names)}")
    return 0 if name is None else names.index(name)


# Intervals ------------------------------------------------------------------------------------


def half_width_of(scores: Floats, coverage: float, ids: NDArray[np.str_] | None = None) -> float:
    """Return the half-width of a two-sided interval around a prediction.

    The conformal quantile of the absolute residuals, or of the scores of classes: for rows that are
    exchangeable with the n given ones, at least `coverage` of them lie within. `ids`, of shape
    (n,), says which row each is, where several folds have validated some.

    Raises
    ------
    ObjectiveError
        There are too few rows for that coverage.
    """
    half_width = conformal_quantile(scores, coverage, ids)
    if math.isinf(half_width):
        needed = math.ceil(round(coverage / (1.0 - coverage), 9))
        raise ObjectiveError(
            f"--coverage {coverage:g}: needs at least {needed} validated rows, the folds have "
            f"{len(scores if ids is None else np.unique(ids))}; ask for less"
        )
    return half_width


def coverage_across_folds(calibration: Calibration, coverage: float) -> list[float]:
    """Return, for each fold, the share of its rows within intervals made from the other folds."""
    if calibration.predicted.ndim > calibration.y.ndim:
        return sets_across_folds(calibration.held_out, calibration.predicted, coverage)
    folds = [f"fold {fold}" for fold in calibration.fold]
    try:
        # Here every row of another fold counts, be it of the same group or not.
        intervals = cross_calibrate_residuals(calibration.held_out, coverage)
    except HpoError:  # there is one fold only
        return []
    if np.isinf(intervals.width).any():
        return []
    of_fold = assess(intervals, calibration.y, np.array(folds)).families
    return [of_fold[f"fold {fold}"].coverage for fold in np.unique(calibration.fold)]


# Out of the training rows' domain --------------------------------------------------------------


def _beyond_training(candidates: Candidates, table: FeatureTable) -> dict[int, list[str]]:
    """Return the rows whose own columns hold what no training row has, and what that is."""
    beyond = {row: [said] for row, said in candidates.unknown.items()}
    train = table.train.X
    for at, column in enumerate(table.columns):
        if column.family != OWN_COLUMNS:
            continue
        low, high = np.nanmin(train[:, at]), np.nanmax(train[:, at])
        values = candidates.X[:, at]
        for row in np.flatnonzero((values < low) | (values > high)).tolist():
            said = f"{column.name} {values[row]:g} is beyond the training rows' {low:g} to {high:g}"
            beyond.setdefault(row, []).append(said)
    return beyond


# Ranks ----------------------------------------------------------------------------------------


def rank(
    candidates: Candidates,
    model: Model,
    table: FeatureTable,
    *,
    coverage: float = 0.9,
    ascending: bool = False,
    domain: Domain | None = None,
    wanted: str | None = None,
    by: str | None = None,
) -> Ranking:
    """Predict candidates and put them in order, the highest prediction first.

    Of a target with classes, that is the probability of the `wanted` one, or of the last; of
    several targets the prediction of that called `by`, or of the first.

    Raises
    ------
    ModelError
        No candidate has data that the model cannot do without.
    ObjectiveError
        There are too few validated rows for that coverage.
    """
    labels, targets = table.target.classes, table.targets
    place = find_class(wanted, labels) if labels else find_target(by, targets)
    half_widths = [
        _half_width(of_target, coverage, classes=bool(labels))
        for of_target in calibrations(model, len(targets))
    ]
    n_lines = len(candidates.lines)
    reasons = list(candidates.reasons)
    unfit = _find_unfit(candidates, model, table)
    for row, reason in unfit.items():
        reasons[candidates.usable[row]] = reason
    kept = np.setdiff1d(np.arange(len(candidates.usable)), np.fromiter(unfit, int, len(unfit)))
    lines = candidates.usable[kept]
    predicted = np.full(n_lines, np.nan)
    probabilities = np.full((n_lines, len(labels)), np.nan)
    of_targets = np.full((n_lines, len(targets)), np.nan)
    if len(kept):
        X = candidates.X if len(kept) == len(candidates.X) else candidates.X[kept]
        if labels:
            probabilities[lines] = class_probabilities(model.estimator, X, len(labels))
            predicted[lines] = probabilities[lines, place]
        else:
            of_targets[lines] = model.estimator.predict(X).reshape(len(X), -1)
            predicted = of_targets[:, place].copy()
    domain = domain or domain_of(table.formulas[table.is_train].tolist())
    distance = np.full(n_lines, np.nan)
    nearest = [""] * n_lines
    foreign = np.zeros(n_lines, dtype=bool)
    beyond = _beyond_training(candidates, table)
    for row, line, (far, near, why) in zip(
        kept, lines, look_around(candidates.fractions[kept], domain), strict=True
    ):
        distance[line], nearest[line] = far, near
        said = [*beyond.get(int(row), ()), *([why] if why else [])]
        foreign[line] = bool(said)
        told = [candidates.remarks.get((int(row), of)) for of in ("formula", "cif", OWN_COLUMNS)]
        reasons[line] = "; ".join([*said, *filter(None, told)])
    ranks, order = order_of(predicted, ascending=ascending)
    keys = _keys(candidates)
    return Ranking(
        rank=ranks,
        order=order,
        predicted=predicted,
        half_width=half_widths[0 if labels else place],
        distance=distance,
        nearest=tuple(nearest),
        foreign=foreign,
        reasons=tuple(reasons),
        duplicate_of=find_duplicates(keys, candidates.lines),
        limit=domain.limit,
        keys=keys,
        classes=RankedClasses(
            labels, place, probabilities, sets_at(probabilities, half_widths[0], coverage)
        )
        if labels
        else None,
        targets=RankedTargets(targets, place, of_targets, half_widths)
        if len(targets) > 1
        else None,
    )


def calibrations(model: Model, n_targets: int) -> list[Calibration]:
    """Return the out-of-fold predictions of each target of a model."""
    if n_targets == 1:
        return [model.calibration]
    return [model.calibration.of_target(position) for position in range(n_targets)]


def _half_width(known: Calibration, coverage: float, *, classes: bool) -> float:
    of_rows = known.held_out
    scores = of_rows.predicted[:, 0] if classes else np.abs(known.y - known.predicted)
    return half_width_of(scores, coverage, of_rows.ids)


def order_of(predicted: Floats, *, ascending: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return ranks by line, and the lines by rank; lines without a prediction come last."""
    keys = predicted if ascending else -predicted
    order = np.argsort(keys, kind="stable")  # NaN is put last
    ranks = np.zeros(len(keys), dtype=np.int64)
    ranked = np.isfinite(keys)
    ranks[ranked] = np.searchsorted(np.sort(keys[ranked]), keys[ranked], "left") + 1
    return ranks, order


def _keys(candidates: Candidates) -> NDArray[np.uint64]:
    """Return a hash of each line's composition and features, of shape (n_lines, 2); else 0."""
    keys = np.zeros((len(candidates.lines), 2), dtype=np.uint64)
    fractions = candidates.fractions.round(4)
    for row, position in enumerate(candidates.usable):
        key = blake2b(fractions[row].tobytes(), digest_size=16)
        key.update(candidates.X[row].tobytes())
        keys[position] = np.frombuffer(key.digest(), dtype=np.uint64)
    return keys


def find_duplicates(
    keys: NDArray[np.uint64], lines: Sequence[int] | NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return for each line the first one with the same key, as `Ranking.duplicate_of` has it."""
    numbers = np.asarray(lines, dtype=np.int64)
    duplicate_of = np.zeros(len(numbers), dtype=np.int64)
    known = np.flatnonzero(keys.any(axis=1))
    # Equal keys stand together, in the order of their lines.
    known = known[np.lexsort(keys[known].T)]
    again = np.zeros(len(known), dtype=np.bool_)
    again[1:] = (keys[known[1:]] == keys[known[:-1]]).all(axis=1)
    first = np.maximum.accumulate(np.where(again, 0, np.arange(len(known))))
    duplicate_of[known[again]] = numbers[known[first[again]]]
    return duplicate_of


# Gaps -----------------------------------------------------------------------------------------


def _find_unfit(candidates: Candidates, model: Model, table: FeatureTable) -> dict[int, str]:
    """Return the rows with gaps that the model has not learned to do without, and the reasons.

    A family that could not be computed leaves a pattern of NaN and 0. The model knows it if at
    least 5 % of its training rows have the same, and, for NaN, if its estimator takes them. Each of
    the user's own columns, and of those of featurizers, is looked at by itself.
    """
    takes_nan = _takes_nan(of_one_target(model.estimator))
    train = table.train.X
    unfit: dict[int, list[str]] = {}
    nowhere: list[str] = []
    for family, lacking in candidates.lacking.items():
        rows = np.flatnonzero(lacking)
        if not len(rows):
            continue
        columns = np.flatnonzero([column.family == family for column in table.columns])
        if family not in families():  # the user's own columns, and featurizers
            known = _known_gaps(train[:, columns], candidates.X[np.ix_(rows, columns)])
            refused = rows if not takes_nan else rows[~known]
            for row in refused:
                said = candidates.remarks.get((int(row), family), f"a gap in {family}")
                unfit.setdefault(int(row), []).append(f"{said}, which the model needs")
            continue
        seen = _patterns(train[:, columns])
        patterns, pattern_of_row = np.unique(
            _patterns(candidates.X[np.ix_(rows, columns)]), axis=0, return_inverse=True
        )
        known = np.array(
            [
                np.mean((seen == pattern).all(axis=1)) >= MIN_COVERED
                and (takes_nan or not (pattern == _GAP).any())
                for pattern in patterns
            ],
            dtype=bool,
        )
        refused = rows[~known[pattern_of_row.ravel()]]
        if len(refused) == len(lacking) and {"cell", "cif"} & {*families()[family].needs}:
            nowhere.append(family)
        for row in refused:
            said = candidates.remarks.get((int(row), family), "the data it needs are not given")
            unfit.setdefault(int(row), []).append(f"family {family}: {said}")
    if nowhere:
        raise ModelError(
            f"families {', '.join(nowhere)}: no candidate has the data that they need, and a model "
            "whose training rows nearly all had them cannot do without. Add the columns to the "
            "file of candidates (a, b, c, alpha, beta, gamma, space_group_number and Z, or as the "
            "study's own file names them; `cif` with paths), or rank with a study of families that "
            "need the formula alone"
        )
    return {row: "; ".join(whys) for row, whys in unfit.items()}


def _known_gaps(train: Floats, X: Floats) -> NDArray[np.bool_]:
    """Return which rows have no gap but in columns where enough training rows have one."""
    has_gaps = np.isnan(train).mean(axis=0) >= MIN_COVERED
    return np.asarray((~np.isnan(X) | has_gaps).all(axis=1))


_GAP = 2


def _patterns(X: Floats) -> NDArray[np.int8]:
    """Return of every value whether it is 0, another number (1) or missing (2)."""
    return np.where(np.isnan(X), _GAP, X != 0.0).astype(np.int8)


def _takes_nan(estimator: Any) -> bool:
    try:
        return bool(get_tags(estimator).input_tags.allow_nan)
    except AttributeError:  # an estimator of the user's own need not be scikit-learn's
        return False


def describe_calibration(
    model: Model, half_width: float, coverage: float, unit: str
) -> Mapping[str, Any]:
    """Return how intervals were calibrated, and what speaks against them, in words and numbers."""
    facts = model.manifest["calibration"]
    shares = coverage_across_folds(model.calibration, coverage)
    what, of = f"intervals: prediction ± {half_width:.3g} {unit}".rstrip(), "residuals"
    too_small = "the intervals are too narrow"
    if model.calibration.predicted.ndim > model.calibration.y.ndim:
        least = max(0.0, 1.0 - half_width)
        what, of = f"sets: every class with a probability of {least:.3g} or more", "probabilities"
        too_small = "the sets are too small"
    text = (
        f"{100 * coverage:g} % {what}, from {facts['rows']} out-of-fold {of} of trial "
        f"{model.manifest['trial']} ({facts['scheme']}, {count_of(facts['folds'], 'fold')})"
    )
    if shares:
        text += (
            f"; made from the other folds, they hold {np.mean(shares):.2f} of a fold's rows "
            f"({min(shares):.2f} to {max(shares):.2f})"
        )
    return {
        "text": text,
        "half_width": half_width,
        "coverage": coverage,
        "coverage_across_folds": shares,
        "caveats": _caveats(facts, too_small),
        **{key: facts[key] for key in ("rows", "scheme", "folds", "shared_groups")},
    }


def _caveats(facts: Mapping[str, Any], too_small: str) -> list[str]:
    caveats = ["coverage is only as good as the validated rows resemble the candidates"]
    if facts["shared_groups"] > 0:
        caveats.append(
            f"{100 * facts['shared_groups']:.0f} % of the validated rows have a row of their group "
            f"in training, so that for candidates from new groups {too_small}; "
            'folds of whole groups ([cv] scheme = "group_kfold") say by how much'
        )
    elif not facts["groups_known"]:
        caveats.append(
            "every training row is a group of its own: whether near copies of validated rows were "
            "trained on is not known"
        )
    return caveats
