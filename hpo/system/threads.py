"""One thread per worker: set before the numerical libraries load, and held afterwards.

More threads make the fits of small tables slower, and far slower where workers share the cores.
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


def use_one_thread() -> None:
    """Tell the numerical libraries, which are still to be loaded."""
    for name in VARIABLES:
        os.environ[name] = "1"


def hold_one_thread() -> Mapping[str, int]:
    """Hold the libraries that are loaded to one thread, and return what they had, by library.

    A library that did not heed the variables is told again, which the log says.
    """
    # Not before there are libraries to be held: commands that compute nothing import this.
    import threadpoolctl

    found: dict[str, int] = {}
    for pool in threadpoolctl.threadpool_info():
        name = str(pool["internal_api"])
        found[name] = max(int(pool["num_threads"]), found.get(name, 0))
    deaf = [name for name, number in found.items() if number > 1]
    if deaf:
        _log.warning("%s would use more than one thread, and is held to one", ", ".join(deaf))
        threadpoolctl.threadpool_limits(1)
    listed = ", ".join(f"{name} {number}" for name, number in sorted(found.items()))
    _log.info("one thread per worker: %s", listed or "no library has a pool of threads")
    return found
