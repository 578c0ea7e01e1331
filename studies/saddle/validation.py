"""Best settings against the default ones, from starts that tuning has not seen.

Every molecule is run again with new noise: those that samples for tuning were made of, and those
that were held out. Both settings begin at the same places, so that what makes a start hard for both
cancels out of their difference.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from hpo.analysis.bootstrap import mean_intervals
from hpo.analysis.calibration import wilson_interval
from hpo.objectives.metrics import Interval
from hpo.system.threads import use_threads
from studies.saddle.calculators.registry import Floats
from studies.saddle.gad import Settings
from studies.saddle.objective import Problem
from studies.saddle.samples import Sample, search_from

N_RESAMPLES = 10_000


@dataclass(frozen=True)
class Run:
    """One search; fields as in `studies.saddle.gad.Outcome`, where a calculator may give up."""

    molecule: str
    seed: int
    converged: bool
    steps: int
    kicks: int
    negative: int
    reason: str = ""


@dataclass(frozen=True)
class Rate:
    """How often searches converge, and after how many steps.

    Attributes
    ----------
    n_converged, n_samples
        Searches that converged, and all.
    interval
        95 % of the rate, by Wilson, J. Am. Stat. Assoc. 22, 209 (1927), as if searches of one
        molecule had nothing in common.
    mean_steps
        Over searches that converged; None if none did.
    mean_steps_spent
        Over all searches, those that did not converge with all their steps.
    """

    n_converged: int
    n_samples: int
    interval: Interval
    mean_steps: float | None
    mean_steps_spent: float

    @property
    def value(self) -> float:
        """The rate."""
        return self.n_converged / self.n_samples


@dataclass(frozen=True)
class Comparison:
    """Best and default settings from the same starts.

    Attributes
    ----------
    name
        Which molecules.
    n_molecules
        How many.
    default, best
        How both do.
    gained, lost
        Starts from which the best settings alone converge, and the default ones alone.
    difference, steps_difference
        Best less default: of the rate, and of the mean number of steps spent.
    difference_interval, steps_interval
        Their 95 % percentile intervals, resampling molecules with all of their starts (Efron &
        Tibshirani, An Introduction to the Bootstrap (1993), ch. 8 and 13).
    """

    name: str
    n_molecules: int
    default: Rate
    best: Rate
    gained: int
    lost: int
    difference: float
    difference_interval: Interval
    steps_difference: float
    steps_interval: Interval


def validate(
    problem: Problem, best: Mapping[str, Any], seeds: Sequence[int], workers: int
) -> tuple[list[Comparison], dict[str, list[Run]]]:
    """Run all molecules with new noise and both settings.

    Parameters
    ----------
    problem
        What the searches are about.
    best
        Hyperparameters to compare with the default ones.
    seeds
        Of the noise.
    workers
        Processes.

    Returns
    -------
    comparisons : list
        Of the molecules that tuning saw, with other noise; of those held out; and of all. Kinds
        without a molecule are left out.
    runs : dict
        `default` and `best`: every search, in the same order.
    """
    tuning, held_out = (
        problem.samples(molecules, seeds) for molecules in (problem.tuning, problem.held_out)
    )
    samples = [*tuning, *held_out]
    runs = {
        "default": run_all(problem, samples, {}, workers),
        "best": run_all(problem, samples, best, workers),
    }
    n = len(tuning)
    comparisons = [
        compare(name, runs["default"][part], runs["best"][part], problem.spec.n_steps)
        for name, part in (
            ("molecules of tuning, new noise", slice(n)),
            ("molecules held out", slice(n, None)),
            ("all molecules", slice(None)),
        )
        if samples[part]
    ]
    # Where nothing is held out, all molecules are those of tuning.
    return (comparisons if held_out else comparisons[:1]), runs


def run_all(
    problem: Problem, samples: Sequence[Sample], params: Mapping[str, Any], workers: int
) -> list[Run]:
    """Search from every sample, in several processes if that is asked for."""
    settings = Settings.of(params)
    if workers == 1:
        return [_run(problem, sample, settings) for sample in samples]
    context = multiprocessing.get_context("spawn")
    described = problem.spec.model_dump(mode="json", exclude_none=True)
    with concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=_open, initargs=(described,)
    ) as pool:
        return list(pool.map(partial(_run_there, settings=settings), samples, chunksize=4))


def compare(
    name: str, default: Sequence[Run], best: Sequence[Run], n_steps: int, seed: int = 0
) -> Comparison:
    """Compare searches from the same starts, in the same order."""
    molecules = np.array([run.molecule for run in default])
    gains = _array(run.converged for run in best) - _array(run.converged for run in default)
    steps = _array(_spent(run, n_steps) for run in best)
    steps -= _array(_spent(run, n_steps) for run in default)
    gain_interval, steps_interval = mean_intervals(
        np.column_stack([gains, steps]), molecules, n_resamples=N_RESAMPLES, seed=seed
    )
    return Comparison(
        name=name,
        n_molecules=len(set(molecules)),
        default=rate(default, n_steps),
        best=rate(best, n_steps),
        gained=int((gains > 0).sum()),
        lost=int((gains < 0).sum()),
        difference=float(gains.mean()),
        difference_interval=gain_interval,
        steps_difference=float(steps.mean()),
        steps_interval=steps_interval,
    )


def rate(runs: Sequence[Run], n_steps: int) -> Rate:
    """Return how often searches converge, and after how many steps."""
    steps = [run.steps for run in runs if run.converged]
    low, high = wilson_interval(len(steps) / len(runs), len(runs))
    return Rate(
        len(steps),
        len(runs),
        (float(low[0]), float(high[0])),
        float(np.mean(steps)) if steps else None,
        float(np.mean([_spent(run, n_steps) for run in runs])),
    )


def describe(comparisons: Sequence[Comparison], runs: Mapping[str, Sequence[Run]]) -> Any:
    """Return all of it as what JSON has."""
    return {
        "comparisons": [asdict(comparison) for comparison in comparisons],
        "runs": {name: [asdict(run) for run in of_one] for name, of_one in runs.items()},
    }


def _array(values: Iterable[float]) -> Floats:
    return np.array([*values], dtype=np.float64)


def _spent(run: Run, n_steps: int) -> int:
    return run.steps if run.converged else n_steps


def _run(problem: Problem, sample: Sample, settings: Settings) -> Run:
    spec = problem.spec
    found = search_from(
        sample,
        problem.calculator,
        settings,
        n_steps=spec.n_steps,
        max_gradient=spec.max_gradient,
    )
    return Run(
        sample.molecule.name,
        sample.seed,
        found.converged,
        found.steps,
        found.kicks,
        found.negative,
        found.reason,
    )


# One process's own: a calculator cannot be sent to another one.
_problem: Problem | None = None


def _open(described: Mapping[str, Any]) -> None:
    global _problem
    use_threads(1)
    _problem = Problem(described)


def _run_there(sample: Sample, settings: Settings) -> Run:
    assert _problem is not None
    return _run(_problem, sample, settings)
