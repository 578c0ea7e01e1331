"""Looks at what studies stand on: storage, folders, cluster, machine and installation.

Nothing is changed and nothing is left behind; every check has a time limit and a verdict. What is
not Python's or ours is imported by the checks that need it: it may be what is missing.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import importlib.util
import json
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hpo
from hpo.doctor.result import GB, CheckResult, Verdict, ask, examine
from hpo.doctor.storage import check_storage
from hpo.study.identity.provenance import git_state
from hpo.system import resources
from hpo.system.filesystem import locate, nearest_existing
from slurm.errors import SlurmError
from slurm.queue import versions_and_limits

FREE_BYTES = 1 * GB
FREE_INODES = 10_000
WORKER_BYTES = 0.5 * GB
OPEN_FILES = 1024
PROCESSES = 512
SLOW_IMPORT_S = 10.0
SLURM_LIMIT_S = 5.0
MAX_NAMED = 5
CHECKOUT = Path(hpo.__file__).resolve().parents[1]

# Says how long the import took before it goes on, in case that its time ends.
_IMPORTS = """
import json, time
begin = time.perf_counter()
import hpo.worker
print(time.perf_counter() - begin, flush=True)
import sklearn.ensemble, threadpoolctl
print(json.dumps([[pool["internal_api"], pool["num_threads"]]
                  for pool in threadpoolctl.threadpool_info()]))
"""


def diagnose(storage: str, folders: dict[str, Path]) -> list[CheckResult]:
    """Return what all checks find.

    Parameters
    ----------
    storage
        URL of the storage of studies.
    folders
        Folders that will be written to, by what they are for.
    """
    # First and alone: what is timed must not wait for the others.
    findings = examine("storage", lambda: check_storage(storage))
    checks: dict[str, Callable[[], list[CheckResult]]] = {
        f"{name} folder": functools.partial(check_folder, f"{name} folder", folder)
        for name, folder in folders.items()
    }
    checks |= {
        "slurm": check_slurm,
        "cores": check_cores,
        "memory": check_memory,
        "limits": check_limits,
        "imports": check_imports,
        "packages": check_packages,
        "openmp": check_openmp,
        "trees": check_trees,
        "git": check_git,
        "weights & biases": check_wandb,
    }
    # Those that wait for another program wait at the same time.
    with ThreadPoolExecutor(max_workers=len(checks)) as pool:
        for found in pool.map(examine, checks.keys(), checks.values()):
            findings.extend(found)
    return findings


def check_folder(name: str, folder: Path) -> list[CheckResult]:
    """Return whether a folder, or that which it would be made in, can be written, and its room."""
    nearest = nearest_existing(folder)
    where = locate(folder)
    there = f"{folder}" if nearest == folder.absolute() else f"{folder} (not made yet)"
    if not nearest.is_dir():
        found = f"{there}: {nearest} is not a folder"
        return [CheckResult(name, "problem", found, "give another folder, or move that file away")]
    try:
        _try_to_write(nearest)
    except OSError as exc:
        found = f"{there} on {where}: cannot be written: {exc.strerror or exc}"
        return [CheckResult(name, "problem", found, "give a folder that you may write to")]
    status = os.statvfs(nearest)
    free = status.f_bavail * status.f_frsize
    found = f"{there} on {where}, {free / GB:.1f} GB free"
    figures = {"free_bytes": float(free)}
    few_inodes = False
    # Some file systems make inodes as they go and say 0 of 0.
    if status.f_files > 0:
        found += f", {status.f_favail:,} inodes"
        figures["free_inodes"] = float(status.f_favail)
        few_inodes = status.f_favail < FREE_INODES
    if free < FREE_BYTES or few_inodes:
        remedy = "little room is left: remove what is no longer needed, or use another folder"
        return [CheckResult(name, "warning", found, remedy, figures)]
    return [CheckResult(name, "ok", found, figures=figures)]


def _try_to_write(folder: Path) -> None:
    """Write a file and rename it over another, as tables and reports are written."""
    with tempfile.TemporaryDirectory(prefix=".hpo-doctor-", dir=folder) as scratch:
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        old.write_text("old", encoding="ascii")
        new.write_text("new", encoding="ascii")
        new.replace(old)
        if old.read_text(encoding="ascii") != "new":
            raise OSError("a file that was renamed over another is not the new one")


def check_cores() -> list[CheckResult]:
    """Return how many workers can run at full speed."""
    cores = resources.cores()
    found = f"{cores.allowed} of {cores.machine} usable"
    figures = {"allowed": float(cores.allowed), "machine": float(cores.machine)}
    if cores.quota is None:
        return [CheckResult("cores", "ok", found, figures=figures)]
    found += f", limited to the time of {cores.quota:g}"
    figures["quota"] = cores.quota
    if cores.quota >= cores.allowed:
        return [CheckResult("cores", "ok", found, figures=figures)]
    remedy = f"workers beyond that only slow each other down: use --workers {cores.usable}"
    return [CheckResult("cores", "warning", found, remedy, figures)]


def check_memory() -> list[CheckResult]:
    """Return the memory that there is for each worker, if there is one per core."""
    sizes = [size for size in (resources.memory_available(), resources.memory_left()) if size]
    if not sizes:
        return [CheckResult("memory", "not checked", "this system does not say what is available")]
    available, workers = min(sizes), resources.cores().usable
    each = available / workers
    found = f"{available / GB:.1f} GB available, {each / GB:.1f} GB for each of {workers} workers"
    figures = {"available_bytes": float(available), "worker_bytes": each}
    if each >= WORKER_BYTES:
        return [CheckResult("memory", "ok", found, figures=figures)]
    fewer = max(1, int(available / WORKER_BYTES))
    remedy = f"a worker needs some {WORKER_BYTES / GB:g} GB: use --workers {fewer}, or free memory"
    return [CheckResult("memory", "warning", found, remedy, figures)]


def check_limits() -> list[CheckResult]:
    """Return what the shell's limits leave for open files, processes and core files."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    core = resource.getrlimit(resource.RLIMIT_CORE)[0]
    found = (
        f"open files {_limit(files)}, processes {_limit(processes)}, "
        f"core files {'off' if core == 0 else 'on'}"
    )
    remedies = []
    if files != resource.RLIM_INFINITY and files < OPEN_FILES:
        remedies.append(f"raise the limit of open files: ulimit -n {OPEN_FILES}")
    if processes != resource.RLIM_INFINITY and processes < PROCESSES:
        remedies.append(f"raise the limit of processes and threads: ulimit -u {PROCESSES}")
    return [CheckResult("limits", "warning" if remedies else "ok", found, "; ".join(remedies))]


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else f"{value}"


def check_imports() -> list[CheckResult]:
    """Return how long a worker takes to load, from where, and the threads that it would use."""
    reply = ask([sys.executable, "-c", _IMPORTS], SLOW_IMPORT_S)
    lines = reply.out.splitlines()
    where = locate(Path(sys.prefix))
    environment = f"the environment is on {where}"
    if not lines and reply.code is None:
        found = f"hpo.worker.worker took more than {SLOW_IMPORT_S:g} s to load; {environment}"
        remedy = "install the environment on a local or faster disk of each node, or in an image"
        loading = CheckResult("imports", "warning", found, remedy)
    elif not lines:
        said = (reply.err.strip().splitlines() or [f"exit code {reply.code}"])[-1]
        found = f"hpo.worker.worker cannot be loaded: {said}"
        loading = CheckResult("imports", "problem", found, "install the packages again")
    else:
        seconds = float(lines[0])
        cached, remedy = _bytecode()
        found = f"hpo.worker.worker loads in {seconds:.1f} s, bytecode {cached}; {environment}"
        verdict: Verdict = "warning" if remedy else "ok"
        loading = CheckResult("imports", verdict, found, remedy, {"import_s": seconds})
    return [loading, _threads(lines[1:])]


def _bytecode() -> tuple[str, str]:
    """Return whether modules are compiled, and what to do if each process compiles them again."""
    uncached = []
    for name in ("hpo", "optuna", "sqlalchemy", "numpy"):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            cache = Path(importlib.util.cache_from_source(spec.origin))
            if not cache.is_file():
                uncached.append((Path(spec.origin).parent, cache))
    if not uncached:
        return "cached", ""
    writable = all(os.access(nearest_existing(cache.parent), os.W_OK) for _, cache in uncached)
    if writable and not sys.dont_write_bytecode:
        return "cached at first use", ""
    command = f"python -m compileall -q {' '.join(str(folder) for folder, _ in uncached)}"
    if not writable:
        return (
            "not cached (its folder cannot be written)",
            f"every process compiles it anew; let its owner run once: {command}",
        )
    return (
        "not cached (PYTHONDONTWRITEBYTECODE is set)",
        f"every process compiles it anew; unset that variable, or run once: {command}",
    )


def _threads(lines: list[str]) -> CheckResult:
    if not lines:
        return CheckResult(
            "threads", "not checked", "the numerical libraries were not loaded in time"
        )
    pools: dict[str, int] = {}
    for api, number in json.loads(lines[0]):
        pools[api] = max(number, pools.get(api, 0))
    found = "one per worker, as every command sets; " + (
        ", ".join(f"{api} uses {number}" for api, number in sorted(pools.items())) or "no pools"
    )
    figures = {f"{api}_threads": float(number) for api, number in pools.items()}
    if all(number == 1 for number in pools.values()):
        return CheckResult("threads", "ok", found, figures=figures)
    remedy = "a library does not heed OMP_NUM_THREADS=1: use fewer workers, or another build of it"
    return CheckResult("threads", "warning", found, remedy, figures)


def check_packages() -> list[CheckResult]:
    """Return which packages are not of the versions that the checkout was tested with."""
    lock = CHECKOUT / "requirements.lock"
    python = ".".join(map(str, sys.version_info[:3]))
    if not lock.is_file():
        found = f"Python {python}; no requirements.lock beside the package to compare with"
        return [CheckResult("packages", "not checked", found)]
    n_locked, wrong = _differences(lock)
    figures = {"locked": float(n_locked), "different": float(len(wrong))}
    if not wrong:
        found = f"Python {python}; all {n_locked} packages as in requirements.lock"
        return [CheckResult("packages", "ok", found, figures=figures)]
    more = f" and {len(wrong) - MAX_NAMED} more" if len(wrong) > MAX_NAMED else ""
    found = (
        f"Python {python}; {len(wrong)} of {n_locked} packages differ from requirements.lock: "
        f"{', '.join(wrong[:MAX_NAMED])}{more}"
    )
    remedy = "pip install --require-hashes -r requirements.lock"
    return [CheckResult("packages", "warning", found, remedy, figures)]


def _differences(lock: Path) -> tuple[int, list[str]]:
    """Return how many packages are locked for this machine, and those that differ."""
    from packaging.requirements import Requirement

    installed = {
        _normal(distribution.metadata["Name"]): distribution.version
        for distribution in importlib.metadata.distributions()
        if distribution.metadata["Name"]
    }
    wrong, n_locked = [], 0
    for line in lock.read_text(encoding="utf-8").splitlines():
        if "==" not in line or line.startswith((" ", "#", "-")):
            continue
        wanted = Requirement(line.removesuffix("\\").strip())
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        n_locked += 1
        version = installed.get(_normal(wanted.name))
        if version is None or not wanted.specifier.contains(version, prereleases=True):
            wrong.append(
                f"{wanted.name} {version or 'missing'} (locked: {str(wanted.specifier)[2:]})"
            )
    return n_locked, wrong


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def check_openmp() -> list[CheckResult]:
    """Return whether the library is there that LightGBM expects the system to have."""
    if not sys.platform.startswith("linux"):
        return [CheckResult("openmp", "not checked", "LightGBM's need of libgomp is Linux's alone")]
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError:
        remedy = "only estimator 'lightgbm' needs it: install libgomp1 (libgomp on Red Hat)"
        return [CheckResult("openmp", "warning", "libgomp.so.1 is missing", remedy)]
    return [CheckResult("openmp", "ok", "libgomp.so.1 is there, which estimator 'lightgbm' needs")]


def check_trees() -> list[CheckResult]:
    """Return whether estimator 'hist_gradient_boosting' is fitted by compiled trees of our own."""
    from hpo.estimators import trees

    verdict = trees.installed()
    if verdict.suits:
        return [CheckResult("trees", "ok", "compiled, for estimator 'hist_gradient_boosting'")]
    return [CheckResult("trees", "warning", verdict.reason, trees.SLOWER)]


def check_git() -> list[CheckResult]:
    """Return the commit that results will be traced to."""
    if shutil.which("git") is None:
        return [CheckResult("git", "not checked", "no git on PATH; results will name no commit")]
    state = git_state(CHECKOUT)
    if state["dirty"] is None:
        return [
            CheckResult("git", "not checked", "not a checkout; results name package versions alone")
        ]
    if state["dirty"]:
        found = f"commit {state['commit'][:12]}, with changes that are not committed"
        return [
            CheckResult("git", "warning", found, "commit before a study whose numbers you publish")
        ]
    return [CheckResult("git", "ok", f"commit {state['commit'][:12]}, nothing changed")]


def check_slurm() -> list[CheckResult]:
    """Return whether SLURM is there and answers, and those of its settings that matter to us."""
    if shutil.which("sbatch") is None:
        found = "not installed: no sbatch on PATH"
        return [CheckResult("slurm", "not checked", found, "only needed for jobs on a cluster")]
    try:
        site = versions_and_limits(SLURM_LIMIT_S)
    except SlurmError as exc:
        remedy = "local workers (hpo run) do not need SLURM; for jobs, ask the site"
        return [CheckResult("slurm", "warning", str(exc), remedy)]
    sacct = "sacct answers" if site.accounting else "no sacct (not needed)"
    found = (
        f"cluster {site.cluster}, version {site.version}, the controller is up; arrays up to "
        f"{site.max_array}, preemption {site.preempt_mode}, {site.kill_wait_s} s from SIGTERM to "
        f"SIGKILL, {sacct}"
    )
    return [CheckResult("slurm", "ok", found)]


def check_wandb() -> list[CheckResult]:
    """Return whether Weights & Biases is set up, which it need not be."""
    key = "a key is set" if os.environ.get("WANDB_API_KEY") else "no WANDB_API_KEY"
    mode = os.environ.get("WANDB_MODE")
    found = f"{key}, {f'mode {mode}' if mode else 'no WANDB_MODE'} (optional)"
    return [CheckResult("weights & biases", "ok", found)]
