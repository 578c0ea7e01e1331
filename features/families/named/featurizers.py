"""Featurizers by name as feature families: matminer's, and one's own of the same protocol.

A featurizer has `feature_labels()`, the names of its columns, and `featurize(x)`, their values for
one material: a pymatgen `Composition`, or a `Structure` for those that describe structures. It runs
in processes of its own, which are ended where one material takes too long: whatever it does, it
costs the values of that material alone.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from features.errors import FamilyError, describe_failure
from features.families.named.code import Call, Input, code_of, distributions, make
from features.families.registry import FamilyInfo
from features.rows import Block, Log, Remark, Rows

NAMED = re.compile(r"[^:\s]+:[A-Za-z_][\w.]*")
_OF_STRUCTURES = ("matminer.featurizers.structure", "matminer.featurizers.bandstructure")


class FeaturizerSpec(BaseModel):
    """A featurizer of `[[table.featurizers]]`, or by its name alone among `families`.

    `name` is `module:Class`, or `FILE.py:Class` for a file beside the study. It is made with
    `params`, or by its `from_preset(preset, **params)`. A class of matminer.featurizers.structure
    describes structures, any other one compositions, unless `input` says otherwise. `family` is
    what its columns are called together, by default the class and the preset. A material that takes
    longer than `timeout_s` has no values.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=f"^{NAMED.pattern}$")
    preset: str | None = None
    params: dict[str, Any] = {}
    input: Input | None = None
    family: str | None = Field(None, pattern=r"^[A-Za-z][\w.-]*$")
    timeout_s: float = Field(60.0, gt=0, allow_inf_nan=False)

    @property
    def takes(self) -> Input:
        """What it describes."""
        structural = self.name.startswith(_OF_STRUCTURES)
        return self.input or ("structure" if structural else "composition")

    @property
    def call(self) -> Call:
        """How it is made."""
        return Call(self.name, self.preset, self.params, self.takes)

    @property
    def label(self) -> str:
        """Name of the family that its columns are."""
        return self.family or "-".join(filter(None, (self.name.rpartition(":")[2], self.preset)))


@dataclass(frozen=True)
class Featurizer(FamilyInfo):
    """A featurizer as a family; `code` is the hash of its module, where that is not installed."""

    settings: str = ""  # of its FeaturizerSpec, as JSON
    code: str = ""

    @property
    def is_quick(self) -> bool:
        """False: its values are kept."""
        return False

    def run(self, rows: Rows, log: Log, workers: int = 1) -> Block:
        """Return its columns; a material that it fails for is NaN and has a remark."""
        spec = FeaturizerSpec.model_validate_json(self.settings)
        items: dict[Any, Any]
        if spec.takes == "structure":
            keys: list[Any] = [cif and hashlib.sha256(cif).digest() for cif in rows.cifs]
            items = {key: cif for key, cif in zip(keys, rows.cifs, strict=True) if cif is not None}
        else:
            keys = [tuple(rows.amounts[row].items()) for row in range(len(rows))]
            items = {key: dict(key) for key in keys}
        # Not for those who read a table.
        from features.families.named.processes import Crew, Served

        served = Served(self.name, spec.call, self.n_columns, spec.timeout_s)
        answers = Crew(served, max(1, workers), log).ask(items)
        values = np.full((len(rows), self.n_columns), np.nan)
        remarks = [*rows.cif_remarks] if spec.takes == "structure" else []
        for row, key in enumerate(keys):
            found, reason = answers.get(key, ([], "no CIF: its columns are NaN"))
            if found:
                values[row] = found
            if reason:
                remarks.append(Remark(row, reason))
        return Block(values, tuple(remarks))


def featurizer_of(spec: FeaturizerSpec) -> Featurizer:
    """Return a featurizer as a family, with the columns that it says it has.

    Raises
    ------
    FamilyError
        There is none of that name, it cannot be made, or it does not say its columns.
    """
    return _featurizer(spec.model_dump_json(), code_of(spec.name.rpartition(":")[0]))


@lru_cache(maxsize=32)
def _featurizer(settings: str, code: str) -> Featurizer:
    spec = FeaturizerSpec.model_validate_json(settings)
    made = make(spec.call)
    try:
        labels = [str(label) for label in made.feature_labels()]
    except Exception as exc:
        raise FamilyError(
            f"[[table.featurizers]] {spec.name}: feature_labels() fails with "
            f"{describe_failure(exc)}; a featurizer has to know its columns before it sees a "
            "material"
        ) from exc
    module = spec.name.rpartition(":")[0]
    return Featurizer(
        name=spec.label,
        description=f"featurizer {spec.name}",
        needs=("cif",) if spec.takes == "structure" else ("formula",),
        fields=tuple((f"{spec.label} {label}", "") for label in labels),
        compute=f"{__name__}:featurizer_of",
        packages=("pymatgen", "pymatgen-core", *distributions(module)),
        settings=settings,
        code=code,
    )
