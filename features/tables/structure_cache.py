"""The cache of single structures, which processes fill together.

The folder of tables is all that they share: a description is a file there, which whoever makes it
holds locked. Nobody has to be told what to do, a lock ends with its process however that ends, and
where two make the same description after all, they write the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import multiprocessing
import os
import random
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from features.families.registry import FamilyInfo
from features.families.structure.per_structure import (
    Describe,
    Description,
    describe_one,
    gather,
)
from features.rows import Block, Log, Rows
from features.tables.cache import claim_description, load_description, naming_folder


@dataclass(frozen=True)
class Structures:
    """The structures of a table, for processes that share them.

    Attributes
    ----------
    request
        Hash of all that the table depends on.
    table
        The table, if it is built: then nothing has to be described.
    families
        Those of the table that describe one structure at a time.
    pending
        Name to family and version, of those that are not in the cache as a whole.
    cifs
        The distinct CIFs by SHA-256; empty if nothing is pending.
    """

    request: str
    table: Path | None
    families: tuple[str, ...]
    pending: Mapping[str, tuple[FamilyInfo, str]]
    cifs: Mapping[str, bytes]
    tables_dir: Path

    @property
    def n_total(self) -> int:
        """Number of descriptions, a structure counted once for each pending family."""
        return len(self.pending) * len(self.cifs)

    def count_missing(self) -> int:
        """Return how many descriptions are not in the cache at this moment."""
        return sum(
            len(_missing(family, version, self.tables_dir, self.cifs))
            for family, version in self.pending.values()
        )

    def describe(self, workers: int, log: Log) -> int:
        """Describe what is missing and nobody else is at work on; return how many that were.

        Any number of processes, on any machines, may do so at once. What another one has claimed
        is left to it: if that is killed, the next call or the table's build makes up for it.

        Parameters
        ----------
        workers
            Processes of this machine to do it with.

        Raises
        ------
        TableError
            The folder of tables cannot be used.
        """
        n_made = 0
        for family, version in self.pending.values():
            missing = list(_missing(family, version, self.tables_dir, self.cifs).items())
            # Where a file system has no locks, claims are void: another order for everybody then
            # keeps most of them apart.
            random.shuffle(missing)
            with naming_folder(self.tables_dir):
                outcomes = list(
                    _describe_all(family, version, self.tables_dir, workers, dict(missing))
                )
            made = sum(outcome.made for outcome in outcomes)
            log(
                f"{family.name}: {made} of {len(self.cifs)} CIFs described here, "
                f"{len(self.cifs) - made} are others' or were there"
            )
            n_made += made
        return n_made


class _Outcome(NamedTuple):
    digest: str
    found: Description | None  # None where another process is at work on it
    made: bool  # by this call


def distinct_cifs(rows: Rows) -> dict[str, bytes]:
    """Return the CIFs of these rows by SHA-256."""
    return {hashlib.sha256(cif).hexdigest(): cif for cif in rows.cifs if cif is not None}


def describe_with_cache(
    family: FamilyInfo, version: str, tables_dir: Path, workers: int, rows: Rows, log: Log
) -> Block:
    """Return a family's block; what is known of a CIF is not computed again.

    Each CIF's values are written as soon as they are there, so a build that is killed goes on
    where it was. `version` stands for all that the values depend on beside the CIF.
    """
    rows_of: dict[str, list[int]] = {}
    for row, cif in enumerate(rows.cifs):
        if cif is not None:
            rows_of.setdefault(hashlib.sha256(cif).hexdigest(), []).append(row)
    cif_of = distinct_cifs(rows)
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
        for digest, found in _describe_to_the_end(family, version, tables_dir, workers, missing):
            yield from ((row, found) for row in rows_of[digest])

    n_present = sum(len(members) for members in rows_of.values())
    return gather(family.name, described(), n_present, family.n_columns, rows, log)


def _missing(
    family: FamilyInfo, version: str, tables_dir: Path, cifs: Mapping[str, bytes]
) -> dict[str, bytes]:
    return {
        digest: cif
        for digest, cif in cifs.items()
        if load_description(tables_dir, family, version, digest) is None
    }


def _describe_to_the_end(
    family: FamilyInfo, version: str, tables_dir: Path, workers: int, cifs: Mapping[str, bytes]
) -> Iterator[tuple[str, Description]]:
    """Describe all of them; what others are at work on comes last, and is not waited for."""
    claimed = []
    for digest, found, _ in _describe_all(family, version, tables_dir, workers, cifs):
        if found is None:
            claimed.append(digest)
        else:
            yield digest, found
    for digest in claimed:
        found = load_description(tables_dir, family, version, digest)
        yield digest, found or _describe(family, cifs[digest])


def _describe_all(
    family: FamilyInfo, version: str, tables_dir: Path, workers: int, cifs: Mapping[str, bytes]
) -> Iterator[_Outcome]:
    common = (family, version, tables_dir)
    if min(workers, len(cifs)) < 2:
        yield from (_describe_unclaimed(*common, digest, cif) for digest, cif in cifs.items())
        return
    pool = ProcessPoolExecutor(
        min(workers, len(cifs)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_leave_with_parent,
    )
    with pool:
        waiting = [
            pool.submit(_describe_unclaimed, *common, digest, cif) for digest, cif in cifs.items()
        ]
        try:
            yield from (done.result() for done in as_completed(waiting))
        finally:
            pool.shutdown(cancel_futures=True)


def _describe_unclaimed(
    family: FamilyInfo, version: str, tables_dir: Path, digest: str, cif: bytes
) -> _Outcome:
    with claim_description(tables_dir, family, version, digest) as file:
        if file is None:
            return _Outcome(digest, None, made=False)
        found = file.load()
        if found is not None:
            return _Outcome(digest, found, made=False)
        found = _describe(family, cif)
        file.save(found)
    return _Outcome(digest, found, made=True)


def _describe(family: FamilyInfo, cif: bytes) -> Description:
    module, _, function = family.describe.partition(":")
    describe: Describe = getattr(importlib.import_module(module), function)
    return describe_one(describe, family.n_columns, cif)


def _leave_with_parent() -> None:
    """End this process when the one that started it is gone, whatever became of that."""
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch() -> None:
            with contextlib.suppress(Exception):
                parent.join()
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
