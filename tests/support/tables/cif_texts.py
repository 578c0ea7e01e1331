"""CIFs as text, from a few parts that a test may change one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from features.intake.cifs import read_cif, read_structure
from features.intake.structure_checks import N_VALUES, describe_checks

COLUMNS = ("label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy")


def cif(
    cell: Sequence[object],
    atoms: Sequence[str],
    *,
    columns: Sequence[str] = COLUMNS,
    symmetry: str = "_symmetry_space_group_name_H-M 'P 1'",
    more: Mapping[str, str] | None = None,
) -> str:
    """Return a CIF of a cell, one text for each row of atoms, and a text on symmetry."""
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    return "\n".join(
        [
            "data_made",
            *(f"_cell_{name} {value}" for name, value in zip(names, cell, strict=True)),
            *(f"{name} {value}" for name, value in (more or {}).items()),
            symmetry,
            "loop_",
            *(f"_atom_site_{name}" for name in columns),
            *atoms,
            "",
        ]
    )


def operations(texts: Sequence[str], name: str = "_space_group_symop_operation_xyz") -> str:
    """Return a loop of symmetry operations."""
    return "\n".join(["loop_", name, *(f"'{text}'" for text in texts)])


# Rock salt: one row for each of the four atoms of a kind in the cell.
CUBIC = (4.027, 4.027, 4.027, 90, 90, 90)
LIF = ("Li1 Li 0 0 0 1", "F1 F 0.5 0.5 0.5 1")
ROCK_SALT_GROUP = "_symmetry_space_group_name_H-M 'F m -3 m'"


def rock_salt(atoms: Sequence[str] = LIF, cell: Sequence[object] = CUBIC, **parts: object) -> str:
    """Return LiF in Fm-3m with some of its parts replaced."""
    return cif(cell, atoms, **{"symmetry": ROCK_SALT_GROUP, **parts})  # type: ignore[arg-type]


FACE_CENTRED = ("x,y,z", "x,y+1/2,z+1/2", "X+.5, Y, Z+.5", "1/2+x,0.5+y,z")


def formula_of(text: str | bytes) -> str:
    """Return the atoms of the cell in a CIF."""
    data = text.encode() if isinstance(text, str) else text
    return read_cif(data).structure.formula.replace(" ", "")


def remarks_on(text: str) -> str:
    """Return what had to be mended or assumed in a CIF."""
    return "; ".join(read_cif(text.encode()).remarks)


def refusal_of(text: str | bytes) -> str:
    """Return why a CIF cannot be read, which families and checks say alike."""
    data = text.encode() if isinstance(text, str) else text
    with pytest.raises(ValueError, match="CIF cannot be parsed") as caught:
        read_structure(data)
    values, failed = describe_checks(data)
    assert (values, failed) == ([0.0] * N_VALUES, [str(caught.value)])
    return str(caught.value)
