"""Provenance: the commit and what differs from it, the packages, the machine."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import pwd
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpo.redaction import redact, redact_arguments

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
ROOT = Path(__file__).resolve().parents[3]
# Keeps the text of uncommitted changes in the study's storage, where a hash stands otherwise.
KEEP_DIFF = "HPO_KEEP_DIFF"
# What pages and Weights & Biases may show; all else stays in the storage. None of it says who or
# where somebody is, or what a source file contains.
_PUBLIC = ("lock", "python", "packages", "platform")
_PUBLIC_GIT = ("commit", "dirty", "diff_hash")
# Repositories: hpo's own checkout, and the one that the study file lies in.
_REPOSITORIES = ("git", "repository")


def collect(study_file: Path | None = None) -> dict[str, Any]:
    """Return what a study is begun with: checkouts, lock file, packages, machine, user, command.

    Of uncommitted changes it has the hash, and their text only where `HPO_KEEP_DIFF` is set.
    """
    origin = {
        "git": git_state(ROOT),
        "lock": lock_hash(ROOT),
        "python": platform.python_version(),
        "packages": versions(PACKAGES),
        "user": user_name(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "command": shlex.join(["hpo", *redact_arguments(sys.argv[1:])]),
    }
    repository = _repository_of(study_file.resolve().parent) if study_file else None
    if repository is not None and repository != ROOT:
        origin["repository"] = git_state(repository)
    return origin


def published(origin: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a study's provenance may leave its storage: for pages and for other servers.

    Versions, commits and hashes do. Names of users and machines, paths, the command and the text
    of changes do not.
    """
    shown = {key: origin[key] for key in _PUBLIC if key in origin}
    for key in _REPOSITORIES:
        if key in origin:
            shown[key] = {name: origin[key][name] for name in _PUBLIC_GIT if name in origin[key]}
    return shown


def user_name() -> str:
    """Return the account that this process runs under, whatever the environment says."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # as in a container that does not know the account
        return f"uid {os.geteuid()}"


def collect_of_worker() -> dict[str, Any]:
    """Return what one run of a worker computes with."""
    return {
        "git": git_state(ROOT),
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
    """Return the commit that a folder is checked out at, and whether something differs from it.

    Returns
    -------
    dict
        `commit`; `dirty`, whether files differ or are not tracked; `untracked`, how many are not;
        `diff_hash`, the SHA-256 of the difference of the tracked files and of the names of
        untracked ones. `diff`, this difference without passwords and cut to `MAX_DIFF_CHARS`, only
        where `HPO_KEEP_DIFF` is set.
    """
    # An installed hpo lies in somebody else's repository, if in one.
    commit, _, top = (_git(folder, "rev-parse", "HEAD", "--show-toplevel") or "").partition("\n")
    if not top or Path(top.rstrip("\n")).resolve() != folder.resolve():
        return {"commit": "unknown: not a git checkout", "dirty": None}
    status = _git(folder, "status", "--porcelain") or ""
    state: dict[str, Any] = {"commit": commit, "dirty": bool(status.strip())}
    if state["dirty"]:
        diff = _git(folder, "diff", "HEAD") or ""
        untracked = [line[3:] for line in status.splitlines() if line.startswith("??")]
        state["untracked"] = len(untracked)
        everything = "\0".join([diff, *untracked])
        state["diff_hash"] = hashlib.sha256(everything.encode()).hexdigest()
        if os.environ.get(KEEP_DIFF):
            state["diff"] = redact(diff)[:MAX_DIFF_CHARS]
    return state


def _repository_of(folder: Path) -> Path | None:
    """Return the top folder of the repository that a folder is in; None if it is in none."""
    top = _git(folder, "rev-parse", "--show-toplevel")
    return Path(top.rstrip("\n")).resolve() if top else None


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
