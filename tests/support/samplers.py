"""Search spaces, and samplers of a user's own: one that keeps what it needs in the study."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from tests.support.requirements import unavailable

SPACE = {
    "x": {"type": "float", "low": -2.0, "high": 2.0},
    "y": {"type": "float", "low": 1e-3, "high": 1.0, "log": True},
    "n": {"type": "int", "low": 1, "high": 9},
    "kind": {"type": "categorical", "choices": ["a", "b", True]},
}
GRID = {
    "x": {"type": "float", "low": -0.3, "high": 0.5, "step": 0.1},
    "n": {"type": "int", "low": 1, "high": 9, "step": 2},
    "kind": {"type": "categorical", "choices": ["a", True]},
}


def need_package(name: str | None) -> None:
    """Skip where a package that a sampler needs is not installed."""
    if name is not None:
        try:
            importlib.import_module(name)
        except ImportError as exc:
            unavailable(name, str(exc))


class Nearby(BaseSampler):
    """Draws x near that of the best trial; counts the trials that it has drawn for."""

    def __init__(self, width: float, seed: int | None = None) -> None:
        self._width, self._rng = width, np.random.default_rng(seed)
        self._random = RandomSampler(seed=seed)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {"x": FloatDistribution(-2.0, 2.0)} if _ended(study) else {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: Mapping[str, Any]
    ) -> dict[str, Any]:
        n_drawn = study._storage.get_study_system_attrs(study._study_id).get("nearby", 0) + 1
        study._storage.set_study_system_attr(study._study_id, "nearby", n_drawn)
        study._storage.set_trial_system_attr(trial._trial_id, "nearby", n_drawn)
        if not search_space:
            return {}
        assert sum("nearby" in one.system_attrs for one in study.get_trials()) > 0
        near = study.best_trial.params["x"] + self._rng.normal() * self._width / n_drawn
        return {"x": min(2.0, max(-2.0, float(near)))}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._random.sample_independent(study, trial, param_name, param_distribution)


def _ended(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


class Broken(RandomSampler):
    """Fails whenever it is to draw."""

    def sample_independent(self, *_: Any) -> Any:
        raise RuntimeError("no more")
