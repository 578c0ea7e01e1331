"""The table section of a study file: one model per dataset, unknown keys refused."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from features.families.named.featurizers import NAMED, FeaturizerSpec, featurizer_of
from features.families.own_columns import COLUMNS as OWN_COLUMNS
from features.families.own_columns import number_column
from features.families.registry import FAMILIES, TRANSFER, TRANSFER_COLUMNS, FamilyInfo, Need
from features.records import Column, Target

TransportTarget = Literal[
    "seebeck_p",
    "seebeck_n",
    "log10_conductivity_p",
    "log10_conductivity_n",
    "log10_thermal_conductivity_p",
    "log10_thermal_conductivity_n",
    "log10_power_factor_p",
    "log10_power_factor_n",
    "log10_effective_mass_p",
    "log10_effective_mass_n",
]

# What becomes of structures that fail a check of `features.intake.structure_checks`.
FailedStructures = Literal["leave_out", "use"]


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    # What the dataset can offer to a family.
    provides: ClassVar[frozenset[Need]] = frozenset({"formula", "target", "cell", "cif"})
    _others: ClassVar[str] = ""  # what there is beside families, for messages

    families: tuple[str, ...] = Field(
        default=(),
        description="names of feature families, in column order, or of featurizers' classes",
    )
    featurizers: tuple[FeaturizerSpec, ...] = Field(
        default=(),
        description="matminer's featurizers, or your own, whose columns stand behind the families'",
        exclude_if=lambda featurizers: not featurizers,
    )
    transfer: tuple[str, ...] = Field(
        default=(),
        description="those of them whose values rows without a usable CIF borrow from training "
        "rows with the same space group, a like cell and a like composition",
    )

    @property
    def classifies(self) -> bool:
        """Whether the target is known to have classes before any row is read."""
        return False

    @property
    def n_targets(self) -> int:
        """Number of targets, as far as it is known before any row is read."""
        return 1

    @property
    def all_families(self) -> list[FamilyInfo]:
        """What computes features, in order; featurizers are imported for that."""
        return [
            *(
                FAMILIES.get(name) or featurizer_of(FeaturizerSpec(name=name))
                for name in self.families
            ),
            *map(featurizer_of, self.featurizers),
        ]

    @property
    def named_featurizers(self) -> tuple[FeaturizerSpec, ...]:
        """The featurizers, those first that stand without arguments among the families."""
        bare = (FeaturizerSpec(name=name) for name in self.families if ":" in name)
        return (*bare, *self.featurizers)

    @property
    def family_columns(self) -> tuple[Column, ...]:
        """The columns that families make, and what is borrowed, in order."""
        own = tuple(column for family in self.all_families for column in family.columns)
        return own + (TRANSFER_COLUMNS if self.transfer else ())

    @property
    def declared_columns(self) -> tuple[Column, ...]:
        """The columns that the table has, in order; none where they are not known before it."""
        return () if self.named_featurizers else self.family_columns

    @property
    def structural(self) -> list[str]:
        """The families and featurizers that need structures."""
        built_in = (name for name in self.families if name in FAMILIES)
        return [name for name in built_in if "cif" in FAMILIES[name].needs] + [
            spec.label for spec in self.named_featurizers if spec.takes == "structure"
        ]

    @property
    def has_features(self) -> bool:
        """Whether it asks for any feature."""
        return bool(self.families or self.featurizers)

    @model_validator(mode="after")
    def _check_featurizers(self) -> Self:
        taken = {*FAMILIES, OWN_COLUMNS, TRANSFER}
        for spec in self.named_featurizers:
            if spec.label in taken:
                raise ValueError(
                    f"there are two families called {spec.label!r}; give {spec.name} another "
                    "`family`"
                )
            taken.add(spec.label)
            need: Need = "cif" if spec.takes == "structure" else "formula"
            if need not in self.provides:
                raise ValueError(f"{spec.name} needs {need} data, which this dataset does not have")
        return self

    @field_validator("families")
    @classmethod
    def _check_families(cls, families: tuple[str, ...]) -> tuple[str, ...]:
        for position, name in enumerate(families):
            if name in families[:position]:
                raise ValueError(f"family {name!r} is listed twice; list each family once")
            if NAMED.fullmatch(name):
                continue
            if name not in FAMILIES:
                nearest = difflib.get_close_matches(name, FAMILIES, n=1, cutoff=0.0)
                raise ValueError(
                    f"unknown family {name!r}; did you mean {nearest[0]!r}? "
                    f"There are: {', '.join(FAMILIES)}"
                )
            lacking = [need for need in FAMILIES[name].needs if need not in cls.provides]
            if lacking:
                raise ValueError(
                    f"family {name!r} needs {' and '.join(lacking)} data, which this dataset "
                    "does not have; leave the family out"
                )
        return families

    @model_validator(mode="after")
    def _check_features(self) -> Self:
        if not self.has_features:
            raise ValueError(
                f"families: give at least one family; there are: {', '.join(FAMILIES)}"
                f"{self._others}"
            )
        return self

    @model_validator(mode="after")
    def _check_transfer(self) -> Self:
        for position, name in enumerate(self.transfer):
            if name not in self.families:
                raise ValueError(
                    f"transfer: {name!r} is none of `families` ({', '.join(self.families)}); list "
                    "it there, too, or leave it out of `transfer`"
                )
            if not FAMILIES[name].indicator:
                able = [other for other in FAMILIES if FAMILIES[other].indicator]
                raise ValueError(
                    f"transfer: family {name!r} cannot be borrowed, as it does not describe single "
                    f"CIFs and say in one column where it did; these do: {', '.join(able)}"
                )
            if name in self.transfer[:position]:
                raise ValueError(f"transfer: {name!r} is listed twice; list each family once")
        lacking = [name for name in ("lattice", "smact") if name not in self.families]
        if self.transfer and lacking:
            raise ValueError(
                f"transfer: prototypes are found by cell and composition, so `families` needs "
                f"{' and '.join(lacking)}, too; add {'them' if len(lacking) > 1 else 'it'}"
            )
        return self


class TransportSpec(_Spec):
    """Computed transport properties of inorganic compounds, by formula.

    `rows` is the size of the subset of formulas that `seed` picks (None: all of them), and
    `test_fraction` the share of it that is held out, whole chemical systems at a time.
    """

    provides: ClassVar[frozenset[Need]] = frozenset({"formula", "target"})

    dataset: Literal["transport"]
    target: TransportTarget = "seebeck_p"
    rows: Annotated[int, Field(ge=10)] | None = 2000
    seed: int = 0
    test_fraction: float = Field(default=0.2, ge=0.0, lt=1.0)


class _StructuresSpec(_Spec):
    failed_structures: FailedStructures = Field(
        default="leave_out",
        description="whether structures that fail a check (composition against the row's formula, "
        "shortest distance, density and cell, symmetry) are left out, as if the rows had none, or "
        "used",
    )


class _MeasuredSpec(_StructuresSpec):
    censored: Literal["as_value", "interval"] = Field(
        default="as_value",
        exclude_if=lambda censored: censored == "as_value",
        description="whether a target that is a limit (<1e-10, >=5) counts as that value, or is "
        "an interval, as 1e-10..1e-9 is",
    )

    @property
    def keeps_bounds(self) -> bool:
        """Whether limits and ranges are intervals."""
        return self.censored == "interval"


class ObelixSpec(_MeasuredSpec):
    """Measured Li-ion conductivities, in the train and test split that OBELiX publishes."""

    dataset: Literal["obelix"]


class BandGapSpec(_StructuresSpec):
    """Band gaps in eV, one row per composition.

    `source` is where they are from: `measured` (`expt_gap.csv`, formulas alone),
    `materials_project` (computed, with structures; a stored query, or one with the key in
    `MP_API_KEY`), `binary_crystals` (measured gaps of elements and binary compounds whose
    structure is a simple known one), or `auto`: Materials Project where a query is stored or a
    key is given, else measured. `target` is the gap, or whether the material is a metal (gap 0),
    a target of two classes.

    `test_fraction` of the metals (gap 0) and of the others is held out, by `split` row by row
    or whole chemical systems such as Ge-Si at a time, in an order that `seed` gives. Metals may
    then be left out of the training rows (`train_metals`) and of the held-out ones
    (`test_metals`), which leaves the other rows where they are.
    """

    provides: ClassVar[frozenset[Need]] = frozenset({"formula", "target", "cif"})

    dataset: Literal["band_gap"]
    source: Literal["auto", "measured", "materials_project", "binary_crystals"] = "auto"
    target: Literal["gap", "is_metal"] = Field(
        default="gap", exclude_if=lambda target: target == "gap"
    )
    split: Literal["rows", "systems"] = "rows"
    train_metals: bool = True
    test_metals: bool = True
    test_fraction: float = Field(default=0.2, ge=0.0, lt=1.0)
    seed: int = 0

    @property
    def classifies(self) -> bool:
        """Whether the target has classes."""
        return self.target == "is_metal"

    @model_validator(mode="after")
    def _check_structures(self) -> Self:
        needing = self.structural
        if needing and self.source in ("auto", "measured"):
            raise ValueError(
                f"family {needing[0]!r} needs structures, which source {self.source!r} need not "
                "have; set `source` to 'materials_project' or 'binary_crystals', or leave the "
                "family out"
            )
        return self


class CellColumns(BaseModel):
    """Names of a CSV file's unit-cell columns.

    A name left out stands for the usual names, taken if the file has one of them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    a: str | None = None
    b: str | None = None
    c: str | None = None
    alpha: str | None = None
    beta: str | None = None
    gamma: str | None = None
    space_group: str | None = None
    formula_units: str | None = None


class CsvSpec(_MeasuredSpec):
    """Your own CSV file.

    `path` and `cifs` (a folder or a `.tar.gz` of `<id>.cif` files) are relative to the
    study file's folder. `formula`, `target`, `id`, `group`, `split`, `weight` and `fold` name
    columns. Without `formula`, the column of that name is taken, if the file has it; no family
    that needs none asks for it. Without `split`, whole groups are held out, `test_fraction` of the
    rows in all; without `group`, rows of the same reduced formula are a group.

    `target` may be a list of several columns, which are numbers; a row that lacks one of them is
    skipped. `target_unit` and `log10` are then of all, or lists of one for each.

    With `task` classification, what `target` holds are labels of two classes or more, texts or
    numbers. `columns` are numbers and `categorical` texts that are features as they are; `weight`
    is what a row counts in a fit, and `fold` the fold that validates it, for [cv] splitter
    PredefinedSplit: empty or -1 for a row that is always trained on.
    """

    _others: ClassVar[str] = "; or list columns of your file as `columns` or `categorical`"

    dataset: Literal["csv"]
    path: Path
    formula: str | None = None
    target: str | tuple[str, ...] = "target"
    target_unit: str | tuple[str, ...] = ""
    log10: bool | tuple[bool, ...] = False
    task: Literal["regression", "classification"] = Field(
        default="regression", exclude_if=lambda task: task == "regression"
    )
    columns: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    weight: str | None = None
    fold: str | None = None
    id: str | None = None
    group: str | None = None
    cifs: Path | None = None
    split: str | None = None
    test_fraction: float = Field(default=0.2, ge=0.0, lt=1.0)
    seed: int = 0
    cell_columns: CellColumns = CellColumns()

    @model_validator(mode="after")
    def _check_cifs(self) -> Self:
        needing = self.structural
        if needing and self.cifs is None:
            raise ValueError(
                f"family {needing[0]!r} needs CIF files; set `cifs` to a folder or a .tar.gz "
                "that holds <id>.cif files, or leave the family out"
            )
        if self.cifs is not None and self.id is None:
            raise ValueError(
                "`cifs` needs `id`, the column whose value names each row's <id>.cif file"
            )
        return self

    @field_validator("target", "target_unit", "log10", mode="before")
    @classmethod
    def _check_kind(cls, value: Any, info: ValidationInfo) -> Any:
        kind, named = (bool, "true, false") if info.field_name == "log10" else (str, "a text")
        listed = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(one, kind) for one in listed):
            raise ValueError(f"must be {named} or a list with one for each target, got {value!r}")
        return tuple(value) if isinstance(value, list) else value

    @field_validator("target")
    @classmethod
    def _one_alone(cls, value: Any) -> Any:
        # A list of one is that one.
        return value[0] if isinstance(value, tuple) and len(value) == 1 else value

    @property
    def targets(self) -> tuple[Target, ...]:
        """What is to be predicted, without classes, which the rows alone name."""
        names = _for_each(self.target, 1)
        units = _for_each(self.target_unit, len(names))
        logs = _for_each(self.log10, len(names))
        return tuple(map(Target, names, units, logs))

    @property
    def n_targets(self) -> int:
        """Number of targets."""
        return len(self.targets)

    @model_validator(mode="after")
    def _check_targets(self) -> Self:
        names = _for_each(self.target, 1)
        if len({*names}) < max(1, len(names)):
            raise ValueError(f"target: must be one column or several, each once, got {list(names)}")
        for key in ("target_unit", "log10"):
            value = getattr(self, key)
            if isinstance(value, tuple) and len(value) != len(names):
                raise ValueError(
                    f"{key}: there are {len(value)} for {len(names)} targets; give one for each, "
                    "or one for all without brackets"
                )
        alone = "task 'classification'" if self.classifies else "censored 'interval'"
        if (self.classifies or self.keeps_bounds) and len(names) > 1:
            raise ValueError(
                f"{alone} takes one target, got {len(names)}: {', '.join(names)}; "
                "make a study for each"
            )
        return self

    @property
    def classifies(self) -> bool:
        """Whether the target has classes."""
        return self.task == "classification"

    @model_validator(mode="after")
    def _check_task(self) -> Self:
        given = [name for name in ("log10", "target_unit") if getattr(self, name)]
        given += ["censored"] if self.keeps_bounds else []
        if self.classifies and given:
            raise ValueError(f"`{given[0]}` is for numbers, and task is 'classification'")
        return self

    @property
    def declared_columns(self) -> tuple[Column, ...]:
        """The columns that the table has, in order; none where there are categories."""
        if self.categorical or self.named_featurizers:
            return ()
        return (*self.family_columns, *map(number_column, self.columns))

    @property
    def has_features(self) -> bool:
        """Whether it asks for any feature."""
        return bool(self.columns or self.categorical) or super().has_features

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        named = (*self.columns, *self.categorical)
        used = [("target", target.name) for target in self.targets]
        used += [("split", self.split or ""), ("fold", self.fold or "")]
        for position, name in enumerate(named):
            if name in named[:position]:
                raise ValueError(f"column {name!r} is listed twice; list each column once")
            for purpose, column in used:
                if name == column:
                    raise ValueError(
                        f"column {name!r} is the {purpose}, and so no feature; leave it out of "
                        f"`{'columns' if name in self.columns else 'categorical'}`"
                    )
        return self

    @model_validator(mode="after")
    def _check_split(self) -> Self:
        # By value: a study that is read back from its storage has every field set.
        fields = type(self).model_fields
        given = [
            name
            for name in ("seed", "test_fraction")
            if getattr(self, name) != fields[name].default
        ]
        if self.split is not None and given:
            raise ValueError(
                f"`split` takes the split from the file, so `{given[0]}` has no use; "
                "give one or the other"
            )
        return self


def _for_each(value: Any, n_targets: int) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,) * n_targets


class OwnSpec(BaseModel):
    """A table that a function of the study's own makes.

    `loader` names it as `module:function`; it is called with `data_dir` and the keys of
    `params`, and returns `features.records.OwnRows`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: Literal["own"]
    loader: str = Field(pattern=r"^[\w.]+:[\w.]+$")
    params: dict[str, Any] = {}

    @property
    def classifies(self) -> bool:
        """False: whether the target has classes, the function alone knows."""
        return False

    @property
    def n_targets(self) -> int:
        """One: how many targets there are, the function alone knows."""
        return 1

    @property
    def declared_columns(self) -> tuple[Column, ...]:
        """None: what columns there are, the function alone knows."""
        return ()


# Of materials that feature families describe; the other kind has made its columns itself.
FamiliesSpec = TransportSpec | ObelixSpec | BandGapSpec | CsvSpec
AnySpec = FamiliesSpec | OwnSpec
TableSpec = Annotated[AnySpec, Field(discriminator="dataset")]
