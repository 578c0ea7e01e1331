"""A crystal as arrays, disorder and all, and what the physics families share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.chemistry.elements import ISOTOPES
from features.chemistry.oxidation_states import OxidationStates, assign_states

Array = NDArray[np.float64]

MAX_IMAGES = 10_000_000  # of all points, in the cells around: 1 GB
COINCIDENT_ANGSTROM = 1e-3  # closer than this, two positions are one
# Above this many elementary charges per atom, a cell counts as charged.
SLACK_TOLERANCE = 0.01


@dataclass(frozen=True, eq=False)
class Crystal:
    """A unit cell whose sites may be partly occupied or shared.

    Attributes
    ----------
    matrix : array of shape (3, 3)
        Lattice vectors in angstrom, one a row.
    frac : array of shape (n_sites, 3)
        Fractional coordinates in [0, 1).
    symbols : tuple of str
        The elements; isotopes count as hydrogen.
    occupancy : array of shape (n_sites, n_elements)
        Atoms of each element on each site.
    states : OxidationStates
        Average oxidation state of each element.
    """

    matrix: Array
    frac: Array
    symbols: tuple[str, ...]
    occupancy: Array
    states: OxidationStates

    @property
    def volume(self) -> float:
        """Volume of the cell in cubic angstrom."""
        return float(abs(np.linalg.det(self.matrix)))

    @property
    def element_charges(self) -> Array:
        """Average oxidation state of each of `symbols`, in elementary charges."""
        return np.array([self.states.average[symbol] for symbol in self.symbols])

    @property
    def site_charges(self) -> Array:
        """Average charge of each site in elementary charges, shape (n_sites,)."""
        charges: Array = self.occupancy @ self.element_charges
        return charges

    @property
    def li_occupancy(self) -> Array:
        """Li atoms on each site, shape (n_sites,)."""
        if "Li" not in self.symbols:
            return np.zeros(len(self.frac))
        return np.asarray(self.occupancy[:, self.symbols.index("Li")], dtype=np.float64)

    @property
    def anion_occupancy(self) -> Array:
        """Atoms with a negative oxidation state on each site, shape (n_sites,)."""
        total: Array = self.occupancy[:, self.element_charges < 0.0].sum(axis=1)
        return total


def crystal_of(structure: Any) -> Crystal:
    """Return a pymatgen structure as a crystal; oxidation states that it has are not used."""
    # `element` of deuterium is D, whose chemistry is that of hydrogen.
    per_site = []
    for site in structure:
        amounts: dict[str, float] = {}
        for species, amount in site.species.items():
            symbol = ISOTOPES.get(species.symbol, species.symbol)
            amounts[symbol] = amounts.get(symbol, 0.0) + float(amount)
        per_site.append(amounts)
    symbols = tuple(sorted({symbol for amounts in per_site for symbol in amounts}))
    occupancy = np.array([[amounts.get(s, 0.0) for s in symbols] for amounts in per_site])
    return Crystal(
        matrix=np.array(structure.lattice.matrix, dtype=np.float64),
        frac=np.mod(np.array(structure.frac_coords, dtype=np.float64), 1.0),
        symbols=symbols,
        occupancy=occupancy,
        states=assign_states(dict(zip(symbols, occupancy.sum(axis=0).tolist(), strict=True))),
    )


def find_neighbours(
    matrix: Array, centres: Array, points: Array, radius: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], Array]:
    """Find every periodic image of `points` within `radius` angstrom of each centre.

    Parameters
    ----------
    matrix : array of shape (3, 3)
        Lattice vectors in angstrom, one a row.
    centres, points : arrays of shape (n, 3) and (m, 3)
        Fractional coordinates in [0, 1).

    Returns
    -------
    centre, point : integer arrays of shape (n_pairs,)
    vector : array of shape (n_pairs, 3)
        From the centre to the image, in angstrom. A point on the centre itself is left out.

    Raises
    ------
    ValueError
        More than `MAX_IMAGES` have to be looked at.
    """
    from scipy.spatial import cKDTree

    reach = np.ceil(radius * np.linalg.norm(np.linalg.inv(matrix), axis=0)).astype(int)
    n_images = len(points) * math.prod((2 * reach + 1).tolist())
    if n_images > MAX_IMAGES:
        raise ValueError(
            f"{n_images:.3g} images of its sites are within {radius:.3g} A, and at most "
            f"{MAX_IMAGES:.3g} are looked at"
        )
    cells = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1)
    images = (points[None, :, :] + cells.reshape(-1, 1, 3)).reshape(-1, 3) @ matrix
    of_image = np.tile(np.arange(len(points)), cells.size // 3)
    places = centres @ matrix
    near = np.all(
        (images >= places.min(axis=0) - radius) & (images <= places.max(axis=0) + radius), axis=1
    )
    images, of_image = images[near], of_image[near]
    found = cKDTree(images).query_ball_point(places, radius) if len(images) else []
    counts = [len(members) for members in found]
    if not sum(counts):
        none = np.zeros(0, dtype=np.intp)
        return none, none, np.zeros((0, 3))
    centre = np.repeat(np.arange(len(places)), counts)
    image = np.concatenate([np.asarray(members, dtype=np.intp) for members in found])
    vector = images[image] - places[centre]
    apart = np.einsum("ij,ij->i", vector, vector) > COINCIDENT_ANGSTROM**2
    return centre[apart], of_image[image][apart], vector[apart]


def weighted(values: Array, weights: Array) -> tuple[float, float]:
    """Return the weighted mean and the weighted (population) standard deviation."""
    mean = float(np.average(values, weights=weights))
    return mean, float(np.sqrt(np.average((values - mean) ** 2, weights=weights)))


def zeros(count: int, reasons: Sequence[str], outcome: str) -> tuple[list[float], list[str]]:
    """Return what a family says of a CIF that it cannot describe."""
    return [0.0] * count, [f"{'; '.join(reasons)}: {outcome}"]
