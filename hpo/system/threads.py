"""Threads of numerical libraries: set before these load, and held afterwards.

A worker has one unless it is given more cores: more threads make the fits of small tables slower,
and far slower where workers share the cores.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    # joblib, which scikit-learn asks for cores, would otherwise look for a program that knows.
    "LOKY_MAX_CPU_COUNT",
)
_log = logging.getLogger(__name__)


def use_threads(number: int) -> None:
    """Tell the numerical libraries, which are still to be loaded, and programs started by us."""
    os.environ.update(thread_variables(number))


def thread_variables(number: int) -> dict[str, str]:
    """Return the variables that tell numerical libraries how many threads they may use."""
    return dict.fromkeys(VARIABLES, str(number))


def hold_threads(number: int) -> Mapping[str, int]:
    """Hold the libraries that are loaded to so many threads; return what they had, by library.

    A library that did not heed the variables is told again, which the log says.
    """
    # Not before there are libraries to be held: commands that compute nothing import this.
    import threadpoolctl

    found: dict[str, int] = {}
    for pool in threadpoolctl.threadpool_info():
        name = str(pool["internal_api"])
        found[name] = max(int(pool["num_threads"]), found.get(name, 0))
    deaf = [name for name, threads in found.items() if threads > number]
    if deaf:
        _log.warning("%s would use more threads, and is held to %d", ", ".join(deaf), number)
        threadpoolctl.threadpool_limits(number)
    listed = ", ".join(f"{name} {threads}" for name, threads in sorted(found.items()))
    each = "one thread" if number == 1 else f"{number} threads"
    _log.info("%s per worker: %s", each, listed or "no library has a pool of threads")
    return found
