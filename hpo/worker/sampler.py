"""Draws the parameters of a trial, all at once, before anything of them is stored.

Each trial has a random stream of its own, made from the study's seed and the trial's number.
Workers therefore never share a stream, and a resumed study never repeats its start-up trials.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial

from hpo.spec.search import SamplerSpec
from hpo.worker.trial_cache import TrialHistory

_UNSEEN = create_trial(state=TrialState.RUNNING)


def draw(
    history: TrialHistory,
    number: int,
    space: Mapping[str, BaseDistribution],
    sampler: SamplerSpec,
    seed: int,
) -> dict[str, Any]:
    """Return a value for every dimension of the space.

    Parameters
    ----------
    history
        The trials of the study, which the sampler learns from; brought up to date here.
    number
        The trial that the parameters are for.
    space
        Distribution of every dimension.
    sampler
        Which sampler, as in the study file.
    seed
        The study's seed.
    """
    if not space:
        return {}
    source = make_sampler(sampler, trial_seed(seed, number))
    together: Mapping[str, Any] = {}
    trial = _UNSEEN
    # A random sampler looks at no trial.
    if not isinstance(source, RandomSampler):
        history.update()
        trial, found = history.running(number), history.common_space()
        # Complete trials have parameters that are read off a curve, too, which nobody draws.
        joint = {name: found[name] for name in found if name in space}
        together = source.sample_relative(history.study, trial, joint)
    return {
        name: together[name]
        if name in together
        else source.sample_independent(history.study, trial, name, distribution)
        for name, distribution in space.items()
    }


def trial_seed(seed: int, number: int) -> int:
    """Return the seed of a trial's random stream, in [0, 2**32)."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


def make_sampler(spec: SamplerSpec, seed: int) -> BaseSampler:
    """Return the sampler that a study names, with a random stream of this seed."""
    if spec.name == "random":
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed, n_startup_trials=spec.startup_trials)
