"""The shape of the unit cell in a CIF."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from features.chemistry.structures import decode_cif
from features.rows import Block, Log, Remark, Rows, absent_cifs

CUBIC_LENGTH_TOLERANCE = 0.01  # relative
CUBIC_ANGLE_TOLERANCE_DEG = 1.0

_LENGTHS = ("_cell_length_a", "_cell_length_b", "_cell_length_c")
_ANGLES = ("_cell_angle_alpha", "_cell_angle_beta", "_cell_angle_gamma")


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
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                values[row] = _shape(*read_cell(cif))
            except Exception as exc:  # a broken CIF makes the parser raise just about anything
                remarks.append(Remark(row, f"no cell in the CIF ({exc}): its shape is 0"))
        said = [str(item.message) for item in caught if item.category is UserWarning]
        remarks += [Remark(row, line) for line in dict.fromkeys(said)]
    return Block(values, (*remarks, *absent_cifs(rows)))


def read_cell(cif: bytes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return lengths in angstrom and angles in degrees of a CIF's first cell, three each.

    Raises
    ------
    ValueError
        If one of the six is missing, not a number or not positive.
    """
    from pymatgen.io.cif import CifFile, str2float

    blocks = CifFile.from_str(decode_cif(cif)).data.values()
    block = next((b for b in blocks if _LENGTHS[0] in b.data), None)
    if block is None:
        raise ValueError(f"it has no {_LENGTHS[0]}")
    cell = np.array([float(str2float(block[key])) for key in (*_LENGTHS, *_ANGLES)])
    if not (np.isfinite(cell).all() and (cell > 0.0).all()):
        raise ValueError(f"lengths and angles must be positive, got {cell.tolist()}")
    return cell[:3], cell[3:]


def _shape(
    lengths: NDArray[np.float64], angles: NDArray[np.float64]
) -> tuple[float, float, float, float]:
    a, b, c = lengths
    skew = np.abs(angles - 90.0)
    cubic = np.ptp(lengths) <= CUBIC_LENGTH_TOLERANCE * lengths.mean()
    cubic = cubic and skew.max() <= CUBIC_ANGLE_TOLERANCE_DEG
    return b / a, c / b, float(skew.mean()), float(cubic)
