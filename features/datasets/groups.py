"""Groups: rows that belong together, and groups that are held out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def linked_groups(tokens: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Group rows that share a token, directly or through other rows.

    Parameters
    ----------
    tokens : sequence of tuples, of length n_rows
        What each row shares with its like: a DOI, a composition. Not empty.

    Returns
    -------
    tuple of str
        For each row the first token of the first row of its connected component.
    """
    if all(len(row_tokens) == 1 for row_tokens in tokens):
        return tuple(token for (token,) in tokens)
    parent: dict[str, str] = {}

    def root(token: str) -> str:
        while parent.setdefault(token, token) != token:
            parent[token] = parent[parent[token]]  # halve the path for the next one
            token = parent[token]
        return token

    for row_tokens in tokens:
        first = root(row_tokens[0])
        for token in row_tokens[1:]:
            parent[root(token)] = first
    label: dict[str, str] = {}
    return tuple(label.setdefault(root(row[0]), row[0]) for row in tokens)


def hold_out(
    groups: Sequence[str], fraction: float, seed: int, classes: Sequence[int] | None = None
) -> NDArray[np.bool_]:
    """Pick whole groups to hold out and return which rows stay, of shape (n_rows,).

    Groups are taken in an order that depends on `seed` and their names alone, as long as they
    fit into `fraction` of the rows, so a row more or less moves few others across the split.
    With the class of each row, they have to fit into that fraction of each class, and groups with
    rows of a rare class are taken before others.
    """
    of_rows = [0] * len(groups) if classes is None else classes
    sizes = Counter(of_rows)
    room = {one: round(fraction * size) for one, size in sizes.items()}
    members: dict[str, Counter[int]] = {}
    for group, one in zip(groups, of_rows, strict=True):
        members.setdefault(group, Counter())[one] += 1
    held_out: set[str] = set()

    def turn(group: str) -> tuple[int, bytes]:
        return min(sizes[one] for one in members[group]), lot(seed, group)

    for group in sorted(members, key=turn):
        fits = all(size <= room[one] for one, size in members[group].items())
        if fits and len(held_out) < len(members) - 1:
            held_out.add(group)
            room = {one: left - members[group][one] for one, left in room.items()}
    return np.array([group not in held_out for group in groups], dtype=bool)


def lot(seed: int, name: str) -> bytes:
    """Return the lot that `name` draws: the same on every machine and in every release."""
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()
