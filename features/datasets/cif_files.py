"""CIF files by name, out of a folder or an archive."""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from features.errors import DatasetError


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
    except (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError) as exc:
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
    return [(entry.stem, entry.read_bytes()) for entry in found]


def _in_archive(path: Path) -> list[tuple[str, bytes]]:
    files = []
    with tarfile.open(fileobj=io.BytesIO(path.read_bytes()), mode="r:*") as archive:
        for member in archive:
            name = PurePosixPath(member.name)
            content = archive.extractfile(member) if _is_cif(name.name) else None
            if content is not None:
                files.append((name.stem, content.read()))
    return files
