"""Database URLs: how they are given, resolved and shown."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from hpo.errors import StorageError

URL_FILE = "url"
# A file with one URL is far smaller.
_MAX_BYTES = 10_000


def hide_password(url: str) -> str:
    """Return a URL as it may be shown, even one that is not valid."""
    return re.sub(r"(://[^:/@]*:).*@", r"\1***@", url)


def _find(text: str) -> Path:
    """Return the path that a storage may mean."""
    try:
        path = Path(text.removeprefix("@")).expanduser()
        path.exists()
    except OSError as exc:
        raise StorageError(f"--storage {text}: cannot be read: {exc.strerror}") from exc
    except RuntimeError as exc:  # nobody has that name, or this user has no home
        raise StorageError(f"--storage {text}: there is no such home folder") from exc
    return path


def resolve_url(text: str) -> str:
    """Return the URL that `--storage` means: itself, or what a file holds.

    Parameters
    ----------
    text
        A URL, the folder of a server that `hpo db start` made, or a file with a URL in it
        (`FILE` or `@FILE`), which keeps the password out of command lines.

    Raises
    ------
    StorageError
        If the folder or file holds no URL, or if others may read the password in it.
    """
    if "://" in text:
        return text
    path = _find(text)
    if path.is_dir():
        path = path / URL_FILE
        if not path.exists():
            raise StorageError(
                f"--storage {text}: a folder without a server's address; make the server with: "
                f"hpo db start {text} (or give a file: sqlite:///{text}/hpo.db)"
            )
    elif not text.startswith("@") and not path.exists():
        return text
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise StorageError(
                f"--storage {text}: {path} is no file with a URL, but a device or pipe"
            )
        with path.open("rb") as stream:
            content = stream.read(_MAX_BYTES)
    except OSError as exc:
        raise StorageError(f"--storage {text}: cannot be read: {exc.strerror}") from exc
    if content.startswith(b"SQLite format 3"):
        raise StorageError(f"--storage {text}: give its URL: sqlite:///{text}")
    lines = content.decode("utf-8", errors="replace").split("\n")
    url = lines[0].strip()
    if "://" not in url or any(line.strip() for line in lines[1:]):
        raise StorageError(f"--storage {text}: {path} holds no database URL, which is one line")
    if mode & 0o077:
        raise StorageError(
            f"--storage {text}: {path} may be read by others; it holds a password: chmod 600 {path}"
        )
    return url
