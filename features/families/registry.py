"""The feature families: one record each, and the one place to add a family.

Importing this module imports no chemistry: a family's code is named as `module:function` and
loaded when a table is built. The function takes the rows of a dataset
(`features.rows.Rows`) and returns a `features.rows.Block`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from features.chemistry.elements import ELEMENTS
from features.records import Column

if TYPE_CHECKING:
    from features.rows import Block, Log, Rows

Need = Literal["formula", "target", "cell", "cif"]

# Names that the table itself uses in its Parquet file; no feature may take one.
RESERVED_NAMES = frozenset(
    {"id", "formula", "y", "group", "split", "sample_weight", "test_fold", "y_lower", "y_upper"}
)


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
    # "module:function" that describes one CIF, where a row's values depend on nothing else: then
    # each CIF's are kept by themselves, and several processes share them.
    describe: str = ""

    @property
    def n_columns(self) -> int:
        """Number of columns that the family adds to a table."""
        return len(self.fields)

    @property
    def is_quick(self) -> bool:
        """Whether its values take less time to compute than to keep and to check."""
        return {"formula", "target"}.issuperset(self.needs)

    def run(self, rows: Rows, log: Log, workers: int = 1) -> Block:
        """Return its columns for these rows, computed in this process."""
        del workers
        module, _, function = self.compute.partition(":")
        compute: Callable[[Rows, Log], Block] = getattr(importlib.import_module(module), function)
        return compute(rows, log)

    @property
    def indicator(self) -> str:
        """The one column that is 1 where a CIF could be described; "" if there is none such."""
        names = [name for name, _ in self.fields if name.startswith("has_")]
        return names[0] if self.describe and len(names) == 1 else ""

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

# The properties of matminer's preset "magpie", in its order.
_MAGPIE_PROPERTIES = (
    ("number", ""),
    ("mendeleev_number", ""),
    ("atomic_weight", "g/mol"),
    ("melting_t", "K"),
    ("column", ""),
    ("row", ""),
    ("covalent_radius", "pm"),
    ("electronegativity", ""),
    ("ns_valence", ""),
    ("np_valence", ""),
    ("nd_valence", ""),
    ("nf_valence", ""),
    ("n_valence", ""),
    ("ns_unfilled", ""),
    ("np_unfilled", ""),
    ("nd_unfilled", ""),
    ("nf_unfilled", ""),
    ("n_unfilled", ""),
    ("gs_volume_pa", "A^3"),
    ("gs_bandgap", "eV"),
    ("gs_magmom", "mu_B"),
    ("space_group_number", ""),
)
_STATISTICS = ("minimum", "maximum", "range", "mean", "avg_dev", "mode")

_MAGPIE_STATISTICS_FIELDS = tuple(
    (f"magpie_{statistic}_{name}", unit)
    for name, unit in _MAGPIE_PROPERTIES
    for statistic in _STATISTICS
)

_VALENCE_ORBITALS_FIELDS = tuple(
    (f"{kind}_{orbital}_valence_electrons", "")
    for kind in ("avg", "frac")
    for orbital in ("s", "p", "d", "f")
)

_LI_CHEMISTRY_FIELDS = (
    ("li_per_anion", ""),
    ("li_per_framework_cation", ""),
    *((f"anion_fraction_{symbol}", "") for symbol in ("O", "S", "Se", "F", "Cl", "Br", "I", "N")),
    ("electronegativity_contrast", ""),
    ("framework_cation_radius", "A"),
    ("framework_cation_charge", "e"),
    ("n_anion_elements", ""),
    ("n_framework_elements", ""),
    ("framework_entropy", ""),
    ("anion_entropy", ""),
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

_PHYSICS_PACKAGES = ("pymatgen", "pymatgen-core", "scipy")

_PHYSICS_REPORT_FIELDS = (
    ("bv_mismatch_avg", ""),
    ("bv_mismatch_std", ""),
    ("ewald_energy_avg", "eV"),
    ("ewald_energy_std", "eV"),
    ("li_voronoi_cn_avg", ""),
    ("has_bv_mismatch", ""),
    ("has_ewald_energy", ""),
    ("has_voronoi_cn", ""),
)

_BOND_VALENCE_FIELDS = (
    ("li_bond_valence_avg", ""),
    ("li_bond_valence_std", ""),
    ("li_bond_valence_mismatch_avg", ""),
    ("li_bond_valence_mismatch_std", ""),
    ("li_soft_valence_avg", ""),
    ("li_soft_valence_std", ""),
    ("li_soft_valence_mismatch_avg", ""),
    ("li_soft_valence_mismatch_std", ""),
    ("has_li_bond_valence", ""),
)

_EWALD_FIELDS = (
    ("li_site_energy_avg", "eV"),
    ("li_site_energy_std", "eV"),
    ("ewald_energy_per_atom", "eV"),
    ("oxidation_slack", "e"),
    ("has_li_site_energy", ""),
)

_LI_VORONOI_FIELDS = (
    ("li_cell_faces_avg", ""),
    ("li_cell_faces_std", ""),
    ("li_cell_effective_faces", ""),
    ("li_cell_volume_avg", "A^3"),
    ("li_cell_volume_std", "A^3"),
    ("li_cell_offset", "A"),
    ("has_li_cell", ""),
)

_BONDS_FIELDS = (
    ("bond_atom_volume", "A^3"),
    ("bond_length_avg", "A"),
    ("bond_length_std", "A"),
    ("bond_length_over_radii", ""),
    ("bonds_per_atom", ""),
    ("bonds_unlike", ""),
    ("bond_electronegativity_avg", ""),
    ("bond_electronegativity_std", ""),
    ("has_bonds", ""),
)

_COORDINATION_FIELDS = (
    ("li_coordination_avg", ""),
    ("framework_coordination_avg", ""),
    ("anion_coordination_avg", ""),
    ("has_coordination", ""),
)

_BVSE_FIELDS = (
    ("bvse_barrier_1d", "eV"),
    ("bvse_barrier_2d", "eV"),
    ("bvse_barrier_3d", "eV"),
    ("bvse_share_within_half_ev", ""),
    ("bvse_share_within_one_ev", ""),
    ("bvse_li_energy", "eV"),
    ("has_bvse", ""),
)


def _numbered(prefix: str, count: int, first: int = 0) -> tuple[tuple[str, str], ...]:
    return tuple((f"{prefix}_{number}", "") for number in range(first, first + count))


_FAMILIES = (
    FamilyInfo(
        "ratios",
        "Li atomic fraction, anion atomic fraction, number of distinct elements",
        ("formula",),
        (("li_atomic_fraction", ""), ("anion_atomic_fraction", ""), ("n_elements", "")),
        "features.families.formula.composition:ratios",
    ),
    FamilyInfo(
        "smact",
        "atomic fraction of each of the elements H to Lr (SMACT's composition vector)",
        ("formula",),
        tuple((f"smact_{symbol}", "") for symbol in ELEMENTS),
        "features.families.formula.composition:smact_vector",
    ),
    FamilyInfo(
        "magpie",
        "mean over the atoms of 22 tabulated element properties (Magpie)",
        ("formula",),
        _MAGPIE_FIELDS,
        "features.families.formula.embeddings:magpie",
        ("elementembeddings",),
    ),
    FamilyInfo(
        "mat2vec",
        "mean over the atoms of the 200-dimensional Mat2Vec element vectors",
        ("formula",),
        _numbered("mat2vec", 200),
        "features.families.formula.embeddings:mat2vec",
        ("elementembeddings",),
    ),
    FamilyInfo(
        "megnet16",
        "mean over the atoms of the 16-dimensional MEGNet element vectors",
        ("formula",),
        _numbered("megnet16", 16),
        "features.families.formula.embeddings:megnet16",
        ("elementembeddings",),
    ),
    FamilyInfo(
        "magpie_statistics",
        "six statistics of 22 tabulated element properties (matminer's preset magpie)",
        ("formula",),
        _MAGPIE_STATISTICS_FIELDS,
        "features.families.formula.element_statistics:magpie_statistics",
        ("matminer",),
    ),
    FamilyInfo(
        "valence_orbitals",
        "mean numbers of s, p, d, f valence electrons and their fractions (matminer)",
        ("formula",),
        _VALENCE_ORBITALS_FIELDS,
        "features.families.formula.element_statistics:valence_orbitals",
        ("matminer",),
    ),
    FamilyInfo(
        "stoichiometry",
        "p-norms of the atomic fractions (matminer)",
        ("formula",),
        tuple((f"stoichiometry_{p}_norm", "") for p in (0, 2, 3, 5, 7, 10)),
        "features.families.formula.element_statistics:stoichiometry",
    ),
    FamilyInfo(
        "li_chemistry",
        "Li per anion and per cation, which anions, charge, size and mixing of the framework",
        ("formula",),
        _LI_CHEMISTRY_FIELDS,
        "features.families.formula.li_chemistry:li_chemistry",
        ("matminer", "pymatgen", "pymatgen-core"),
    ),
    FamilyInfo(
        "sigma_is_coerced",
        "1 where the target was reported as a threshold such as <1E-10: made from the target",
        ("target",),
        (("sigma_is_coerced", ""),),
        "features.families.formula.composition:coerced_flag",
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
        "features.families.structure.unit_cell:cell",
        ("pymatgen", "pymatgen-core"),
    ),
    FamilyInfo(
        "lattice",
        "lattice parameters and space-group number",
        ("cell",),
        _LATTICE_FIELDS,
        "features.families.structure.unit_cell:lattice",
    ),
    FamilyInfo(
        "cell_shape",
        "shape of the cell in the CIF: ratios of its lengths, deviation from right angles",
        ("cif",),
        _CELL_SHAPE_FIELDS,
        "features.families.structure.cell_shape:cell_shape",
        ("pymatgen", "pymatgen-core"),
    ),
    FamilyInfo(
        "li_environment",
        "Li sites of the CIF structure: density, distances, coordination, multiplicity",
        ("cif",),
        _LI_ENVIRONMENT_FIELDS,
        "features.families.structure.li_environment:li_environment",
        ("pymatgen", "pymatgen-core", "spglib"),
        describe="features.families.structure.li_environment:describe_cif",
    ),
    FamilyInfo(
        "physics_report",
        "bond valence, Ewald energy and Voronoi number of Li as an earlier study had them",
        ("cif",),
        _PHYSICS_REPORT_FIELDS,
        "features.families.structure.physics_report:physics_report",
        _PHYSICS_PACKAGES,
        describe="features.families.structure.physics_report:describe_physics",
    ),
    FamilyInfo(
        "bond_valence",
        "bond-valence sums and mismatches of Li by two sets of parameters, disorder weighted",
        ("cif",),
        _BOND_VALENCE_FIELDS,
        "features.families.structure.bond_valence:bond_valence",
        _PHYSICS_PACKAGES,
        describe="features.families.structure.bond_valence:describe_bond_valence",
    ),
    FamilyInfo(
        "ewald",
        "electrostatic energy of Li sites and of the crystal, average charges on mixed sites",
        ("cif",),
        _EWALD_FIELDS,
        "features.families.structure.ewald:ewald",
        _PHYSICS_PACKAGES,
        describe="features.families.structure.ewald:describe_ewald",
    ),
    FamilyInfo(
        "li_voronoi",
        "Voronoi cells of Li sites among the anions: faces, volume, how far off the centre",
        ("cif",),
        _LI_VORONOI_FIELDS,
        "features.families.structure.voronoi:li_voronoi",
        _PHYSICS_PACKAGES,
        describe="features.families.structure.voronoi:describe_voronoi",
    ),
    FamilyInfo(
        "coordination",
        "coordination numbers of Li, framework cations and anions by CrystalNN",
        ("cif",),
        _COORDINATION_FIELDS,
        "features.families.structure.coordination:coordination",
        (*_PHYSICS_PACKAGES, "spglib"),
        describe="features.families.structure.coordination:describe_coordination",
    ),
    FamilyInfo(
        "bonds",
        "bonds between nearest neighbours: length, number, which elements they join",
        ("cif",),
        _BONDS_FIELDS,
        "features.families.structure.bonds:bonds",
        ("pymatgen", "pymatgen-core"),
        describe="features.families.structure.bonds:describe_bonds",
    ),
    FamilyInfo(
        "bvse",
        "barriers to Li migration by bond-valence site energies, room for Li, disorder weighted",
        ("cif",),
        _BVSE_FIELDS,
        "features.families.structure.bvse:bvse",
        _PHYSICS_PACKAGES,
        describe="features.families.structure.bvse:describe_bvse",
    ),
    FamilyInfo(
        "space_group",
        "space group as 230 columns of 0 and 1",
        ("cell",),
        _numbered("sg", 230, first=1),
        "features.families.structure.unit_cell:space_group",
    ),
)

# No family, but what a table has at its end where values were borrowed: features/prototypes.py.
TRANSFER = "transfer"
TRANSFER_COLUMNS = (Column("n_prototypes", TRANSFER), Column("prototype_distance", TRANSFER))

FAMILIES: Mapping[str, FamilyInfo] = MappingProxyType({family.name: family for family in _FAMILIES})
