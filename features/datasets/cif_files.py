"""CIF files by name, out of a folder or an archive."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from features.errors import DatasetError
from features.intake.foreign_files import read_bounded

# A CIF has a few KB, of the largest structures a few MB; a small archive can unpack to anything.
MAX_CIF_BYTES, MAX_UNPACKED_BYTES = 100_000_000, 1_000_000_000
_TOO_LARGE = (
    f"it unpacks to more than {MAX_UNPACKED_BYTES / 1e9:g} GB, or to a CIF of more than "
    f"{MAX_CIF_BYTES / 1e6:g} MB; unpack it, and look at what is in it"
)
_COMPRESSIONS: Mapping[bytes, Any] = {b"\x1f\x8b": gzip, b"BZh": bz2, b"\xfd7zXZ\x00": lzma}
_UNREADABLE = (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError)


@dataclass(frozen=True)
class CifSet:
    """The CIFs of one source by stem (`abc` for `abc.cif`), and the stems met twice."""

    name: str
    cifs: dict[str, bytes]
    doubled: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """SHA-256, in hex, of the names and contents, whatever they came packed in."""
        digest = hashlib.sha256()
        for stem in sorted(self.cifs):
            digest.update(f"{stem}\n{hashlib.sha256(self.cifs[stem]).hexdigest()}\n".encode())
        return digest.hexdigest()


def read_cifs(path: Path) -> CifSet:
    """Read every `.cif` under the folder `path`, or in the tar archive `path`.

    Raises
    ------
    DatasetError
        There is nothing at `path`, or it cannot be read.
    """
    try:
        files = _in_folder(path) if path.is_dir() else _in_archive(path)
    except FileNotFoundError as exc:
        raise DatasetError(f"CIFs: there is no folder or archive {path}") from exc
    except (*_UNREADABLE, RecursionError) as exc:
        raise DatasetError(
            f"CIFs: {path} cannot be read ({exc}); give a folder or a whole .tar.gz"
        ) from exc
    cifs: dict[str, bytes] = {}
    doubled: dict[str, None] = {}
    for stem, data in files:
        if stem in cifs and cifs[stem] != data:
            doubled[stem] = None
        cifs.setdefault(stem, data)
    return CifSet(path.name, cifs, tuple(doubled))


def _is_cif(name: str) -> bool:
    # "._x.cif" is what macOS packs beside x.cif, and no CIF.
    return name.lower().endswith(".cif") and not name.startswith("._")


def _in_folder(path: Path) -> list[tuple[str, bytes]]:
    found = sorted(entry for entry in path.rglob("*") if _is_cif(entry.name) and entry.is_file())
    return [(entry.stem, read_bounded(entry, MAX_CIF_BYTES)) for entry in found]


def _in_archive(path: Path) -> list[tuple[str, bytes]]:
    files, left = [], MAX_UNPACKED_BYTES
    unpacked = _unpack(read_bounded(path, MAX_UNPACKED_BYTES))
    with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as archive:
        for member in archive:
            name = PurePosixPath(member.name)
            if not _is_cif(name.name):
                continue
            try:
                content = archive.extractfile(member)
            except (KeyError, RecursionError) as exc:
                raise tarfile.TarError(
                    f"{member.name} is a link to no file in it; pack the file itself"
                ) from exc
            if content is not None:
                # A sparse file, or many links to one, are longer than what the archive holds.
                data = content.read(min(left, MAX_CIF_BYTES) + 1)
                left -= len(data)
                if left < 0 or len(data) > MAX_CIF_BYTES:
                    raise tarfile.TarError(f"{member.name}: {_TOO_LARGE}")
                files.append((name.stem, data))
    return files


def _unpack(data: bytes) -> bytes:
    """Return what was compressed, as far as it has a size to work with."""
    for mark, module in _COMPRESSIONS.items():
        if data.startswith(mark):
            with module.open(io.BytesIO(data)) as stream:
                unpacked: bytes = stream.read(MAX_UNPACKED_BYTES + 1)
            if len(unpacked) > MAX_UNPACKED_BYTES:
                raise tarfile.TarError(_TOO_LARGE)
            return unpacked
    return data
