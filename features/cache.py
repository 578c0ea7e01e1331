"""What a build need not do again: finished tables by request, and family blocks by input.

Keys are hashes of everything that the result depends on, so an entry is never out of date; one
that is damaged is as good as absent.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from features.registry import FamilyInfo
from features.rows import Block, Remark, Rows
from features.scratch import replace_file

INDEX_NAME = ".index"
BLOCKS_NAME = ".blocks"
STRUCTURES_NAME = ".structures"

_IMPORT = re.compile(r"^\s*(?:from|import)\s+(features\.\w+)", re.MULTILINE)


def code_version(module: str) -> str:
    """Return a hash of a module's source and of the ``features`` modules that it builds on."""
    sources: dict[str, bytes] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in sources:
            continue
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(name)
        sources[name] = Path(spec.origin).read_bytes()
        waiting += _IMPORT.findall(sources[name].decode())
    return key_of({name: hashlib.sha256(source).hexdigest() for name, source in sources.items()})


def package_versions(distributions: Iterable[str]) -> dict[str, str]:
    """Return the versions of those distributions that are installed."""
    versions = {}
    for name in sorted(set(distributions)):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # pymatgen was one distribution before it became two
    return versions


def key_of(parts: Mapping[str, Any]) -> str:
    """Return the SHA-256, in hex, of ``parts`` as JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def find_table(tables_dir: Path, request: str) -> str | None:
    """Return the name of the table that answered ``request`` before."""
    try:
        name = json.loads((tables_dir / INDEX_NAME / f"{request}.json").read_bytes())["table"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) else None


def remember_table(tables_dir: Path, request: str, name: str) -> None:
    """Note that the table ``name`` answers ``request``."""
    path = tables_dir / INDEX_NAME / f"{request}.json"
    replace_file(tables_dir, path, json.dumps({"table": name}).encode())


def block_key(family: FamilyInfo, rows: Rows) -> str:
    """Return a hash of all that a family's block of these rows depends on."""
    inputs: dict[str, Any] = {"ids": rows.ids, "sources": rows.sources}
    if "formula" in family.needs:
        inputs["amounts"] = [list(amounts.items()) for amounts in rows.amounts]
    if "target" in family.needs:
        inputs["is_coerced"] = rows.is_coerced.tolist()
    if "cell" in family.needs:
        inputs["cell"] = {name: [repr(v) for v in rows.cell[name]] for name in rows.cell}
        inputs["problems"] = [[*where, why] for where, why in rows.cell_problems.items()]
    if "cif" in family.needs:
        inputs["cifs"] = [cif and hashlib.sha256(cif).hexdigest() for cif in rows.cifs]
        inputs["cif_remarks"] = [asdict(remark) for remark in rows.cif_remarks]
    return key_of({"version": family_version(family), "inputs": inputs})


def family_version(family: FamilyInfo) -> str:
    """Return a hash of all that a family's values depend on beside the rows."""
    module = family.compute.partition(":")[0]
    return key_of(
        {
            "family": asdict(family),
            "code": code_version(module),
            "packages": package_versions(family.packages),
        }
    )


def load_description(
    tables_dir: Path, family: FamilyInfo, version: str, digest: str
) -> tuple[list[float], list[str]] | None:
    """Return what was computed from the CIF of this SHA-256, or None."""
    try:
        stored = json.loads(_description_path(tables_dir, family, version, digest).read_bytes())
        values = [float(value) for value in stored["values"]]
        reasons = [str(reason) for reason in stored["reasons"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (values, reasons) if len(values) == family.n_columns else None


def save_description(
    tables_dir: Path,
    family: FamilyInfo,
    version: str,
    digest: str,
    description: tuple[list[float], list[str]],
) -> None:
    """Keep what was computed from one CIF."""
    values, reasons = description
    data = json.dumps({"values": [float(value) for value in values], "reasons": reasons}).encode()
    replace_file(tables_dir, _description_path(tables_dir, family, version, digest), data)


def _description_path(tables_dir: Path, family: FamilyInfo, version: str, digest: str) -> Path:
    folder = tables_dir / STRUCTURES_NAME / f"{family.name}-{version[:16]}"
    return folder / f"{digest[:32]}.json"


def load_block(tables_dir: Path, family: FamilyInfo, key: str, n_rows: int) -> Block | None:
    """Return a cached block, or None if there is no whole one."""
    try:
        # Read first: given a path, `np.load` leaves a damaged file open.
        data = io.BytesIO(_block_path(tables_dir, family, key).read_bytes())
        with np.load(data, allow_pickle=False) as stored:
            values = stored["values"]
            remarks = json.loads(stored["remarks"].tobytes())
        block = Block(values, tuple(Remark(**remark) for remark in remarks))
    except Exception:  # a damaged archive makes zipfile raise just about anything
        return None
    fits = values.shape == (n_rows, family.n_columns) and values.dtype == np.float64
    return block if fits else None


def save_block(tables_dir: Path, family: FamilyInfo, key: str, block: Block) -> None:
    """Keep a block for the next build."""
    remarks = json.dumps([asdict(remark) for remark in block.remarks]).encode()
    buffer = io.BytesIO()
    np.savez(buffer, values=block.values, remarks=np.frombuffer(remarks, dtype=np.uint8))
    replace_file(tables_dir, _block_path(tables_dir, family, key), buffer.getvalue())


def _block_path(tables_dir: Path, family: FamilyInfo, key: str) -> Path:
    return tables_dir / BLOCKS_NAME / f"{family.name}-{key[:32]}.npz"
