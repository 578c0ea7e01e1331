"""Small crystals, and rows made of formulas."""

from __future__ import annotations

import numpy as np

from features.chemistry.formulas import Compositions, parse_plain
from features.intake.formulas import read_formula
from features.records import Target
from features.rows import Rows

# Eight atoms without symmetry, chlorine first; the parser is slow on 192 symmetry operations.
ROCK_SALT = """data_LiCl
_symmetry_space_group_name_H-M 'P 1'
_symmetry_Int_Tables_number 1
_cell_length_a 5.14
_cell_length_b 5.14
_cell_length_c 5.14
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_symmetry_equiv_pos_as_xyz
'x, y, z'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Cl1 Cl 0.5 0.5 0.5 1.0
Cl2 Cl 0.5 0.0 0.0 1.0
Cl3 Cl 0.0 0.5 0.0 1.0
Cl4 Cl 0.0 0.0 0.5 1.0
Li1 Li 0.0 0.0 0.0 {occupancy}
Li2 Li 0.0 0.5 0.5 {occupancy}
Li3 Li 0.5 0.0 0.5 {occupancy}
Li4 Li 0.5 0.5 0.0 {occupancy}
"""


LICL = ROCK_SALT.format(occupancy="1.0").encode()


def rows_of(formulas: list[str], cifs: list[bytes | None] | None = None) -> Rows:
    n = len(formulas)
    cell = {name: np.full(n, 5.14) for name in ("a", "b", "c")}
    cell |= {name: np.full(n, 90.0) for name in ("alpha", "beta", "gamma")}
    cell |= {"space_group": np.arange(n) % 230 + 1.0, "formula_units": np.full(n, 4.0)}
    return Rows(
        ids=tuple(f"id{i}" for i in range(n)),
        sources=("made.csv",) * n,
        lines=tuple(range(2, n + 2)),
        formulas=tuple(formulas),
        amounts=Compositions.of(
            parse_plain(formula) or read_formula(formula).amounts for formula in formulas
        ),
        y=np.zeros(n),
        is_coerced=np.arange(n) % 2 == 1,
        groups=tuple(formulas),
        is_train=np.ones(n, dtype=bool),
        target=Target("made"),
        cell=cell,
        cifs=tuple(cifs or [LICL, ROCK_SALT.format(occupancy="0.5").encode()] * n)[:n],
    )


def silent(_line: str) -> None:
    pass
