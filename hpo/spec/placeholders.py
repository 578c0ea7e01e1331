"""Placeholders in the command of a program: `{lr}` for a parameter, `{{` and `}}` for braces."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from hpo.errors import suggest
from hpo.wording import abridge

# What a trial has beside its parameters: its own folder, its number, and a seed of its own.
OF_TRIAL = ("trial_dir", "number", "seed")
_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_BRACE_ITSELF = "a brace itself is written {{ or }}"


def fill(text: str, values: Mapping[str, str]) -> str:
    """Return a text with the values in place of their placeholders."""
    return _BRACES.sub(lambda m: m[0][0] if m[1] is None else values[m[1]], text)


def names_in(text: str) -> list[str]:
    """Return the names of the placeholders of a text.

    Raises
    ------
    ValueError
        If a brace is neither part of one nor doubled.
    """
    found = []
    for braces in _BRACES.finditer(text):
        if len(braces[0]) == 1:
            raise ValueError(f"a single '{braces[0]}' in '{abridge(text)}'; {_BRACE_ITSELF}")
        if braces[1] is not None:
            found.append(braces[1])
    return found


def check_names(names: Collection[str], parameters: Collection[str]) -> None:
    """Refuse placeholders that stand for nothing, or for two things.

    Raises
    ------
    ValueError
        Naming the first such placeholder.
    """
    valid = {*OF_TRIAL, *parameters}
    for name in names:
        if name not in valid:
            raise ValueError(
                f"unknown placeholder '{{{abridge(name)}}}'; {suggest(name, valid)}; "
                f"{_BRACE_ITSELF}"
            )
        if name in OF_TRIAL and name in parameters:
            raise ValueError(
                f"'{{{name}}}' is the trial's, and [space] has a parameter of that name: give the "
                "parameter another one"
            )


def quoted_names(command: str) -> list[str]:
    """Return the placeholders that stand within quotes of a shell's command."""
    found: list[str] = []
    quote, at, word_begins = "", 0, True
    while at < len(command):
        character, step = command[at], 1
        braces = _BRACES.match(command, at)
        if braces:
            step = len(braces[0])
            found += [braces[1]] if quote and braces[1] is not None else []
        elif character == "\\" and quote != "'":
            step = 2
        elif quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character == "#" and word_begins:
            step = len(command[at:].partition("\n")[0]) or 1
        word_begins = not quote and character in " \t\n;&|()"
        at += step
    return found
