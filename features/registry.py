"""The feature families: one record each, and the one place to add a family.

Importing this module imports no chemistry: a family's code is named as ``module:function`` and
loaded when a table is built. The function takes the rows of a dataset
(:class:`features.rows.Rows`) and returns a :class:`features.rows.Block`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from features.elements import ELEMENTS
from features.records import Column

Need = Literal["formula", "target", "cell", "cif"]

# Names that the table itself uses in its Parquet file; no feature may take one.
RESERVED_NAMES = frozenset({"id", "formula", "y", "group", "split"})


@dataclass(frozen=True)
class FamilyInfo:
    """A feature family: what it is, what it needs, and where its code lives."""

    name: str
    description: str
    needs: tuple[Need, ...]
    fields: tuple[tuple[str, str], ...]  # (column name, unit)
    compute: str  # "module:function"
    packages: tuple[str, ...] = ()  # distributions whose version the values depend on
    derived_from_target: bool = False

    @property
    def n_columns(self) -> int:
        """Number of columns that the family adds to a table."""
        return len(self.fields)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The family's columns, in order."""
        return tuple(
            Column(name, self.name, unit, self.derived_from_target) for name, unit in self.fields
        )


# In the column order of the embedding's table.
_MAGPIE_FIELDS = (
    ("magpie_atomic_number", ""),
    ("magpie_mendeleev_number", ""),
    ("magpie_atomic_weight", "g/mol"),
    ("magpie_melting_point", "K"),
    ("magpie_column", ""),
    ("magpie_row", ""),
    ("magpie_covalent_radius", "pm"),
    ("magpie_electronegativity", ""),
    ("magpie_s_valence", ""),
    ("magpie_p_valence", ""),
    ("magpie_d_valence", ""),
    ("magpie_f_valence", ""),
    ("magpie_valence", ""),
    ("magpie_s_unfilled", ""),
    ("magpie_p_unfilled", ""),
    ("magpie_d_unfilled", ""),
    ("magpie_f_unfilled", ""),
    ("magpie_unfilled", ""),
    ("magpie_elemental_volume_per_atom", "A^3"),
    ("magpie_elemental_band_gap", "eV"),
    ("magpie_elemental_magnetic_moment", "mu_B"),
    ("magpie_elemental_space_group", ""),
)

_LATTICE_FIELDS = (
    ("lattice_a", "A"),
    ("lattice_b", "A"),
    ("lattice_c", "A"),
    ("lattice_alpha", "deg"),
    ("lattice_beta", "deg"),
    ("lattice_gamma", "deg"),
    ("space_group_number", ""),
)

_CELL_SHAPE_FIELDS = (
    ("lattice_b_over_a", ""),
    ("lattice_c_over_b", ""),
    ("orthogonality_deviation", "deg"),
    ("is_cubic_like", ""),
)

_LI_ENVIRONMENT_FIELDS = (
    ("has_cif_struct", ""),
    ("li_fraction", ""),
    ("li_concentration", "1/A^3"),
    ("framework_density", "1/A^3"),
    ("li_li_distance", "A"),
    ("li_anion_distance", "A"),
    ("li_coordination_number", ""),
    ("li_site_multiplicity", ""),
)


def _numbered(prefix: str, count: int, first: int = 0) -> tuple[tuple[str, str], ...]:
    return tuple((f"{prefix}_{number}", "") for number in range(first, first + count))


_FAMILIES = (
    FamilyInfo(
        "ratios",
        "Li atomic fraction, anion atomic fraction, number of distinct elements",
        ("formula",),
        (("li_atomic_fraction", ""), ("anion_atomic_fraction", ""), ("n_elements", "")),
        "features.composition:ratios",
    ),
    FamilyInfo(
        "smact",
        "atomic fraction of each of the elements H to Lr (SMACT's composition vector)",
        ("formula",),
        tuple((f"smact_{symbol}", "") for symbol in ELEMENTS),
        "features.composition:smact_vector",
    ),
    FamilyInfo(
        "magpie",
        "mean over the atoms of 22 tabulated element properties (Magpie)",
        ("formula",),
        _MAGPIE_FIELDS,
        "features.embeddings:magpie",
        ("elementembeddings",),
    ),
    FamilyInfo(
        "mat2vec",
        "mean over the atoms of the 200-dimensional Mat2Vec element vectors",
        ("formula",),
        _numbered("mat2vec", 200),
        "features.embeddings:mat2vec",
        ("elementembeddings",),
    ),
    FamilyInfo(
        "megnet16",
        "mean over the atoms of the 16-dimensional MEGNet element vectors",
        ("formula",),
        _numbered("megnet16", 16),
        "features.embeddings:megnet16",
        ("elementembeddings",),
    ),
    FamilyInfo(
        "sigma_is_coerced",
        "1 where the target was reported as a threshold such as <1E-10: made from the target",
        ("target",),
        (("sigma_is_coerced", ""),),
        "features.composition:coerced_flag",
        derived_from_target=True,
    ),
    FamilyInfo(
        "cell",
        "density, volume per atom, Li atoms and formula units of the unit cell",
        ("formula", "cell"),
        (
            ("density", "g/cm^3"),
            ("volume_per_atom", "A^3"),
            ("n_li", "1/cell"),
            ("formula_units", "1/cell"),
        ),
        "features.cells:cell",
        ("pymatgen", "pymatgen-core"),
    ),
    FamilyInfo(
        "lattice",
        "lattice parameters and space-group number",
        ("cell",),
        _LATTICE_FIELDS,
        "features.cells:lattice",
    ),
    FamilyInfo(
        "cell_shape",
        "shape of the cell in the CIF: ratios of its lengths, deviation from right angles",
        ("cif",),
        _CELL_SHAPE_FIELDS,
        "features.cell_shape:cell_shape",
        ("pymatgen", "pymatgen-core"),
    ),
    FamilyInfo(
        "li_environment",
        "Li sites of the CIF structure: density, distances, coordination, multiplicity",
        ("cif",),
        _LI_ENVIRONMENT_FIELDS,
        "features.li_environment:li_environment",
        ("pymatgen", "pymatgen-core", "spglib"),
    ),
    FamilyInfo(
        "space_group",
        "space group as 230 columns of 0 and 1",
        ("cell",),
        _numbered("sg", 230, first=1),
        "features.cells:space_group",
    ),
)

FAMILIES: Mapping[str, FamilyInfo] = MappingProxyType({family.name: family for family in _FAMILIES})
