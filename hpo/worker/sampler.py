"""Draws the parameters of a trial, all at once, before anything of them is stored.

Each trial has a random stream of its own, made from the study's seed and the trial's number.
Workers therefore never share a stream, and a resumed study never repeats its start-up trials.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from hpo.errors import HpoError, SpecError
from hpo.spec.search import SamplerSpec
from hpo.study.search import describe_missing, make_named_sampler
from hpo.wording import one_line
from hpo.worker.trial_cache import TrialHistory, suggest, use_scipy_in_tpe

# From this trial on it pays a worker that has no SciPy yet to import it: 0.1 s against 1 ms a draw.
_EARNED_BACK = 100
_UNSEEN = create_trial(state=TrialState.RUNNING)


def draw(
    history: TrialHistory,
    number: int,
    space: Mapping[str, BaseDistribution],
    sampler: SamplerSpec,
    seed: int,
    pruner: BasePruner | None = None,
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
    pruner
        Optuna's pruner of the study, if it has one: with HyperbandPruner, a sampler learns from
        trials of the same bracket alone.

    Raises
    ------
    SpecError
        If the sampler fails.
    """
    if not space:
        return {}
    if sampler.is_short and pruner is None:
        return _draw_shortly(history, number, space, sampler, seed)
    try:
        trial = history.open_trial(
            number, lambda: make_sampler(sampler, seed, space, number), pruner
        )
        return {name: suggest(trial, name, distribution) for name, distribution in space.items()}
    except (HpoError, SQLAlchemyError):
        raise
    except ImportError as exc:
        raise SpecError(f"[sampler]: {describe_missing(sampler.name, exc)}") from exc
    except Exception as exc:  # a sampler of the user's own may raise anything
        said = f"[sampler]: {sampler.name}: {type(exc).__name__}: {exc}"
        raise SpecError(one_line(said)) from exc


def trial_seed(seed: int, number: int) -> int:
    """Return the seed of a trial's random stream, in [0, 2**32)."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


def make_sampler(
    spec: SamplerSpec, seed: int, space: Mapping[str, BaseDistribution], number: int
) -> BaseSampler:
    """Return the sampler that draws the parameters of one trial.

    Parameters
    ----------
    seed
        The study's.
    space
        What is drawn; empty where a function says so as it is called.
    number
        The trial's.

    Raises
    ------
    SpecError
        If there is no such class, or it does not take these arguments.
    """
    own = trial_seed(seed, number)
    if spec.name == "random":
        return RandomSampler(seed=own)
    if "tpe" in spec.name.lower() and (number >= _EARNED_BACK or "scipy.special" in sys.modules):
        use_scipy_in_tpe()
    if spec.name == "tpe":
        return TPESampler(seed=own, n_startup_trials=spec.startup_trials)
    return make_named_sampler(spec, seed, own, space)


def _draw_shortly(
    history: TrialHistory,
    number: int,
    space: Mapping[str, BaseDistribution],
    sampler: SamplerSpec,
    seed: int,
) -> dict[str, Any]:
    """Draw by one of the samplers that note nothing, from a search space that is known."""
    source = make_sampler(sampler, seed, space, number)
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
