"""Volumes of unit cells from their edges and angles."""

from __future__ import annotations

import math

# Below this square of the volume over a b c, the axes lie in a plane and the rest is rounding.
FLAT = 1e-9


def cell_volume(
    a: float, b: float, c: float, alpha_deg: float, beta_deg: float, gamma_deg: float
) -> float:
    """Return the volume of a unit cell in cubic angstrom; NaN if the angles close no cell.

    International Tables for Crystallography, vol. C, section 1.1.
    """
    cosines = [math.cos(math.radians(angle)) for angle in (alpha_deg, beta_deg, gamma_deg)]
    squared = 1.0 - sum(cosine**2 for cosine in cosines) + 2.0 * math.prod(cosines)
    return a * b * c * math.sqrt(squared) if squared > FLAT else math.nan
