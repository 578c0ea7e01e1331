"""Provenance: the commit and what differs from it, the packages, the machine."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping
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
LOCK_FILE = "requirements.lock"
# A longer difference is stored up to here; its hash is of all of it.
MAX_DIFF_CHARS = 200_000
ROOT = Path(__file__).resolve().parents[2]


def collect() -> dict[str, Any]:
    """Return what a study is begun with: checkout, lock file, packages, machine and command."""
    return {
        "git": git_state(ROOT),
        "lock": lock_hash(ROOT),
        "python": platform.python_version(),
        "packages": versions(PACKAGES),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "command": " ".join(["hpo", *sys.argv[1:]]),
    }


def collect_of_worker() -> dict[str, Any]:
    """Return what one run of a worker computes with; the difference as its hash alone."""
    git = git_state(ROOT)
    git.pop("diff", None)
    return {
        "git": git,
        "lock": lock_hash(ROOT),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "node": os.environ.get("SLURMD_NODENAME"),
        "partition": os.environ.get("SLURM_JOB_PARTITION"),
    }


def facts(origin: Mapping[str, Any]) -> dict[str, str]:
    """Return what may differ between two runs of a study although its scores need not.

    Returns
    -------
    dict
        `commit`, `diff` (a hash of uncommitted changes, or none), `lock` (the lock file's hash),
        `python`, `host`.
    """
    git = origin.get("git", {})
    return {
        "commit": str(git.get("commit", "unknown")),
        "diff": str(git.get("diff_hash") or "none"),
        "lock": str(origin.get("lock") or "none"),
        "python": str(origin.get("python", "unknown")),
        "host": str(origin.get("host", "unknown")),
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


def lock_hash(folder: Path) -> str | None:
    """Return the SHA-256 of a checkout's lock file; None if it has none."""
    path = folder / LOCK_FILE
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def git_state(folder: Path) -> dict[str, Any]:
    """Return the commit that a folder is checked out at, and what differs from it.

    Returns
    -------
    dict
        `commit`; `dirty`, whether files differ or are not tracked; `diff`, the difference of the
        tracked files, shortened to `MAX_DIFF_CHARS`; `diff_hash`, the SHA-256 of all of it and
        of the names of untracked files; `untracked`, these names.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {"commit": "unknown: not a git checkout", "dirty": None}
    status = _git(folder, "status", "--porcelain") or ""
    state: dict[str, Any] = {"commit": commit.strip(), "dirty": bool(status.strip())}
    if state["dirty"]:
        diff = _git(folder, "diff", "HEAD") or ""
        state["diff"] = diff[:MAX_DIFF_CHARS]
        state["untracked"] = [line[3:] for line in status.splitlines() if line.startswith("??")]
        everything = "\0".join([diff, *state["untracked"]])
        state["diff_hash"] = hashlib.sha256(everything.encode()).hexdigest()
    return state


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line)
    return next(names, platform.processor())
