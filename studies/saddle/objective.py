"""Tunes searches for saddle points: a trial's parts are the samples that it searches from."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from features.table import FeatureTable
from hpo.errors import ObjectiveError
from hpo.objectives.protocol import Params, Scores
from hpo.objectives.told import Total
from hpo.spec.loading import canonical, validate_as
from hpo.spec.objectives import Direction
from studies.saddle.calculators.registry import Calculator, make_calculator
from studies.saddle.gad import Settings
from studies.saddle.geometries import G2Source, Molecule, Source, read_molecules
from studies.saddle.samples import (
    Sample,
    divide_molecules,
    hash_samples,
    make_samples,
    search_from,
)
from studies.saddle.screening import Screened, Selection, screen, select

# What a hundredth of all steps costs is a ten-thousandth of the convergence rate.
STEPS_WEIGHT = 0.01
_log = logging.getLogger(__name__)


class SaddleSpec(BaseModel):
    """What `[objective.params]` of a study file says.

    Attributes
    ----------
    calculator
        `name` of a calculator, and what it is called with: `studies.saddle.calculators.registry`.
    geometries
        The molecules: `studies.saddle.geometries`.
    held_out
        Share of the molecules that tuning never sees, for `validate`.
    noise_angstrom
        Standard deviation of the noise on every coordinate.
    noise_seeds
        How many noisy copies of each molecule there are, with seeds from 0 on.
    max_samples
        How many samples are screened at most.
    screening_steps
        Steps of each in the screening.
    difficulty_threshold
        The share of screened samples that is difficult.
    n_samples
        How many difficult samples a trial is scored on.
    n_watched
        How many easy samples are watched.
    n_steps
        Steps of each sample in a trial.
    max_gradient
        Largest component of the gradient at a saddle point, in eV/angstrom. Without it, exactly
        one negative vibrational eigenvalue is enough.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    calculator: dict[str, str | int | float | bool] = {"name": "scine", "method": "DFTB0"}
    geometries: Source = G2Source(source="g2")
    held_out: float = Field(0.0, ge=0, lt=1)
    noise_angstrom: float = Field(0.1, ge=0)
    noise_seeds: int = Field(1, ge=1)
    max_samples: int = Field(100, ge=1)
    screening_steps: int = Field(200, ge=1)
    difficulty_threshold: float = Field(0.5, gt=0, le=1)
    n_samples: int = Field(15, ge=1)
    n_watched: int = Field(5, ge=0)
    n_steps: int = Field(800, ge=1)
    max_gradient: float | None = Field(None, gt=0)


class Problem:
    """What a study file's searches are about: calculator, molecules, steps."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.spec: SaddleSpec = validate_as(SaddleSpec, dict(params), "[objective.params]")
        molecules = read_molecules(self.spec.geometries)
        self.tuning, self.held_out = divide_molecules(molecules, self.spec.held_out)
        if not self.tuning:
            raise ObjectiveError(
                f"[objective.params] held_out: {self.spec.held_out} of {len(molecules)} molecules "
                "leaves none for tuning"
            )

    @cached_property
    def calculator(self) -> Calculator:
        """The surface, loaded when it is first asked for."""
        return make_calculator(self.spec.calculator)

    @property
    def seeds(self) -> range:
        """Seeds of the noise that tuning sees."""
        return range(self.spec.noise_seeds)

    def samples(self, molecules: Sequence[Molecule], seeds: Sequence[int]) -> list[Sample]:
        """Return these molecules with the noise of each seed."""
        return make_samples(molecules, seeds, self.spec.noise_angstrom)

    def pool(self) -> list[Sample]:
        """Return what is screened."""
        return self.samples(self.tuning, self.seeds)[: self.spec.max_samples]

    def screen(
        self, pool: Sequence[Sample], folder: Path, progress: Callable[[int, int], object]
    ) -> list[Screened]:
        """Run the pool with the default settings; what came of each is kept in the folder."""
        return screen(
            pool,
            self.calculator,
            json.dumps(self.spec.calculator, sort_keys=True),
            folder,
            progress,
            n_steps=self.spec.screening_steps,
            max_gradient=self.spec.max_gradient,
        )

    def select(self, screened: Sequence[Screened]) -> Selection:
        """Choose what a trial is scored on."""
        spec = self.spec
        return select(
            screened, spec.difficulty_threshold, spec.n_samples, spec.n_watched, spec.n_steps
        )


class SaddleSearch:
    """How many searches find a first-order saddle point, and how soon; maximised.

    A trial scores

        convergence rate - 0.01 * mean(steps) / n_steps,

    the mean over searches that converged; where none did it counts as n_steps. A part is one
    sample. A difficult one scores 1 - 0.01 * steps / n_steps, or 0 if it did not converge. Easy
    samples that are watched come last and score 0 whatever happens: all that they tell lies beside
    the score, and what is decided from the means of part scores is what it would be without them.

    Parameters
    ----------
    table
        Ignored: molecules come from where the parameters say.
    seed
        The study's; searches draw nothing.
    params
        `SaddleSpec`.

    Notes
    -----
    Which samples these are is known after the screening, which is the study's preparation. The
    default settings are the baseline.
    """

    direction: Direction = "maximize"
    score_name = "convergence rate - 0.01 normalised steps"
    totals: Mapping[str, Total] = MappingProxyType(
        {
            "convergence_rate": Total("convergence rate", format=".1%"),
            "mean_steps": Total("mean steps of those that converged", format=".1f"),
            "watched_rate": Total("watched: convergence rate", format=".1%"),
            "watched_mean_steps": Total("watched: mean steps", format=".1f"),
            "regressions": Total("watched: regressions", format=".0f"),
        }
    )
    baseline: Mapping[str, float] = MappingProxyType(asdict(Settings()))

    def __init__(self, table: FeatureTable | None, *, seed: int, **params: Any) -> None:  # noqa: ARG002
        self.problem = Problem(params)
        self.pool = self.problem.pool()
        self.screened: list[Screened] = []
        calculator = self.problem.calculator
        # It is chosen by its name, and so imported by none of this file's.
        self.scoring_modules = (type(calculator).__module__,)
        self.scoring_packages = (*calculator.packages, "ase")

    def prepare(self, folder: Path, progress: Callable[[int, int], object]) -> list[dict[str, Any]]:
        """Run the pool with the default settings."""
        screened = self.problem.screen(self.pool, folder, progress)
        self.problem.select(screened)
        return [asdict(row) for row in screened]

    def set_prepared(self, prepared: Sequence[Mapping[str, Any]]) -> None:
        """Choose the samples by what came of the screening."""
        self.screened = [Screened(**row) for row in prepared]

    @cached_property
    def selection(self) -> Selection:
        """Which samples a trial is scored on, and which it watches."""
        return self.problem.select(self.screened)

    @property
    def n_hard(self) -> int:
        """How many samples count."""
        return len(self.selection.hard)

    @cached_property
    def samples(self) -> list[Sample]:
        """Those that count, and then those that are watched."""
        return [self.pool[k] for k in (*self.selection.hard, *self.selection.watched)]

    @cached_property
    def parts(self) -> Sequence[str]:
        """The samples' names."""
        return tuple(
            f"{'' if place < self.n_hard else 'watched '}{sample.name}"
            for place, sample in enumerate(self.samples)
        )

    @cached_property
    def splits_hash(self) -> str:
        """A hash of what is screened and how, which decides which samples count."""
        text = f"{hash_samples(self.pool)} {canonical(self.problem.spec)}"
        return hashlib.sha256(text.encode()).hexdigest()

    def score_part(self, params: Params, part: int) -> Scores:
        """Search from one sample."""
        spec = self.problem.spec
        outcome = search_from(
            self.samples[part],
            self.problem.calculator,
            Settings.of(params),
            n_steps=spec.n_steps,
            max_gradient=spec.max_gradient,
        )
        if outcome.reason:
            _log.info("%s: after %d steps %s", self.parts[part], outcome.steps, outcome.reason)
        counts = outcome.converged and part < self.n_hard
        return {
            "score": 1.0 - STEPS_WEIGHT * outcome.steps / spec.n_steps if counts else 0.0,
            "converged": int(outcome.converged),
            "steps": outcome.steps,
            "kicks": outcome.kicks,
            "negative": outcome.negative,
            "gave_up": int(bool(outcome.reason)),
        }

    def figures(self, params: Params, parts: Sequence[Scores]) -> dict[str, Any]:  # noqa: ARG002
        """Return the steps of a trial beside those of the default settings, start by start."""
        # What draws is loaded by who draws.
        from studies.saddle.figures import draw_steps

        chosen = [self.screened[k] for k in (*self.selection.hard, *self.selection.watched)]
        n_steps = self.problem.spec.n_steps
        return {"Steps from each start": draw_steps(chosen, parts, self.n_hard, n_steps)}

    def combine(self, parts: Sequence[Scores]) -> Scores:
        """Return the score, and the convergence rates and steps of both kinds of samples.

        `mean_steps` are those of difficult samples that converged; `regressions` counts the
        watched samples that the default settings bring to convergence and these do not.
        """
        hard, watched = parts[: self.n_hard], parts[self.n_hard :]
        rate = math.fsum(part["converged"] for part in hard) / len(hard)
        steps = mean_steps(hard, self.problem.spec.n_steps)
        total = {
            "score": rate - STEPS_WEIGHT * steps / self.problem.spec.n_steps,
            "convergence_rate": rate,
            "mean_steps": steps,
        }
        if watched:
            reached = sum(part["converged"] for part in watched)
            total |= {
                "watched_rate": reached / len(watched),
                "watched_mean_steps": mean_steps(watched, self.problem.spec.n_steps),
                "regressions": len(watched) - reached,
            }
        return total


def mean_steps(parts: Sequence[Scores], n_steps: int) -> float:
    """Return the mean number of steps of searches that converged; n_steps where none did."""
    steps = [part["steps"] for part in parts if part["converged"]]
    return math.fsum(steps) / len(steps) if steps else float(n_steps)
