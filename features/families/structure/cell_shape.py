"""The shape of the unit cell in a CIF."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from features.intake.cifs import read_first_cell
from features.rows import Block, Log, Remark, Rows, absent_cifs

CUBIC_LENGTH_TOLERANCE = 0.01  # relative
CUBIC_ANGLE_TOLERANCE_DEG = 1.0


def cell_shape(rows: Rows, _log: Log) -> Block:
    """Compute four columns on the cell of each row's CIF; all 0 where there is none.

    The ratios b/a and c/b; the mean over the three angles of what parts each from 90 degrees; and
    1 where the cell looks cubic: lengths that agree within 1 % of their mean, and every angle
    within 1 degree of 90.
    """
    values = np.zeros((len(rows), 4))
    remarks = list(rows.cif_remarks)
    for row, cif in enumerate(rows.cifs):
        if cif is None:
            continue
        try:
            cell = np.array(read_first_cell(cif))
        except ValueError as exc:
            remarks.append(Remark(row, f"no cell in the CIF ({exc}): its shape is 0"))
        else:
            values[row] = _shape(cell[:3], cell[3:])
    return Block(values, (*remarks, *absent_cifs(rows)))


def _shape(
    lengths: NDArray[np.float64], angles: NDArray[np.float64]
) -> tuple[float, float, float, float]:
    a, b, c = lengths
    skew = np.abs(angles - 90.0)
    cubic = np.ptp(lengths) <= CUBIC_LENGTH_TOLERANCE * lengths.mean()
    cubic = cubic and skew.max() <= CUBIC_ANGLE_TOLERANCE_DEG
    return b / a, c / b, float(skew.mean()), float(cubic)
