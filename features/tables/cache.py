"""Caches of builds: finished tables by request, and family blocks by input.

Keys are hashes of everything that the result depends on, so an entry is never out of date; one
that is damaged, or was changed by hand, is as good as absent: each begins with a checksum.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np

from features.atomic_files import claim_file, replace_file
from features.errors import TableError
from features.families.registry import FamilyInfo
from features.families.structure.per_structure import Description
from features.rows import Block, Remark, Rows

INDEX_NAME = ".index"
BLOCKS_NAME = ".blocks"
STRUCTURES_NAME = ".structures"

# What stands behind `import` may be a module or a name in one.
_IMPORT = re.compile(
    r"^\s*(?:from|import) (features(?:\.\w+)+)(?: import (\([^)]*\)|[^\n]*))?", re.MULTILINE
)


def code_version(module: str) -> str:
    """Return a hash of a module's source and of the `features` modules that it builds on."""
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
        for place, names in _IMPORT.findall(sources[name].decode()):
            waiting.append(place)
            waiting += filter(_is_module, (f"{place}.{name}" for name in re.findall(r"\w+", names)))
    return key_of({name: hashlib.sha256(source).hexdigest() for name, source in sources.items()})


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


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
    """Return the SHA-256, in hex, of `parts` as JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@contextmanager
def naming_folder(tables_dir: Path) -> Iterator[None]:
    """Turn what the system refuses into an error that names the folder of tables."""
    try:
        yield
    except OSError as exc:
        raise TableError(
            f"tables folder {tables_dir}: cannot be used ({exc}); name a folder with room "
            "that you may write to"
        ) from exc


def find_table(tables_dir: Path, request: str) -> str | None:
    """Return the name of the table that answered `request` before."""
    try:
        data = (tables_dir / INDEX_NAME / f"{request}.json").read_bytes()
        name = json.loads(_unsealed(data, request))["table"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) else None


def remember_table(tables_dir: Path, request: str, name: str) -> None:
    """Note that the table `name` answers `request`."""
    path = tables_dir / INDEX_NAME / f"{request}.json"
    replace_file(tables_dir, path, _sealed(json.dumps({"table": name}).encode(), request))


def _sealed(data: bytes, key: str) -> bytes:
    """Return an entry as it is stored: behind a hash of itself and of what it is the answer to."""
    return hashlib.sha256(f"{key}\n".encode() + data).hexdigest().encode() + b"\n" + data


def _unsealed(stored: bytes, key: str) -> bytes:
    """Return an entry, or raise ValueError where it is not as it was stored under this key."""
    _, _, data = stored.partition(b"\n")
    if _sealed(data, key) != stored:
        raise ValueError("changed after it was stored")
    return data


def block_key(family: FamilyInfo, rows: Rows) -> str:
    """Return a hash of all that a family's block of these rows depends on."""
    inputs: dict[str, Any] = {"ids": rows.ids, "sources": rows.sources}
    if "formula" in family.needs:
        inputs["amounts"] = rows.amounts.hash
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
) -> Description | None:
    """Return what was computed from the CIF of this SHA-256, or None."""
    try:
        data = _description_path(tables_dir, family, version, digest).read_bytes()
    except OSError:
        return None
    return _read_description(data, family, _description_key(version, digest))


@contextmanager
def claim_description(
    tables_dir: Path, family: FamilyInfo, version: str, digest: str
) -> Iterator[DescriptionFile | None]:
    """Claim the description of one CIF; None if another process is at work on it."""
    with claim_file(_description_path(tables_dir, family, version, digest)) as handle:
        key = _description_key(version, digest)
        yield None if handle is None else DescriptionFile(handle, family, key)


@dataclass(frozen=True)
class DescriptionFile:
    """What was computed from one CIF, open to be read and written."""

    handle: IO[bytes]
    family: FamilyInfo
    key: str

    def load(self) -> Description | None:
        """Return what is there; None for nothing, or for what somebody left half."""
        self.handle.seek(0)
        return _read_description(self.handle.read(), self.family, self.key)

    def save(self, description: Description) -> None:
        """Write it in place: the file is the claim, another one under its name would be none."""
        values, reasons = description
        stored = {"values": [float(value) for value in values], "reasons": reasons}
        self.handle.seek(0)
        self.handle.truncate()
        self.handle.write(_sealed(json.dumps(stored).encode(), self.key))
        self.handle.flush()
        os.fsync(self.handle.fileno())


def _description_key(version: str, digest: str) -> str:
    return f"{version} {digest}"


def _read_description(data: bytes, family: FamilyInfo, key: str) -> Description | None:
    try:
        stored = json.loads(_unsealed(data, key))
        values = [float(value) for value in stored["values"]]
        reasons = [str(reason) for reason in stored["reasons"]]
    except (ValueError, KeyError, TypeError):
        return None
    return (values, reasons) if len(values) == family.n_columns else None


def _description_path(tables_dir: Path, family: FamilyInfo, version: str, digest: str) -> Path:
    folder = tables_dir / STRUCTURES_NAME / f"{family.name}-{version[:16]}"
    return folder / f"{digest[:32]}.json"


def load_block(tables_dir: Path, family: FamilyInfo, key: str, n_rows: int) -> Block | None:
    """Return a cached block, or None if there is no whole one."""
    try:
        data = _unsealed(_block_path(tables_dir, family, key).read_bytes(), key)
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
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
    path = _block_path(tables_dir, family, key)
    replace_file(tables_dir, path, _sealed(buffer.getvalue(), key))


def _block_path(tables_dir: Path, family: FamilyInfo, key: str) -> Path:
    return tables_dir / BLOCKS_NAME / f"{family.name}-{key[:32]}.npz"
