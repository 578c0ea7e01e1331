"""The files that a table is made from, read once: what is hashed is what is parsed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from features.datasets.cif_files import CifSet
from features.errors import DatasetError
from features.intake.csv_parsing import CsvFile, scan_csv
from features.intake.foreign_files import expand_home, open_bounded, read_bounded

DATASETS: Mapping[str, str] = MappingProxyType(
    {
        "transport": "47,737 computed electronic transport properties, installed with matminer",
        "obelix": "599 measured Li-ion conductivities with cells and 321 CIFs (OBELiX)",
        "band_gap": "measured band gaps by formula (expt_gap.csv), or computed ones with "
        "structures from Materials Project",
        "csv": "your own CSV file of formulas and a measured target, with CIFs if you have them",
        "own": "what a function of the study's own reads and describes; formulas are not needed",
    }
)

# What data of a dataset are to be cited as; own files have none.
CITATIONS: Mapping[str, str] = MappingProxyType(
    {
        "transport": (
            "Ricci et al., An ab initio electronic transport database for inorganic materials, "
            "Scientific Data 4, 170085 (2017), as distributed with matminer: Ward et al., "
            "Computational Materials Science 152, 60 (2018)"
        ),
        "obelix": (
            "Therrien et al., OBELiX: a curated dataset of crystal structures and experimentally "
            "measured ionic conductivities for lithium solid-state electrolytes, arXiv:2502.14234, "
            "CC-BY-4.0"
        ),
        "band_gap": (
            "measured gaps: Zhuo, Mansouri Tehrani & Brgoch, Predicting the band gaps of inorganic "
            "solids by machine learning, J. Phys. Chem. Lett. 9, 1668 (2018), as cleaned by Dunn "
            "et al., Benchmarking materials property prediction methods, npj Computational "
            "Materials 6, 138 (2020); structures of binary crystals: Wyckoff, Crystal Structures 1 "
            "(1963); computed gaps: Jain et al., The Materials Project, APL Materials 1, 011002 "
            "(2013)"
        ),
    }
)


@dataclass(frozen=True)
class SourceFile:
    """A file's name, without its folder, and its bytes."""

    name: str
    data: bytes

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the content, in hex."""
        return hashlib.sha256(self.data).hexdigest()


Source = SourceFile | CifSet


def read_source(path: Path, what: str) -> SourceFile:
    """Read the file or pipe `path`; a DatasetError calls it `what` if that fails."""
    with reading(path, what):
        return SourceFile(path.name, read_bounded(path))


def scan_source(path: Path, what: str) -> CsvFile:
    """Look through a CSV file whose records are read anew whenever they are asked for.

    A DatasetError calls it `what` if it cannot be read.
    """
    with reading(path, what):
        return scan_csv(path.name, open_bounded(path))


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Let a DatasetError that calls a file `what` tell why it cannot be read."""
    try:
        yield
    except FileNotFoundError as exc:
        raise DatasetError(f"{what}: there is no file {path}; correct the path") from exc
    except OSError as exc:
        raise DatasetError(f"{what}: {path} cannot be read ({exc})") from exc


def csv_files(sources: tuple[Source, ...]) -> list[SourceFile]:
    """Return the sources that are plain files, in order."""
    return [source for source in sources if isinstance(source, SourceFile)]


def cif_sets(sources: tuple[Source, ...]) -> list[CifSet]:
    """Return the sources that are sets of CIFs, in order."""
    return [source for source in sources if isinstance(source, CifSet)]


def user_cache() -> Path:
    """Return the folder below which downloads are kept for this user."""
    # The XDG specification has relative paths ignored.
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else expand_home(Path("~/.cache"))) / "hpo"
