"""Hides passwords and keys in what is kept, shown or sent: the one place that knows how they look.

Three kinds are hidden: the user information of a URL, what is written behind a name such as
`password` or `api_key`, and whatever the environment holds under such a name, wherever it stands.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any

HIDDEN = "***"
# A shorter value, such as a role's name used as its password, is found in too many other words.
_SHORTEST = 6
_WORDS = (
    r"pass(?:word|wd|phrase|code)|pwd|secret|token|credentials?"
    r"|(?:api|access|private|secret|account|encryption)[_-]?key"
)
# The last word counts: `api_token` is one, `token_length` and `max_tokens` are none.
_NAME = re.compile(rf"(?i)(?:.*[^a-z])?(?:pg|ssl|db)?(?:{_WORDS})")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
# Lengths are bounded, so that a text without an end costs what its length does.
_SCHEME = r"[a-z][a-z0-9+.-]{0,40}://"
# Greedy up to the last @, which a password may hold; nothing but it is taken for the end of one.
_USER_INFORMATION = re.compile(rf"(?i)({_SCHEME})([^\s:/@?#'\"<>]{{0,1000}}):[^\s'\"<>]{{0,4000}}@")
# To the web, a name alone is a token mostly: https://TOKEN@github.com.
_WEB_USER = re.compile(r"(?i)(https?://)[^\s/@'\"<>]{1,4000}@")
_ASSIGNED = re.compile(
    rf"""(?xi)
    (?P<name> (?<![a-z0-9]) [\w.-]{{0,80}}? (?<![a-z]) (?:pg|ssl|db)? (?:{_WORDS}) )
    (?P<sign> ["']? \s* [=:] \s* )
    (?P<value> "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | [^\s"'&,;<>\[\]{{}}()]+ )
    """
)
_OPTION = re.compile(r"--?[\w-]+")


def redact(text: str) -> str:
    """Return a text without the passwords and keys in it."""
    for secret in _secrets_of_environment():
        text = text.replace(secret, HIDDEN)
    text = _USER_INFORMATION.sub(rf"\1\2:{HIDDEN}@", text)
    text = _WEB_USER.sub(rf"\1{HIDDEN}@", text)
    return _ASSIGNED.sub(_hide_assigned, text)


def redact_value(value: Any) -> Any:
    """Return what JSON can hold without the passwords and keys in it, by names and in texts."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if _hides(str(key), item) else redact_value(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact_value(item) for item in value]
    return value


def redact_arguments(arguments: Iterable[str]) -> list[str]:
    """Return the arguments of a command line without the passwords and keys in them."""
    shown: list[str] = []
    for argument in arguments:
        named = bool(shown) and _OPTION.fullmatch(shown[-1]) and is_secret_name(shown[-1])
        hidden = named and not argument.startswith("--")
        shown.append(HIDDEN if hidden else redact_argument(argument))
    return shown


def is_secret_name(name: str) -> bool:
    """Whether what has this name is a password or a key."""
    return _NAME.fullmatch(_CAMEL.sub("_", name)) is not None


def redact_argument(argument: str) -> str:
    """Return one argument without the passwords in it, which may hold spaces and quotes here."""
    argument = re.sub(rf"(?is)({_SCHEME})([^:/@?#]*):.*@", rf"\1\2:{HIDDEN}@", argument)
    name, equals, _ = argument.partition("=")
    if equals and "://" not in name and " " not in name and is_secret_name(name):
        return f"{name}={HIDDEN}"
    return redact(argument)


def _hide_assigned(found: re.Match[str]) -> str:
    # What JSON or a shell reads stays readable to it.
    quote = found["value"][0] if found["value"][0] in "\"'" else ""
    return f"{found['name']}{found['sign']}{quote}{HIDDEN}{quote}"


def _hides(name: str, value: Any) -> bool:
    # Flags and numbers are none: `use_token = true`, `pad_token = 0`.
    return isinstance(value, str) and value != "" and is_secret_name(name)


def _secrets_of_environment() -> list[str]:
    """Return the values of secret variables, also as they stand in URLs; long ones first."""
    found = set()
    for name, value in os.environ.items():
        # A path to a file with a key in it is no key.
        if is_secret_name(name) and not value.startswith("/"):
            found.add(value)
        elif in_url := _USER_INFORMATION.match(value):
            found.add(in_url[0].removeprefix(f"{in_url[1]}{in_url[2]}:").removesuffix("@"))
    forms = {
        form
        for value in found
        if len(value) >= _SHORTEST
        for form in (value, urllib.parse.quote(value, safe=""), urllib.parse.unquote(value))
    }
    return sorted(forms, key=len, reverse=True)
