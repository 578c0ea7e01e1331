"""A made-up family that describes slowly, for processes that share structures; imported by name."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from pathlib import Path

from features.families.registry import FAMILIES, FamilyInfo
from features.tables.cache import claim_description, family_version
from features.tables.structure_cache import Structures

MADE_UP = FamilyInfo(
    "made_up",
    "the length of the CIF, slowly",
    ("cif",),
    (("length", ""),),
    "tests.support.tables.slow_family:describe_slowly",
    describe="tests.support.tables.slow_family:describe_slowly",
)
CIFS = {f"{number:064x}"[::-1]: b"x" * number for number in range(40)}


def describe_slowly(cif):
    """Describe a made-up CIF, and write down that it was begun."""
    with Path("journal.txt").open("a") as journal:
        journal.write(f"{len(cif)}\n")
    time.sleep(0.05)
    return [float(len(cif))], []


def begun():
    """How often each structure was begun."""
    path = Path("journal.txt")
    return Counter(path.read_text().splitlines()) if path.exists() else Counter()


def structures():
    """The made-up structures, with tables in this folder."""
    pending = {"made_up": (MADE_UP, family_version(MADE_UP))}
    return Structures("request", None, ("made_up",), pending, CIFS, Path("tables"))


def share(workers):
    """Do what is left to do, and print how much that was."""
    print(structures().describe(workers, print), flush=True)


def hold(tables, name, digests):
    """Claim structures of a family, and keep them until the process is killed."""
    family = FAMILIES[name]
    with contextlib.ExitStack() as stack:
        for digest in digests:
            claimed = claim_description(tables, family, family_version(family), digest)
            assert stack.enter_context(claimed) is not None
        print("held", flush=True)
        time.sleep(600)
