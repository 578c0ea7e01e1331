"""Where a result comes from: the commit, the packages, the machine."""

from __future__ import annotations

import importlib.metadata
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = (
    "lightgbm",
    "matminer",
    "numpy",
    "optuna",
    "pandas",
    "pymatgen",
    "scikit-learn",
    "scipy",
    "smact",
    "sqlalchemy",
)


def collect() -> dict[str, Any]:
    """Return the commit of this checkout, versions of Python and packages, and the host."""
    return {
        "git": git_commit(Path(__file__).resolve().parent),
        "python": platform.python_version(),
        "packages": versions(PACKAGES),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "command": " ".join(["hpo", *sys.argv[1:]]),
    }


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Return the installed version of each package, without importing any."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_commit(folder: Path) -> dict[str, Any]:
    """Return the commit that a folder is checked out at, and whether files differ from it."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {"commit": "unknown: not a git checkout", "dirty": None}
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain"))}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
