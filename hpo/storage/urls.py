"""Database URLs: how they are given, resolved and shown."""

from __future__ import annotations

import contextlib
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.errors import StorageError
from hpo.redaction import redact_argument
from hpo.system.atomic_files import write_private

if TYPE_CHECKING:
    import sqlalchemy as sa

URL_FILE = "url"
# A file with one URL is far smaller.
_MAX_BYTES = 10_000
_CERTIFICATE = "sslrootcert"


def show_url(url: sa.URL) -> str:
    """Return a URL as it may be shown; a driver may take the password in the query, too."""
    return redact_argument(url.render_as_string(hide_password=True))


def parse_url(given: str) -> sa.URL:
    """Return the URL that `--storage` means; see `resolve_url`.

    Raises
    ------
    StorageError
        If it is none, or if a raw @ leaves open where its password ends.
    """
    # Not at the top: `hpo doctor` says so where it is missing.
    import sqlalchemy as sa

    text = resolve_url(given)
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError) as exc:
        raise StorageError(
            f"--storage {redact_argument(given)}: not a database URL; expected e.g. "
            "sqlite:///hpo.db"
        ) from exc
    if url.get_backend_name() != "sqlite" and text.count("@") > 1:
        raise StorageError(
            f"--storage {redact_argument(given)}: has more than one @, so that nobody can tell "
            "where its password ends; write an @ within a name or password as %40"
        )
    return url


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
    return _with_certificate_beside(url, path.parent)


def keep_private(given: str, file: Path) -> str:
    """Return what other processes may be given as `--storage` where others may look.

    A URL with a password is written to `file`, which only its owner may read; it takes its place.
    """
    if redact_argument(given) == given:
        return given
    file.parent.mkdir(parents=True, exist_ok=True)
    write_private(file, f"{given}\n")
    return str(file.resolve())


def _with_certificate_beside(url: str, folder: Path) -> str:
    """Take the server's certificate from beside the URL where only copies of both are."""
    import sqlalchemy as sa

    with contextlib.suppress(sa.exc.ArgumentError, ValueError):
        parsed = sa.make_url(url)
        named = parsed.query.get(_CERTIFICATE)
        beside = folder / Path(str(named)).name
        if named and not Path(str(named)).exists() and beside.exists():
            moved = parsed.update_query_dict({_CERTIFICATE: str(beside.resolve())})
            return moved.render_as_string(hide_password=False)
    return url
