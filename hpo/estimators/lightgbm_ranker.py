"""LightGBM's ranking losses, as an estimator that is fitted to a continuous target."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data

from hpo.plugins import resolve

MAX_QUERY_ROWS = 10_000  # LightGBM's own limit
LOSSES = ("lambdarank", "rank_xendcg")


class LightGbmRanker(BaseEstimator):  # type: ignore[misc]
    """A regressor by its methods, whose predictions are scores without a unit.

    LightGBM ranks by integer grades of relevance within a query. Here a grade says between which
    quantiles of the training target a row lies, and all rows are one query, or several of equal
    size, drawn at random, where they are more than LightGBM takes in one. Grades gain linearly
    (0, 1, 2, …) in lambdarank, and its pairs are not truncated, unlike LightGBM's defaults, which
    are made for the top of a list: Spearman's rho counts every row alike. rank_xendcg always
    gains exponentially (2^grade), so that few grades suit it better.

    Burges, From RankNet to LambdaRank to LambdaMART, MSR-TR-2010-82; Bruch, An alternative cross
    entropy loss for learning-to-rank, arXiv:1911.09798.

    Parameters
    ----------
    objective
        lambdarank or rank_xendcg.
    grades
        Number of grades, from 2 on.
    lambdarank_truncation_level
        Only pairs with a row among so many best ones count; all pairs if None.
    random_state
        Seed of LightGBM and of the division into queries.
    parameters
        Other parameters of `lightgbm.LGBMRanker`.

    Raises
    ------
    ValueError
        If the loss or the number of grades is not one of those.
    SpecError
        If LightGBM cannot be imported.
    """

    def __init__(
        self,
        *,
        objective: str = "lambdarank",
        grades: int = 10,
        lambdarank_truncation_level: int | None = None,
        random_state: int = 0,
        **parameters: Any,
    ) -> None:
        if objective not in LOSSES:
            raise ValueError(f"objective must be {' or '.join(LOSSES)}, got {objective!r}")
        if isinstance(grades, bool) or not isinstance(grades, int) or not 2 <= grades <= 1000:
            raise ValueError(f"grades must be a whole number from 2 to 1000, got {grades!r}")
        self.objective, self.grades, self.random_state = objective, grades, random_state
        self.lambdarank_truncation_level = lambdarank_truncation_level
        self.parameters = parameters
        # Made now, so that a parameter that it has not is refused before any row is read.
        self._make_ranker()

    @classmethod
    def _get_param_names(cls) -> list[str]:
        """Return what a study file can set, as scikit-learn's estimators tell it."""
        factory = resolve("lightgbm:LGBMRanker", "[estimator] name")
        return sorted({*factory._get_param_names(), "grades"})

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002 - there is none
        """Return the parameters that it was made with; it has no estimator within it."""
        own = ("objective", "grades", "lambdarank_truncation_level", "random_state")
        return {**{name: getattr(self, name) for name in own}, **self.parameters}

    def set_params(self, **params: Any) -> LightGbmRanker:
        """Set parameters, those of `lightgbm.LGBMRanker` too."""
        self.__init__(**{**self.get_params(), **params})  # type: ignore[misc]
        return self

    @property
    def model(self) -> Any:
        """LightGBM's ranker with these parameters, which are its defaults where there are none."""
        return self._make_ranker()

    def _make_ranker(self, **settings: Any) -> Any:
        factory = resolve("lightgbm:LGBMRanker", "[estimator] name")
        return factory(
            objective=self.objective,
            random_state=self.random_state,
            label_gain=list(range(self.grades)),
            **self.parameters,
            **settings,
        )

    def fit(self, X: NDArray[np.float64], y: NDArray[np.float64]) -> LightGbmRanker:
        """Fit to rows of shape (n_rows, n_features) and their target of shape (n_rows,)."""
        X, y = validate_data(self, X, y, y_numeric=True, ensure_all_finite="allow-nan")
        order, sizes = self._divide(len(y))
        level = self.lambdarank_truncation_level or int(max(sizes))
        self.model_ = self._make_ranker(lambdarank_truncation_level=level)
        self.model_.fit(X[order], grade(y, self.grades)[order], group=sizes)
        return self

    def predict(self, X: NDArray[np.float64], **settings: Any) -> NDArray[np.float64]:
        """Return a score per row; greater scores for greater targets, in no unit.

        `settings` are those of LightGBM, as `num_iteration`.
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, ensure_all_finite="allow-nan")
        return np.asarray(self.model_.predict(X, **settings), dtype=np.float64)

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.target_tags.required = True
        return tags

    def _divide(self, n_rows: int) -> tuple[NDArray[np.int64], list[int]]:
        """Return the rows in the order of their queries, and the sizes of the queries."""
        n_queries = -(-n_rows // MAX_QUERY_ROWS)
        rows = np.arange(n_rows, dtype=np.int64)
        if n_queries > 1:
            rows = np.random.default_rng(self.random_state).permutation(rows)
        return rows, [len(query) for query in np.array_split(rows, n_queries)]


def grade(y: NDArray[np.float64], grades: int) -> NDArray[np.int64]:
    """Return between which of `grades - 1` equidistant quantiles each value lies, from 0 on.

    Equal values have equal grades. Arrays of shape (n_rows,).
    """
    edges = np.quantile(y, np.arange(1, grades) / grades)
    return np.searchsorted(edges, y, side="right").astype(np.int64)
