"""Families whose values for a row come from its CIF alone: one structure at a time."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np

from features.cache import load_description, save_description
from features.cifs import absent_cifs
from features.registry import FamilyInfo
from features.rows import Block, Log, Remark, Rows

# Values of one CIF, and the reasons for what they lack.
Description = tuple[list[float], list[str]]
Describe = Callable[[bytes], Description]

LOG_EVERY = 100


def describe_cifs(name: str, describe: Describe, n_columns: int, rows: Rows, log: Log) -> Block:
    """Return a family's block, computed one CIF after the other in this process."""
    present = [(row, cif) for row, cif in enumerate(rows.cifs) if cif is not None]
    described = ((row, describe(cif)) for row, cif in present)
    return gather(name, described, len(present), n_columns, rows, log)


def gather(
    name: str,
    described: Iterable[tuple[int, Description]],
    n_present: int,
    n_columns: int,
    rows: Rows,
    log: Log,
) -> Block:
    """Put the descriptions of single CIFs, in any order, into a block; the other rows are 0."""
    values = np.zeros((len(rows), n_columns))
    reasons_of: dict[int, list[str]] = {}
    for count, (row, (found, reasons)) in enumerate(described, start=1):
        values[row] = found
        if reasons:
            reasons_of[row] = reasons
        if count % LOG_EVERY == 0 or count == n_present:
            log(f"{name}: {count} of {n_present} CIFs")
    remarks = [Remark(row, "; ".join(reasons)) for row, reasons in sorted(reasons_of.items())]
    return Block(values, (*rows.cif_remarks, *remarks, *absent_cifs(rows)))


def describe_with_cache(
    family: FamilyInfo, version: str, tables_dir: Path, workers: int, rows: Rows, log: Log
) -> Block:
    """Return a family's block; what is known of a CIF is not computed again.

    Each CIF's values are written as soon as they are there, so a build that is killed goes on
    where it was. ``version`` stands for all that the values depend on beside the CIF.
    """
    rows_of: dict[str, list[int]] = {}
    cif_of: dict[str, bytes] = {}
    for row, cif in enumerate(rows.cifs):
        if cif is not None:
            digest = hashlib.sha256(cif).hexdigest()
            rows_of.setdefault(digest, []).append(row)
            cif_of[digest] = cif
    known = {
        digest: found
        for digest in cif_of
        if (found := load_description(tables_dir, family, version, digest)) is not None
    }
    if known:
        log(f"{family.name}: {len(known)} of {len(cif_of)} CIFs from the cache")
    missing = {digest: cif for digest, cif in cif_of.items() if digest not in known}

    def described() -> Iterator[tuple[int, Description]]:
        yield from ((row, found) for digest, found in known.items() for row in rows_of[digest])
        for digest, found in _describe_all(family, version, tables_dir, workers, missing):
            yield from ((row, found) for row in rows_of[digest])

    n_present = sum(len(members) for members in rows_of.values())
    return gather(family.name, described(), n_present, family.n_columns, rows, log)


def _describe_all(
    family: FamilyInfo, version: str, tables_dir: Path, workers: int, cifs: dict[str, bytes]
) -> Iterator[tuple[str, Description]]:
    common = (family, version, tables_dir)
    if min(workers, len(cifs)) < 2:
        yield from (_describe_one(*common, digest, cif) for digest, cif in cifs.items())
        return
    pool = ProcessPoolExecutor(
        min(workers, len(cifs)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_leave_with_parent,
    )
    with pool:
        waiting = [pool.submit(_describe_one, *common, digest, cif) for digest, cif in cifs.items()]
        try:
            yield from (done.result() for done in as_completed(waiting))
        finally:
            pool.shutdown(cancel_futures=True)


def _describe_one(
    family: FamilyInfo, version: str, tables_dir: Path, digest: str, cif: bytes
) -> tuple[str, Description]:
    module, _, function = family.describe.partition(":")
    describe: Describe = getattr(importlib.import_module(module), function)
    found = describe(cif)
    save_description(tables_dir, family, version, digest, found)
    return digest, found


def _leave_with_parent() -> None:
    """End this process when the one that started it is gone, whatever became of that."""
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch() -> None:
            with contextlib.suppress(Exception):
                parent.join()
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
