"""The models of the yields: each is fitted to some measurements and predicts others.

All of them predict the three yields, between 0 and 1. Fields are what a study file may set below
`[objective.params.MODEL]` or search below `[space.MODEL]`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.errors import ObjectiveError, suggest
from studies.catechol.descriptors import (
    KINETICS,
    MIXINGS,
    Measurements,
    arrhenius,
    describe_kinetics,
    describe_solvents,
    parse_families,
)
from studies.catechol.network import Loss, Networks

Floats = NDArray[np.float64]
N_TARGETS = 3
ORDERS = ("one", "train", "predict", "both")
# A column that hardly varies among the rows of a fit must not be blown up in others: features are
# of about one size, and are divided by their spread or by this, whichever is larger.
SPREAD_FLOOR = 0.3


@dataclass(frozen=True)
class Member:
    """What all models share.

    Attributes
    ----------
    descriptors
        Families of solvent descriptors, as in spange+acs.
    mixing, kinetics
        How two solvents, and how temperature and time are described: `descriptors`.
    orders
        Where mixtures are taken in both orders of their solvents: in one order only, as rows to
        "train" on, to average over when they are to "predict", or "both". Changes something where
        the order does, which is with "pair" mixing.
    """

    descriptors: str = "spange"
    mixing: str = "linear"
    kinetics: str = "arrhenius"
    orders: str = "one"

    def __post_init__(self) -> None:
        parse_families(self.descriptors)
        for name, known in (("mixing", MIXINGS), ("kinetics", KINETICS), ("orders", ORDERS)):
            if getattr(self, name) not in known:
                raise ObjectiveError(
                    f"{name} '{getattr(self, name)}': {suggest(getattr(self, name), known)}"
                )

    def predict(self, train: Measurements, new: Measurements, seed: int) -> Floats:
        """Fit to measurements, and return the yields of others, of shape (n_new, 3)."""
        if self.orders in ("train", "both"):
            train = train.with_swapped()
        asked = [new, new.swapped()] if self.orders in ("predict", "both") else [new]
        found = self._fit_predict(train, asked, seed)
        return np.asarray(np.clip(np.mean(found, axis=0), 0.0, 1.0))

    def _fit_predict(
        self, train: Measurements, asked: list[Measurements], seed: int
    ) -> list[Floats]:
        raise NotImplementedError

    def _describe(self, rows: Measurements) -> Floats:
        solvents = describe_solvents(rows, parse_families(self.descriptors), self.mixing)
        return np.hstack([describe_kinetics(rows, self.kinetics), solvents])


@dataclass(frozen=True)
class _OfNetworks(Member):
    """What models of networks share.

    Attributes
    ----------
    networks
        How many are averaged, of different first weights.
    """

    networks: int = 3
    epochs: int = 100
    batch_rows: int = 256
    learning_rate: float = 0.01
    weight_decay: float = 0.3

    def _scaled(
        self, train: Measurements, asked: list[Measurements]
    ) -> tuple[Floats, list[Floats]]:
        scaled, *news = _scale(self._describe(train), *(self._describe(rows) for rows in asked))
        return scaled, news

    def _train(
        self, X: Floats, y: Floats, news: list[Floats], loss: Loss, hidden: str, seed: int
    ) -> list[Floats]:
        """Return the mean of the predictions of several networks for each array of rows."""
        sizes = [int(size) for size in hidden.split("-")]
        seeds = [seed * 1000 + k for k in range(self.networks)]
        networks = Networks(X.shape[1], sizes, y.shape[1], seeds)
        networks.train(
            X,
            y,
            loss,
            epochs=self.epochs,
            batch_rows=self.batch_rows,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            seed=seed,
        )
        return [networks.predict(rows).mean(axis=0).astype(np.float64) for rows in news]


@dataclass(frozen=True)
class Mlp(_OfNetworks):
    """The mean of some networks that predict all three yields.

    Attributes
    ----------
    hidden
        Sizes of the hidden layers, as in 32-16.
    sm_weight, p2_weight
        What starting material and product 2 count in the loss where product 3 counts 1.
    balance
        Weight of a penalty on (SM + P2 + P3 - 1)^2, which the measured yields do not obey.
    """

    hidden: str = "32-16"
    sm_weight: float = 1.0
    p2_weight: float = 1.0
    balance: float = 0.0

    def _fit_predict(
        self, train: Measurements, asked: list[Measurements], seed: int
    ) -> list[Floats]:
        scaled, news = self._scaled(train, asked)
        loss = Loss((self.sm_weight, self.p2_weight, 1.0), self.balance)
        return self._train(scaled, train.y, news, loss, self.hidden, seed)


@dataclass(frozen=True)
class PerTarget(_OfNetworks):
    """Networks of their own for every yield; other fields are those of `_OfNetworks`.

    Attributes
    ----------
    hidden_sm, hidden_products
        Hidden layers of the networks for starting material, and of those for each product.
    """

    hidden_sm: str = "64-32"
    hidden_products: str = "32-16"

    def _fit_predict(
        self, train: Measurements, asked: list[Measurements], seed: int
    ) -> list[Floats]:
        scaled, news = self._scaled(train, asked)
        by_target = []
        for target in range(N_TARGETS):
            hidden = self.hidden_products if target else self.hidden_sm
            y = train.y[:, [target]]
            by_target.append(self._train(scaled, y, news, Loss((1.0,)), hidden, seed))
        return [np.hstack(columns) for columns in zip(*by_target, strict=True)]


@dataclass(frozen=True)
class LightGbm(Member):
    """Gradient boosting by LightGBM, a model per yield."""

    n_estimators: int = 100
    learning_rate: float = 0.05
    num_leaves: int = 15
    min_child_samples: int = 10
    colsample_bytree: float = 1.0
    reg_lambda: float = 0.0

    def _fit_predict(
        self, train: Measurements, asked: list[Measurements], seed: int
    ) -> list[Floats]:
        # It needs a library of the system that other members do without.
        import lightgbm

        X = self._describe(train)
        settings = {
            "learning_rate": self.learning_rate,
            "num_leaves": self.num_leaves,
            "min_data_in_leaf": self.min_child_samples,
            "feature_fraction": self.colsample_bytree,
            "lambda_l2": self.reg_lambda,
            "objective": "regression",
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "seed": seed,
            "verbosity": -1,
        }
        found = [np.empty((len(rows), N_TARGETS)) for rows in asked]
        for target in range(N_TARGETS):
            data = lightgbm.Dataset(X, train.y[:, target], params=settings)
            model = lightgbm.train(settings, data, num_boost_round=self.n_estimators)
            for predicted, rows in zip(found, asked, strict=True):
                predicted[:, target] = model.predict(self._describe(rows), num_threads=1)
        return found


@dataclass(frozen=True)
class Kernel(Member):
    """Kernel ridge regression: near in conditions and near in solvent is near in yields.

    The kernel is k_T k_t (floor + prod_f k_f) / (floor + 1): Gaussian in 1/T and ln t, Matern of
    order 3/2 in the mixed descriptors of each family f, by the root of the mean squared difference
    over the family's columns. `floor` is what all solvents have in common. `kinetics` has no use
    here. Rasmussen & Williams, Gaussian Processes for Machine Learning (2006), 2.2 and 4.2.

    Attributes
    ----------
    ridge
        What is added to the diagonal.
    length
        Length scale of descriptors; `length_temperature` and `length_time` those of conditions.
    """

    ridge: float = 0.1
    length: float = 2.5
    length_temperature: float = 1.5
    length_time: float = 1.5
    floor: float = 0.3

    def _fit_predict(
        self,
        train: Measurements,
        asked: list[Measurements],
        seed: int,  # noqa: ARG002  nothing is drawn
    ) -> list[Floats]:
        # Only this member needs it, and it takes as long to import as all else here.
        from scipy.linalg import cho_factor, cho_solve

        mean = train.y.mean(axis=0)
        K = self.between(train, train)
        K[np.diag_indices_from(K)] += self.ridge
        dual = cho_solve(cho_factor(K, overwrite_a=True), train.y - mean)
        return [mean + self.between(rows, train) @ dual for rows in asked]

    def between(self, rows: Measurements, others: Measurements) -> Floats:
        """Return the kernel of all pairs, of shape (n_rows, n_others)."""
        solvents = np.ones((len(rows), len(others)))
        for family in parse_families(self.descriptors):
            a, b = (describe_solvents(side, [family], self.mixing) for side in (rows, others))
            distance = np.sqrt(3.0 * _squares(a, b) / a.shape[1]) / self.length
            solvents *= (1.0 + distance) * np.exp(-distance)
        scales = np.array([self.length_temperature, self.length_time])
        conditions = _squares(arrhenius(rows) / scales, arrhenius(others) / scales)
        solvents += self.floor
        solvents *= np.exp(-0.5 * conditions)
        solvents /= 1.0 + self.floor
        return solvents


def _squares(a: Floats, b: Floats) -> Floats:
    """Return the squared distances of all pairs of rows, of shape (n_a, n_b)."""
    found = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2.0 * a @ b.T
    return np.asarray(np.maximum(found, 0.0))


def _scale(X: Floats, *news: Floats) -> list[Floats]:
    """Return rows around the mean of the first ones, in units of their spread or of the floor."""
    mean, spread = X.mean(axis=0), np.maximum(X.std(axis=0), SPREAD_FLOOR)
    return [(rows - mean) / spread for rows in (X, *news)]


MEMBERS: dict[str, type[Member]] = {
    "mlp": Mlp,
    "per_target": PerTarget,
    "lightgbm": LightGbm,
    "kernel": Kernel,
}


def make_member(name: str, settings: dict[str, Any]) -> Member:
    """Return a model by its name, with some of its fields set.

    Raises
    ------
    ObjectiveError
        If there is no such model, or it has no such field.
    """
    if name not in MEMBERS:
        raise ObjectiveError(f"[objective.params] '{name}' is no model; {suggest(name, MEMBERS)}")
    known = [field.name for field in fields(MEMBERS[name])]
    for key in settings:
        if key not in known:
            raise ObjectiveError(f"{name}.{key}: {name} has no such field; {suggest(key, known)}")
    return MEMBERS[name](**settings)
