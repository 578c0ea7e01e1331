"""scikit-learn's scorers as what a trial is maximised by: by name, or one of the user's own."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.errors import ObjectiveError, SpecError, suggest
from hpo.estimators.protocol import Floats
from hpo.objectives.folds import Fold
from hpo.objectives.metrics import METRICS
from hpo.plugins import resolve

SECTION = "[objective] scoring"
N_TRIED = 3
_NONE = np.empty((0, 1))
_PROBABILITIES, _SCORES = "predict_proba", "decision_function"

Scorer = Callable[[Any, Floats, NDArray[Any]], float]


@dataclass(frozen=True)
class Scoring:
    """A scorer: `scorer(model, X, y)` is large where the model is good.

    Attributes
    ----------
    name
        As a study file has it.
    scorer
        scikit-learn's, or a function of the user's own.
    n_classes
        Of the target; 0 if it is a number.
    """

    name: str
    scorer: Scorer
    n_classes: int

    @property
    def asks_model(self) -> bool:
        """Whether it may ask a fitted model for anything: one of the user's own that does so."""
        return not hasattr(self.scorer, "set_score_request")

    def __call__(
        self, model: Any, X: Floats, y: NDArray[Any], predicted: Floats | None = None
    ) -> float:
        """Return the score of some rows.

        Parameters
        ----------
        model
            What was fitted; None where the predictions are known alone.
        X
            Array of shape (n_rows, n_features).
        y
            Array of shape (n_rows,) or (n_rows, n_targets); whole numbers of a target with classes.
        predicted
            What the model predicts of these rows: array of shape (n_rows,), or of
            (n_rows, n_classes) the probabilities. Of scikit-learn's scorers the model is then
            asked only for what does not follow from them.
        """
        if predicted is not None and not self.asks_model and not hasattr(model, _SCORES):
            labels = model is not None and not hasattr(model, _PROBABILITIES)
            model = _stand_in(predicted, self.n_classes, () if labels else (_PROBABILITIES,))
        with warnings.catch_warnings():
            # That a class is never predicted is in the score.
            warnings.simplefilter("ignore")
            return self.scorer(model, X, y)

    def try_out(self, y: NDArray[Any], folds: Sequence[Fold], model: Any) -> None:
        """Refuse a scorer that cannot score some rows, by predictions drawn at random.

        Parameters
        ----------
        y
            Array of shape (n_rows,).
        folds
            Of these rows.
        model
            What will be fitted: whether it gives probabilities decides what can be scored.

        Raises
        ------
        ObjectiveError
            Naming the fold and the reason.
        """
        if self.asks_model:
            return
        gives = [method for method in (_PROBABILITIES, _SCORES) if hasattr(model, method)]
        steps = getattr(model, "steps", None)
        name = type(steps[-1][1] if steps else model).__name__
        for k, fold in enumerate(folds):
            for side, rows in (("validates", fold.validation), ("trains on", fold.train)):
                values = (self._try(y[rows], k, side, seed, gives, name) for seed in range(N_TRIED))
                if not any(map(np.isfinite, values)):
                    raise ObjectiveError(
                        f"{SECTION} {self.name}: is undefined over the {len(rows)} rows that fold "
                        f"{k} {side}{_of_classes(y[rows], self.n_classes)}; use other folds, or "
                        "another scoring"
                    )

    def _try(
        self, y: NDArray[Any], fold: int, side: str, seed: int, gives: Collection[str], name: str
    ) -> float:
        drawn = np.random.default_rng(seed).permutation(y)
        predicted = drawn.astype(np.float64)
        if self.n_classes:
            predicted = 0.5 * np.eye(self.n_classes)[drawn] + 0.5 / self.n_classes
        model = _stand_in(predicted, self.n_classes, gives, name)
        try:
            return float(self(model, np.empty((len(y), 1)), y))
        except Exception as exc:  # scikit-learn's and the user's own say in many ways what is wrong
            if self.n_classes and _PROBABILITIES not in gives and _PROBABILITIES in str(exc):
                by_scores = f"{', roc_auc' if _SCORES in gives else ''}"
                raise ObjectiveError(
                    f"{SECTION} {self.name}: scores probabilities, and {name} as it is set gives "
                    f"none; take one that does (voting = 'soft' and probability = true are of "
                    f"those that may), or scoring = balanced_accuracy, f1_macro{by_scores}"
                ) from exc
            raise ObjectiveError(
                f"{SECTION} {self.name}: cannot score the rows that fold {fold} {side}"
                f"{_of_classes(y, self.n_classes)}: {str(exc).rstrip('.')}"
                f"{self._for_several()}"
            ) from exc

    def _for_several(self) -> str:
        """Return which scorers of the same kind there are for more than two classes."""
        from sklearn.metrics import get_scorer_names

        alike = [one for one in get_scorer_names() if one.startswith(f"{self.name}_")]
        able = [one for one in alike if not one.endswith("_samples")]
        named = f"; of {self.n_classes} classes: {', '.join(able)}"
        return named if able and self.n_classes > 2 else ""


def find_scoring(name: str, n_classes: int) -> Scoring:
    """Return a scorer by scikit-learn's name for it, or `module:function` of the user's own.

    Raises
    ------
    SpecError
        If there is none, or if it scores numbers and the target has classes, or the other way.
    """
    if ":" in name:
        found = resolve(name, SECTION)
        if not callable(found):
            raise SpecError(
                f"{SECTION} {name}: must be called as (estimator, X, y), as what make_scorer "
                f"makes; is {type(found).__name__}"
            )
        if _is_metric(found):
            raise SpecError(
                f"{SECTION} {name}: takes y_true and predictions, and a scorer is called with "
                "(estimator, X, y); name one of scikit-learn's, as neg_mean_absolute_error, or "
                "what make_scorer makes of it"
            )
        return Scoring(name, found, n_classes)
    # A second that a study with a metric of ours does without.
    from sklearn.metrics import get_scorer, get_scorer_names

    if name not in get_scorer_names():
        hint = suggest(name, [*get_scorer_names(), "module:function"])
        if name.lower() in METRICS:
            hint = f'in [objective], metric = "{name.lower()}" stands for it'
        raise SpecError(f"{SECTION}: unknown '{name}'; {hint}")
    scoring = Scoring(name, get_scorer(name), n_classes)
    if _scores_numbers(scoring.scorer) == bool(n_classes):
        kinds = ("numbers", "classes") if n_classes else ("classes", "numbers")
        able = [one for one in get_scorer_names() if _fits(one, n_classes)]
        raise SpecError(
            f"{SECTION} {name}: scores {kinds[0]}, and the target has {kinds[1]}; for these there "
            f"are {', '.join(able)}"
        )
    return scoring


def _fits(name: str, n_classes: int) -> bool:
    from sklearn.metrics import get_scorer

    # Of samples with several labels each there are none here.
    return not name.endswith("_samples") and _scores_numbers(get_scorer(name)) != bool(n_classes)


def _scores_numbers(scorer: Scorer) -> bool:
    """Return whether one of scikit-learn's scorers takes numbers that are no labels."""
    y = np.array([0.3, 1.2, 2.9])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scorer(_stand_in(y + 0.1, 0), _NONE, y)
    except Exception:
        return False
    return True


def _is_metric(function: Any) -> bool:
    """Whether a function is called with the truth and predictions, as those of sklearn.metrics."""
    try:
        return next(iter(inspect.signature(function).parameters), "") == "y_true"
    except (TypeError, ValueError):
        return False


def _of_classes(y: NDArray[Any], n_classes: int) -> str:
    """Say which classes some rows lack."""
    if not n_classes:
        return ""
    present = len(np.unique(y))
    return "" if present == n_classes else f", which are of {present} of the {n_classes} classes"


def _stand_in(
    predicted: Floats, n_classes: int, gives: Collection[str] = (), name: str = "Known"
) -> Any:
    """Return an estimator that predicts what is known already, whatever rows it is asked for.

    `gives` names what a classifier has beside `predict`, `name` is what errors call it.
    """
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

    scores = predicted[:, 1] if n_classes == 2 else predicted

    def fit(self: Any, _X: Any, _y: Any) -> Any:
        return self

    def predict(_self: Any, _X: Any) -> Any:
        return predicted.argmax(axis=1) if n_classes else predicted

    def predict_proba(_self: Any, _X: Any) -> Any:
        return predicted

    def decision_function(_self: Any, _X: Any) -> Any:
        return scores

    more = [one for one in (predict_proba, decision_function) if one.__name__ in gives]
    members = {one.__name__: one for one in (fit, predict, *more)}
    kind = ClassifierMixin if n_classes else RegressorMixin
    return type(name, (kind, BaseEstimator), {"classes_": np.arange(n_classes), **members})()
