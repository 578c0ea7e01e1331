"""The room that the anions leave to each Li site of a CIF."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.chemistry.crystals import (
    Array,
    Crystal,
    find_neighbours,
    weighted,
    zeros,
)
from features.families.structure.per_structure import describe_cifs
from features.intake.cifs import read_crystal
from features.rows import Block, Log, Rows

N_COLUMNS = 7

FIRST_RADIUS_ANGSTROM = 8.0
LAST_RADIUS_ANGSTROM = 32.0
# Anions closer than this are alternatives to each other: the fuller one stands for both. A Li site
# closer than this to an anion position is never filled together with it.
EXCLUSIVE_ANGSTROM = 1.2
# A face counts for the coordination number from this share of the largest face's solid angle on;
# smaller ones come and go with the last digit of a coordinate.
SMALLEST_FACE = 0.05

_OUTCOME = "the Voronoi columns are 0"


def li_voronoi(rows: Rows, log: Log) -> Block:
    """Compute seven columns on the Voronoi cells of Li; all 0 where there are none."""
    return describe_cifs("li_voronoi", describe_voronoi, N_COLUMNS, rows, log)


def describe_voronoi(cif: bytes) -> tuple[list[float], list[str]]:
    """Return the seven values for one CIF, and the reasons for what they lack.

    Each Li site's Voronoi cell is made against the anions alone (Blatov, Crystallogr. Rev. 10, 249
    (2004)), so that partly filled Li sites and split cations do not cut it. Averages over the Li
    atoms: number of faces, as mean and standard deviation; effective number of faces,
    (sum of solid angles)^2 / sum of their squares; volume of the cell in cubic angstrom, as mean
    and standard deviation; distance from the site to the centre of the cell's corners in
    angstrom. The last is 1 where there are values.
    """
    try:
        crystal, reasons = read_crystal(cif)
        anions = anion_positions(crystal)
    except ValueError as exc:
        return zeros(N_COLUMNS, [str(exc)], _OUTCOME)
    li = np.flatnonzero(crystal.li_occupancy > 0.0)
    cells, kept, failed = [], [], ""
    for site, vectors in zip(li, _around(crystal, li, anions), strict=True):
        try:
            cells.append(_shape_of(crystal.matrix, crystal.frac[site], anions, vectors))
            kept.append(site)
        except ValueError as exc:
            failed = str(exc)
    if not cells:
        return zeros(N_COLUMNS, [*reasons, failed], _OUTCOME)
    if failed:
        reasons.append(f"{len(li) - len(kept)} of {len(li)} Li sites left out: {failed}")
    number, effective, volume, offset = np.array(cells).T
    weights = crystal.li_occupancy[kept]
    values = [*weighted(number, weights), weighted(effective, weights)[0]]
    return [*values, *weighted(volume, weights), weighted(offset, weights)[0], 1.0], reasons


def _around(crystal: Crystal, li: NDArray[np.intp], anions: Array) -> list[Array]:
    """Return the vectors to the anions near each Li site."""
    centre, _, vectors = find_neighbours(
        crystal.matrix, crystal.frac[li], anions, FIRST_RADIUS_ANGSTROM
    )
    return np.split(vectors, np.searchsorted(centre, np.arange(1, len(li))))


def anion_positions(crystal: Crystal) -> Array:
    """Return fractional coordinates of the anions, one for positions that exclude each other.

    Raises
    ------
    ValueError
        There is no anion.
    """
    sites = np.flatnonzero(crystal.anion_occupancy > 0.0)
    if not len(sites):
        raise ValueError("no anion in the CIF")
    # The fullest first; among equals the order in the file.
    sites = sites[np.argsort(-crystal.anion_occupancy[sites], kind="stable")]
    frac = crystal.frac[sites]
    first, second, _ = find_neighbours(crystal.matrix, frac, frac, EXCLUSIVE_ANGSTROM)
    rivals: dict[int, list[int]] = {}
    for one, other in zip(first.tolist(), second.tolist(), strict=True):
        rivals.setdefault(one, []).append(other)
    taken = np.zeros(len(sites), dtype=bool)
    for site in range(len(sites)):
        taken[site] = not any(taken[other] for other in rivals.get(site, ()))
    return np.asarray(frac[taken])


def _shape_of(
    matrix: Array, site: Array, anions: Array, vectors: Array
) -> tuple[float, float, float, float]:
    """Return number of faces, effective number, volume and offset of one site's cell."""
    radius = FIRST_RADIUS_ANGSTROM
    while True:
        if len(vectors) and np.linalg.norm(vectors, axis=1).min() < EXCLUSIVE_ANGSTROM:
            raise ValueError(f"an anion is within {EXCLUSIVE_ANGSTROM} angstrom of it")
        found = voronoi_cell(vectors)
        # No anion beyond twice the farthest corner can cut the cell.
        if found is not None and found.farthest <= radius / 2.0:
            break
        radius *= 2.0
        if radius > LAST_RADIUS_ANGSTROM:
            raise ValueError("the anions around it enclose no cell")
        _, _, vectors = find_neighbours(matrix, site[None, :], anions, radius)
    angles = found.angles
    faces = np.count_nonzero(angles >= SMALLEST_FACE * angles.max())
    effective = float(angles.sum() ** 2 / (angles**2).sum())
    return float(faces), effective, found.volume, float(np.linalg.norm(found.corners.mean(axis=0)))


@dataclass(frozen=True, eq=False)
class Cell:
    """A Voronoi cell around the origin.

    Attributes
    ----------
    points : integer array of shape (n_faces,)
        Which of the given points each face belongs to.
    vectors : array of shape (n_faces, 3)
        Where these points are, in angstrom.
    angles : array of shape (n_faces,)
        Solid angle of each face in steradian; they add up to 4 pi.
    areas : array of shape (n_faces,)
        In square angstrom.
    volume : float
        In cubic angstrom.
    corners : array of shape (n_corners, 3)
        In angstrom.
    farthest : float
        Distance of the farthest corner in angstrom.
    """

    points: NDArray[np.intp]
    vectors: Array
    angles: Array
    areas: Array
    volume: float
    corners: Array
    farthest: float


def voronoi_cell(vectors: Array) -> Cell | None:
    """Return the Voronoi cell of the origin among points at `vectors`, None if it is open.

    The cell is the polar dual of the convex hull of the points inverted in a sphere (Preparata and
    Shamos, Computational Geometry, 1985, section 7.3); solid angles by Van Oosterom and Strackee,
    IEEE Trans. Biomed. Eng. 30, 125 (1983).

    Parameters
    ----------
    vectors : array of shape (n, 3)
        In angstrom, none of them zero.
    """
    from scipy.spatial import ConvexHull, QhullError

    if len(vectors) < 4:
        return None
    inverted = 2.0 * vectors / np.einsum("ij,ij->i", vectors, vectors)[:, None]
    try:
        hull = ConvexHull(inverted)
    except QhullError:  # all in one plane
        return None
    normals, offsets = hull.equations[:, :3], hull.equations[:, 3]
    if offsets.max() >= -1e-9:  # the origin is not inside: the cell is open
        return None
    corners = -normals / offsets[:, None]
    # Two neighbouring facets of the hull are two corners joined by an edge of the cell, and the
    # two points that they share are the two faces that meet in it.
    one = np.repeat(np.arange(len(corners)), 3)
    other = hull.neighbors.ravel()
    shared = hull.simplices[:, [[1, 2], [0, 2], [0, 1]]].reshape(-1, 2)
    once = one < other
    one, other = np.repeat(one[once], 2), np.repeat(other[once], 2)
    face = shared[once].ravel()
    middle = _means(corners, hull.simplices, len(vectors))[face]
    solid = _solid_angles(middle, corners[one], corners[other])
    angles = np.bincount(face, solid, minlength=len(vectors))[hull.vertices]
    triple = np.einsum("ij,ij->i", middle, np.cross(corners[one], corners[other]))
    volume = float(np.abs(triple).sum()) / 6.0
    points = hull.vertices.astype(np.intp)
    own = np.bincount(face, np.abs(triple), minlength=len(vectors))[points] / 6.0
    # A face is the base of a pyramid whose height is half the way to its point.
    areas = 6.0 * own / np.linalg.norm(vectors[points], axis=1)
    farthest = float(np.linalg.norm(corners, axis=1).max())
    return Cell(points, vectors[points], angles, areas, volume, corners, farthest)


def _means(corners: Array, simplices: NDArray[np.intp], n_points: int) -> Array:
    """Return the mean of the corners of each point's face; zero for points without one."""
    point, corner = simplices.ravel(), np.repeat(np.arange(len(corners)), 3)
    counts = np.maximum(np.bincount(point, minlength=n_points), 1)
    sums = [np.bincount(point, corners[corner, axis], minlength=n_points) for axis in range(3)]
    means: Array = np.column_stack(sums) / counts[:, None]
    return means


def _solid_angles(a: Array, b: Array, c: Array) -> Array:
    """Return the solid angle of each triangle, shape (n,), seen from the origin."""
    lengths = [np.linalg.norm(corner, axis=1) for corner in (a, b, c)]
    above = np.einsum("ij,ij->i", a, np.cross(b, c))
    below = lengths[0] * lengths[1] * lengths[2]
    for (one, other), length in zip(((a, b), (a, c), (b, c)), lengths[::-1], strict=True):
        below = below + np.einsum("ij,ij->i", one, other) * length
    angles: Array = 2.0 * np.abs(np.arctan2(above, below))
    return angles
