"""Samples: molecules with noise on their positions; which are for tuning, which kept away."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from studies.saddle.calculators.registry import Calculator, Floats
from studies.saddle.gad import Outcome, Settings, search
from studies.saddle.geometries import Molecule


@dataclass(frozen=True, eq=False)
class Sample:
    """Where a search begins.

    Attributes
    ----------
    start
        Array of shape (n, 3), in angstrom.
    """

    molecule: Molecule
    seed: int
    start: Floats

    @property
    def name(self) -> str:
        """The molecule and the seed of its noise."""
        return f"{self.molecule.name} {self.seed}"


def make_samples(
    molecules: Sequence[Molecule], seeds: Sequence[int], noise_angstrom: float
) -> list[Sample]:
    """Return every molecule with the noise of each seed: all of the first seed, then the next.

    The noise is Gaussian, with standard deviation `noise_angstrom` in each coordinate, from a
    random stream that the seed and the molecule's name choose.
    """
    samples = []
    for seed in seeds:
        for molecule in molecules:
            stream = np.random.default_rng([seed, zlib.crc32(molecule.name.encode())])
            noise = stream.normal(scale=noise_angstrom, size=molecule.positions.shape)
            samples.append(Sample(molecule, seed, molecule.positions + noise))
    return samples


def divide_molecules(
    molecules: Sequence[Molecule], held_out: float
) -> tuple[list[Molecule], list[Molecule]]:
    """Return the molecules for tuning, and those that tuning never sees.

    `held_out` is the share of the latter. A molecule's name alone says how early it is held out:
    no seed has a part in it.
    """

    def rank(molecule: Molecule) -> str:
        return hashlib.sha256(molecule.name.encode()).hexdigest()

    n_held = round(held_out * len(molecules))
    held = {molecule.name for molecule in sorted(molecules, key=rank)[:n_held]}
    return (
        [molecule for molecule in molecules if molecule.name not in held],
        [molecule for molecule in molecules if molecule.name in held],
    )


def hash_samples(samples: Sequence[Sample]) -> str:
    """Return a hash of where all searches begin."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(f"{sample.name}\n".encode())
        digest.update(np.ascontiguousarray(sample.molecule.numbers, dtype="<i8").tobytes())
        # A nanometre's millionth: the same noise on every machine.
        digest.update(np.round(sample.start * 1e5).astype("<i8").tobytes())
    return digest.hexdigest()


def search_from(
    sample: Sample,
    calculator: Calculator,
    settings: Settings,
    *,
    n_steps: int,
    max_gradient: float | None,
) -> Outcome:
    """Search for a saddle point from a sample; see `studies.saddle.gad.search`."""
    molecule = sample.molecule
    return search(
        calculator,
        molecule.numbers,
        molecule.masses,
        sample.start,
        settings,
        n_steps=n_steps,
        max_gradient=max_gradient,
    )
