"""A folder of study files, and the variants in which all of them can be run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from hpo.errors import SpecError, suggest
from hpo.spec.loading import read_toml, validate_as

REPORTED_NAME, VARIANTS_NAME = "reported.toml", "variants.toml"


class Variant(BaseModel):
    """What is set over every study of a folder, as texts for `--set`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str
    set: tuple[str, ...] = Field(min_length=1)


def study_files(folder: Path) -> list[Path]:
    """Return the study files of a folder, in the order of their names.

    Raises
    ------
    SpecError
        If there is none.
    """
    others = (REPORTED_NAME, VARIANTS_NAME)
    files = sorted(path for path in folder.glob("*.toml") if path.name not in others)
    if not files:
        raise SpecError(f"{folder}: holds no study file (*.toml)")
    return files


def read_variants(path: Path) -> Mapping[str, Variant]:
    """Read the variants of a folder's studies, by name.

    Raises
    ------
    SpecError
        If the file cannot be read or is not valid.
    """
    variants: Mapping[str, Variant] = validate_as(dict[str, Variant], read_toml(path), str(path))
    return variants


def read_variant(path: Path, name: str) -> Variant:
    """Read one variant.

    Raises
    ------
    SpecError
        If there is none of that name.
    """
    variants = read_variants(path)
    if name not in variants:
        raise SpecError(
            f"--variant {name}: {path} has none of that name; {suggest(name, variants)}"
        )
    return variants[name]
