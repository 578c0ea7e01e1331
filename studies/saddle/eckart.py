"""Vibrations of a molecule: what is left of its motion without translation and rotation.

In mass-weighted coordinates q_ia = sqrt(m_i) x_ia, translation along axis a is sqrt(m_i) e_a, and
infinitesimal rotation about axis a is sqrt(m_i) e_a x (x_i - x_cm): the conditions of Eckart,
Phys. Rev. 47, 552 (1935). Miller, Handy & Adams, J. Chem. Phys. 72, 99 (1980) project these
directions out of the force constant matrix. Here that matrix is written in an orthonormal basis of
what is left, which has the same eigenvalues less those that are zero for want of a restoring force.
"""

from __future__ import annotations

import numpy as np

from studies.saddle.calculators.registry import Evaluation, Floats

# Rotation about the axis of a linear molecule moves nothing: below this share of the largest
# singular value, a rotation is none.
_LINEAR = 1e-6


def vibrational_basis(masses: Floats, positions: Floats) -> Floats:
    """Return an orthonormal basis of the vibrations, in mass-weighted coordinates.

    Parameters
    ----------
    masses
        Array of shape (n,), in unified atomic mass units.
    positions
        Array of shape (n, 3), in angstrom.

    Returns
    -------
    array of shape (3 n, n_vibrations)
        3 n - 6 vibrations, 3 n - 5 of a linear molecule.
    """
    weights = np.sqrt(masses)[:, None]
    centred = positions - (masses[:, None] * positions).sum(axis=0) / masses.sum()
    axes = np.eye(3)[:, None, :]
    translations = (weights * (axes / np.sqrt(masses.sum()))).reshape(3, -1)
    rotations = (weights * np.cross(axes, centred[None])).reshape(3, -1)
    # Moments of inertia have other units than masses: the length of the largest rotation is 1.
    longest = float(np.linalg.norm(rotations, axis=1).max())
    if longest > 0.0:
        rotations = rotations / longest
    rigid = np.concatenate([translations, rotations]).T
    vectors, sizes, _ = np.linalg.svd(rigid, full_matrices=True)
    n_rigid = int((sizes > _LINEAR * sizes[0]).sum())
    return np.ascontiguousarray(vectors[:, n_rigid:])


def free_basis(_masses: Floats, positions: Floats) -> Floats:
    """Return the basis of all motion, for a surface on which nothing floats.

    Arguments are those of `vibrational_basis`, in any number of dimensions.
    """
    return np.eye(positions.size)


def vibrational_modes(
    evaluation: Evaluation, masses: Floats, basis: Floats
) -> tuple[Floats, Floats, Floats]:
    """Return eigenvalues, modes and gradient of the vibrations.

    Parameters
    ----------
    evaluation
        Of the surface at the positions that the basis was made for.
    masses
        Array of shape (n,), in unified atomic mass units.
    basis
        From `vibrational_basis` or `free_basis`.

    Returns
    -------
    eigenvalues : array of shape (n_vibrations,)
        In eV/(angstrom^2 u), ascending.
    modes : array of shape (n * d, n_vibrations)
        Unit vectors in mass-weighted coordinates, a column each.
    gradient : array of shape (n * d,)
        Mass-weighted and projected, in eV/(angstrom u^1/2).
    """
    weights = np.repeat(np.sqrt(masses), evaluation.gradient.shape[1])
    reduced = basis.T @ (evaluation.hessian / np.outer(weights, weights)) @ basis
    eigenvalues, vectors = np.linalg.eigh(0.5 * (reduced + reduced.T))
    gradient = basis @ (basis.T @ (evaluation.gradient.ravel() / weights))
    return eigenvalues, basis @ vectors, gradient
