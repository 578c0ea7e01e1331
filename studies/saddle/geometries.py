"""Molecules that searches start near: ASE's G2 set, folders of XYZ files, Transition1x."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from hpo.errors import ObjectiveError
from studies.saddle.calculators.registry import Floats, require


@dataclass(frozen=True, eq=False)
class Molecule:
    """A molecule by its name.

    Attributes
    ----------
    numbers, masses
        Arrays of shape (n,): atomic numbers, and masses in unified atomic mass units.
    positions
        Array of shape (n, 3), in angstrom.
    """

    name: str
    numbers: NDArray[np.int64]
    masses: Floats
    positions: Floats


class _Source(BaseModel):
    """Where molecules come from, and which of them are wanted.

    `elements` are all that a molecule may have, `min_atoms` and `max_atoms` how many atoms.
    Radicals, neutral with an odd number of electrons, are left out unless `radicals` is set.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    elements: tuple[str, ...] = ("H", "C", "N", "O")
    min_atoms: int = Field(3, ge=1)
    max_atoms: int = Field(9, ge=1)
    radicals: bool = False


class G2Source(_Source):
    """The 162 molecules of the G2 set that come with ASE: equilibrium geometries.

    Curtiss et al., J. Chem. Phys. 106, 1063 (1997).
    """

    source: Literal["g2"]


class XyzSource(_Source):
    """Every *.xyz file of a folder, its first frame; the folder as seen from where `hpo` runs."""

    source: Literal["xyz"]
    folder: Path


class Transition1xSource(_Source):
    """An HDF5 file laid out as Transition1x is (Schreiner et al., Sci. Data 9, 779 (2022)).

    `split`/FORMULA/REACTION/`state` has `atomic_numbers`, of shape (n,), and `positions`, of shape
    (n_images, n, 3) in angstrom, of which the first image is taken; `atomic_numbers` may be that
    of the reaction.
    """

    source: Literal["transition1x"]
    file: Path
    split: Literal["data", "train", "val", "test"] = "train"
    state: Literal["reactant", "transition_state", "product"] = "transition_state"


Source = Annotated[G2Source | XyzSource | Transition1xSource, Field(discriminator="source")]


def read_molecules(source: Source) -> list[Molecule]:
    """Return the molecules of a source that are wanted, in an order that is always the same.

    Raises
    ------
    ObjectiveError
        If they cannot be read, or there are none.
    """
    found = [molecule for molecule in _read(source) if _wanted(molecule, source)]
    if not found:
        raise ObjectiveError(
            f"geometries: {source.source} has no molecule of {', '.join(source.elements)} alone "
            f"with {source.min_atoms} to {source.max_atoms} atoms"
        )
    return found


def _read(source: Source) -> Iterator[Molecule]:
    if isinstance(source, XyzSource):
        return _read_folder(source.folder)
    if isinstance(source, Transition1xSource):
        return _read_transition1x(source)
    return _read_g2()


def _wanted(molecule: Molecule, source: Source) -> bool:
    # An extra of its own: see pyproject.toml.
    from ase.data import chemical_symbols

    if not source.min_atoms <= len(molecule.numbers) <= source.max_atoms:
        return False
    if molecule.numbers.sum() % 2 and not source.radicals:
        return False
    return {chemical_symbols[number] for number in molecule.numbers} <= {*source.elements}


def _read_g2() -> Iterator[Molecule]:
    names = require("ase.collections", "ase").g2.names
    build = require("ase.build", "ase").molecule
    for name in sorted(names):
        yield _from_atoms(name, build(name))


def _read_folder(folder: Path) -> Iterator[Molecule]:
    read = require("ase.io", "ase").read
    paths = sorted(folder.glob("*.xyz"))
    if not paths:
        raise ObjectiveError(f"geometries: no *.xyz files in {folder}")
    for path in paths:
        try:
            yield _from_atoms(path.stem, read(path, index=0, format="xyz"))
        except (OSError, ValueError, KeyError, IndexError, StopIteration) as exc:
            raise ObjectiveError(f"geometries: {path}: cannot be read as XYZ: {exc}") from exc


def _read_transition1x(source: Transition1xSource) -> Iterator[Molecule]:
    h5py = require("h5py", "h5py")
    try:
        with h5py.File(source.file, "r") as handle:
            if source.split not in handle:
                raise ObjectiveError(
                    f"geometries: {source.file} has no split '{source.split}' "
                    f"(it has {', '.join(handle)})"
                )
            for formula, reactions in handle[source.split].items():
                for name, reaction in reactions.items():
                    yield _from_reaction(f"{formula}/{name}", reaction, source)
    except OSError as exc:
        raise ObjectiveError(f"geometries: {source.file}: cannot be read: {exc}") from exc


def _from_reaction(name: str, reaction: Any, source: Transition1xSource) -> Molecule:
    try:
        state = reaction[source.state]
        numbers = (state if "atomic_numbers" in state else reaction)["atomic_numbers"][()]
        positions = state["positions"][()]
    except KeyError as exc:
        raise ObjectiveError(f"geometries: {source.file}, {name}: {exc.args[0]}") from exc
    # The images of a reaction come first in the layout, whether there is one or many.
    return _make(name, numbers, np.asarray(positions).reshape(-1, len(numbers), 3)[0])


def _from_atoms(name: str, atoms: Any) -> Molecule:
    return _make(name, atoms.numbers, atoms.positions)


def _make(name: str, numbers: Any, positions: Any) -> Molecule:
    masses = require("ase.data", "ase").atomic_masses
    as_integers = np.asarray(numbers, dtype=np.int64)
    return Molecule(
        name,
        as_integers,
        np.asarray(masses[as_integers], dtype=np.float64),
        np.asarray(positions, dtype=np.float64),
    )
