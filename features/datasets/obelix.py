"""The `obelix` dataset: measured Li-ion conductivities with unit cells and CIFs.

OBELiX, CC-BY-4.0, https://github.com/NRC-Mila/OBELiX. Read from a folder, or else downloaded
through the `obelix-data` package into the user's cache.
"""

from __future__ import annotations

import contextlib
import io
import socket
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from features.atomic_files import clear_dead_scratch, scratch_folder
from features.chemistry.composition import composition_key
from features.datasets.cif_files import read_cifs
from features.datasets.row_parsing import Layout, Part, read_rows
from features.datasets.sources import (
    Source,
    SourceFile,
    cif_sets,
    csv_files,
    read_source,
    user_cache,
)
from features.errors import DatasetError
from features.families.registry import Need
from features.intake.csv_parsing import parse_csv
from features.intake.formulas import Formula, read_formula
from features.intake.numbers import parse_number
from features.records import Target
from features.rows import Log, Rows
from features.specs import ObelixSpec

DOWNLOAD_TIMEOUT_S = 20.0

_FORMULA = "Reduced Composition"
_CELL_CONTENT = "True Composition"
_FORMULA_UNITS = "Z"
_CELL_COLUMNS = {
    "a": "a",
    "b": "b",
    "c": "c",
    "alpha": "alpha",
    "beta": "beta",
    "gamma": "gamma",
    "space_group": "Space group #",
    "formula_units": _FORMULA_UNITS,
}

_WANTED = (
    "train.csv and test.csv (or all.csv and test.csv, as obelix-data downloads them) and, for "
    "families that read CIFs, train_cifs.tar.gz and test_cifs.tar.gz or their unpacked folders"
)


def sources_of(
    spec: ObelixSpec, *, data_dir: Path | None, base_dir: Path, needs: frozenset[Need], log: Log
) -> tuple[Source, ...]:
    """Read the CSV files, and the CIFs if a family needs them, downloading all if need be."""
    del spec, base_dir
    folder = _download(log) if data_dir is None else _find_folder(data_dir)
    log(f"obelix: reading {folder}")
    names = ("train", "test") if (folder / "train.csv").is_file() else ("all", "test")
    sources: list[Source] = [read_source(folder / f"{name}.csv", "obelix") for name in names]
    if "cif" in needs:
        # all.csv holds the test rows too, and its CIFs the test CIFs.
        with_cifs = names if names[0] == "train" else names[:1]
        sources += [read_cifs(_find_cifs(folder, name)) for name in with_cifs]
    return tuple(sources)


def rows_of(spec: ObelixSpec, sources: tuple[Source, ...], needs: frozenset[Need]) -> Rows:
    """Return the train rows and then the test rows, each in file order.

    The target is log10 of the conductivity in S/cm; `<1E-10` counts as 1e-10, or is an
    interval where `censored` says so. Rows form a group
    if they share a paper or a material, directly or through other rows, within train and within
    test: a paper is one of the DOIs that the row lists (`a|b` lists two), a material is its
    atomic fractions to four decimals. That gives 118 groups in train; comparing the first DOI and
    the formula as text gives 123, because `Li10SnP2S12` and `Li3.335Sn0.33P0.67S4` then pass
    for two materials.
    """
    layout = Layout(
        columns={_FORMULA: "formula", _CELL_CONTENT: "composition of the cell", "DOI": "group"},
        target_column="Ionic conductivity (S cm-1)",
        target=Target("ionic_conductivity", "S/cm", log10=True),
        read_formula=_read_formula,
        group_tokens=_group_tokens,
        id="ID",
        cell=_CELL_COLUMNS if "cell" in needs else {},
        keeps_bounds=spec.keeps_bounds,
    )
    return read_rows(_parts(csv_files(sources)), layout, cif_sets(sources))


def _parts(files: list[SourceFile]) -> list[Part]:
    first, test = (parse_csv(file.name, file.data) for file in files)
    if first.name == "all.csv":
        id_in_all, id_in_test = (csv.position("ID", "id") for csv in (first, test))
        test_ids = {record.fields[id_in_test] for record in test.records}
        in_test = [record.fields[id_in_all] in test_ids for record in first.records]
        split = {
            wanted: tuple(
                record
                for record, found in zip(first.records, in_test, strict=True)
                if found is wanted
            )
            for wanted in (False, True)
        }
        test = replace(first, records=split[True], malformed=())
        first = replace(first, records=split[False])
    return [Part(first, lambda _id, _fields: True), Part(test, lambda _id, _fields: False)]


def _read_formula(fields: Mapping[str, str]) -> Formula:
    """Read the formula unit; where it cannot be parsed, the cell's content over Z stands in."""
    text = fields[_FORMULA]
    try:
        return read_formula(text)
    except ValueError as exc:
        try:
            content = read_formula(fields[_CELL_CONTENT]).amounts
            units = parse_number(fields[_FORMULA_UNITS], _FORMULA_UNITS)
            amounts = {symbol: amount / units for symbol, amount in content.items()}
        except (ValueError, ZeroDivisionError, KeyError):
            raise exc from None
        plain = "".join(f"{symbol}{amount:g}" for symbol, amount in amounts.items())
        return Formula(plain, amounts, f"{text!r} cannot be read: {_CELL_CONTENT} over Z stands in")


def _group_tokens(fields: Mapping[str, str], formula: Formula) -> tuple[str, ...]:
    dois = [doi.strip().lower() for doi in fields["DOI"].split("|")]
    return (*(doi for doi in dois if doi), composition_key(formula.amounts))


def _find_folder(data_dir: Path) -> Path:
    for folder in (data_dir, data_dir / "obelix"):
        if (folder / "test.csv").is_file() and (
            (folder / "train.csv").is_file() or (folder / "all.csv").is_file()
        ):
            return folder
    raise DatasetError(
        f"obelix: neither {data_dir} nor its obelix/ holds the data; "
        f"give a folder (--data DIR or HPO_DATA) with {_WANTED}"
    )


def _find_cifs(folder: Path, name: str) -> Path:
    candidates = [f"{name}_cifs.tar.gz", f"{name}_randomized_cifs", f"{name}_cifs"]
    for candidate in candidates:
        if (folder / candidate).exists():
            return folder / candidate
    raise DatasetError(
        f"obelix: {folder} has no CIFs for {name}.csv (none of {', '.join(candidates)}); "
        "add them, or leave out the families that read CIFs"
    )


def _download(log: Log) -> Path:
    """Return the user's cached copy of OBELiX, made with `obelix-data` if there is none."""
    try:
        release = version("obelix-data")
    except PackageNotFoundError as exc:
        raise _no_data("the package obelix-data, which downloads it, is not installed") from exc
    cache = user_cache()
    folder = cache / f"obelix-{release}"
    if (folder / "all.csv").is_file() and (folder / "test.csv").is_file():
        return folder
    log(f"obelix: downloading release {release} from github.com/NRC-Mila/OBELiX into {folder}")
    try:
        clear_dead_scratch(cache)
        with scratch_folder(cache) as scratch:
            fetched = scratch / "obelix"
            _fetch(fetched)
            # Somebody else's download may have been faster; one is as good as the other.
            with contextlib.suppress(OSError):
                fetched.rename(folder)
    except Exception as exc:  # the network, the server, pandas or the disk
        raise _no_data(
            f"obelix-data {release} could not download it from raw.githubusercontent.com/NRC-Mila/"
            f"OBELiX into {folder} ({type(exc).__name__}: {exc})"
        ) from exc
    return folder


def _fetch(folder: Path) -> None:
    from obelix import OBELiX

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)  # obelix-data itself would wait for ever
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            OBELiX(data_path=folder, no_cifs=True, unspecified_low_value=None)
    finally:
        socket.setdefaulttimeout(before)


def _no_data(finding: str) -> DatasetError:
    return DatasetError(
        f"obelix: no data folder was given, and {finding}. "
        f"Give a folder (--data DIR or HPO_DATA) with {_WANTED}"
    )
