"""Computed band gaps with structures from Materials Project: asked once, cleaned, kept as a file.

Jain et al., APL Materials 1, 011002 (2013). The file is a data frame as matminer stores them, its
structures as monty writes them; every entry that cleaning leaves out is in it, too, with the reason
in place of its structure.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import warnings
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.atomic_files import clear_dead_scratch, scratch_folder
from features.chemistry.composition import composition_key
from features.chemistry.formulas import parse_formula
from features.errors import DatasetError
from features.intake.foreign_files import MAX_BYTES

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

FILE_NAME = "materials_project.json.gz"
KEY_VARIABLE = "MP_API_KEY"
ISOLATED_ANGSTROM = 4.0  # an atom without a neighbour so near is isolated

_FIELDS = ("material_id", "formula_pretty", "band_gap", "energy_above_hull", "structure")
COLUMNS = ("material_id", "formula", "band_gap", "energy_above_hull", "structure", "left_out")


@dataclass(frozen=True, eq=False)
class Entry:
    """One material.

    Attributes
    ----------
    band_gap : float
        In eV, of a band structure computed with PBE; 0 for a metal.
    energy_above_hull : float
        In eV per atom; among polymorphs of a composition it orders as their energies do.
    structure : Structure, dict or None
        As a dictionary in what `load` returns; None where the entry is left out.
    left_out : str
        Why it is; "" if it is not.
    """

    material_id: str
    formula: str
    band_gap: float
    energy_above_hull: float
    structure: Any
    left_out: str = ""


def fetch(api_key: str, path: Path) -> tuple[int, int]:
    """Ask Materials Project, clean what it answers, and store it as `path`.

    Returns
    -------
    tuple of int
        Number of entries, and how many of them cleaning keeps.

    Raises
    ------
    DatasetError
        `mp-api` is not installed, Materials Project cannot be asked, or the file not written.
    """
    entries = clean(query(api_key))
    store(entries, path)
    return len(entries), sum(not entry.left_out for entry in entries)


def query(api_key: str) -> list[Entry]:
    """Ask Materials Project for all materials that a band structure was computed of.

    Raises
    ------
    DatasetError
        `mp-api` is not installed, or Materials Project cannot be asked.
    """
    try:
        release = version("mp-api")
        from mp_api.client import MPRester
    except (PackageNotFoundError, ImportError) as exc:
        raise DatasetError(
            "band_gap: the package mp-api, which asks Materials Project, is not installed; install "
            "it (pip install mp-api), or use measured gaps (table.source = 'measured')"
        ) from exc
    try:
        with MPRester(api_key, mute_progress_bars=True) as client:
            found = client.materials.summary.search(
                has_props=["bandstructure"],
                deprecated=False,
                all_fields=False,
                fields=list(_FIELDS),
            )
    except Exception as exc:  # the network, the server, the key: each with errors of its own
        raise DatasetError(
            f"band_gap: mp-api {release} could not ask Materials Project ({type(exc).__name__}: "
            f"{' '.join(str(exc).split())[:300]}); check the network and the key in "
            f"{KEY_VARIABLE}, or use measured gaps (table.source = 'measured')"
        ) from exc
    return [_entry(document) for document in found if document.band_gap is not None]


def _entry(document: Any) -> Entry:
    return Entry(
        material_id=str(document.material_id),
        formula=str(document.formula_pretty),
        band_gap=float(document.band_gap),
        energy_above_hull=float(document.energy_above_hull),
        structure=document.structure,
    )


def clean(entries: Iterable[Entry]) -> list[Entry]:
    """Leave out all but the lowest polymorph of each composition, and those with isolated atoms.

    In this order: a composition whose lowest polymorph has an atom with no other within
    `ISOLATED_ANGSTROM` is left out as a whole. Of equally low polymorphs the first by id is
    kept. The entries come back in the order of their ids.
    """
    ordered = sorted(entries, key=lambda entry: entry.material_id)
    lowest: dict[str, Entry] = {}
    for entry in ordered:
        key = _composition(entry)
        if key not in lowest or entry.energy_above_hull < lowest[key].energy_above_hull:
            lowest[key] = entry
    return [_judge(entry, lowest[_composition(entry)]) for entry in ordered]


def _judge(entry: Entry, lowest: Entry) -> Entry:
    reason = ""
    if entry is not lowest:
        reason = f"{lowest.material_id} is the polymorph of this composition that is lowest"
    elif entry.structure is None or has_isolated_atoms(entry.structure):
        reason = f"an atom has no other within {ISOLATED_ANGSTROM:g} angstrom"
    if not reason:
        return entry
    return Entry(
        entry.material_id, entry.formula, entry.band_gap, entry.energy_above_hull, None, reason
    )


def _composition(entry: Entry) -> str:
    return composition_key(parse_formula(entry.formula))


def has_isolated_atoms(structure: Structure) -> bool:
    """Return whether an atom has no other, nor an image of itself, within 4 angstrom."""
    return not all(structure.get_all_neighbors(ISOLATED_ANGSTROM))


def store(entries: Sequence[Entry], path: Path) -> None:
    """Write entries as matminer stores a data frame; the file appears whole or not at all.

    Raises
    ------
    DatasetError
        The file cannot be written.
    """
    import pandas as pd
    from matminer.utils.io import store_dataframe_as_json

    frame = pd.DataFrame(
        [[getattr(entry, column) for column in COLUMNS] for entry in entries], columns=COLUMNS
    )
    if path.exists() and not path.is_file():
        raise DatasetError(f"band_gap: {path} is no file that can be replaced; name another")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_dead_scratch(path.parent)
        with scratch_folder(path.parent) as scratch:
            written = scratch / FILE_NAME
            store_dataframe_as_json(frame, str(written), compression="gz", pbar=False)
            written.rename(path)
    except OSError as exc:
        raise DatasetError(f"band_gap: {path} cannot be written ({exc}); name another") from exc


def load(data: bytes) -> list[Entry]:
    """Read entries from the bytes of a stored file, their structures as dictionaries.

    Raises
    ------
    DatasetError
        The file is damaged, or is something else.
    """
    try:
        with gzip.open(io.BytesIO(data)) as stream:
            text = stream.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise ValueError(f"it unpacks to more than {MAX_BYTES / 1e9:g} GB")
        frame = json.loads(text)
        columns = [frame["columns"].index(column) for column in COLUMNS]
        return [Entry(*(row[position] for position in columns)) for row in frame["data"]]
    except (
        OSError,
        EOFError,
        zlib.error,
        ValueError,
        LookupError,
        TypeError,
        RecursionError,
    ) as exc:
        raise DatasetError(
            f"band_gap: {FILE_NAME} is damaged or none of ours ({type(exc).__name__}: {exc}); "
            "remove it, and have it fetched again"
        ) from exc


def write_cif(structure: dict[str, Any]) -> bytes:
    """Return a structure of a stored file as a CIF."""
    from monty.json import MontyDecoder

    made: Structure = MontyDecoder().process_decoded(structure)
    with warnings.catch_warnings():
        # Noble gases have none, and elements are put in order by it.
        warnings.filterwarnings("ignore", "No Pauling electronegativity", UserWarning)
        return made.to(fmt="cif").encode()


def given_key() -> str:
    """Return the key in `MP_API_KEY`; "" if there is none."""
    return os.environ.get(KEY_VARIABLE, "").strip()
