"""What reports import, which takes a second or two: done while workers still compute."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Iterable

from hpo.system.resources import loading

# The page, and beside it what is imported only where it is needed.
MODULES = (
    "hpo.report.study_page",
    "scipy.stats",
    "optuna.importance",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_pdf",
    "matplotlib.backends.backend_svg",
)


class ReportImports:
    """Imports modules in a thread, once it is time for that.

    Parameters
    ----------
    own
        Modules of the study's estimator and objective that its report needs beside `MODULES`.
    """

    def __init__(self, own: Iterable[str]) -> None:
        self._modules = (*own, *MODULES)
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Begin, unless that has been done."""
        if self._thread is None:
            # Whoever leaves early need not wait for it.
            self._thread = threading.Thread(target=self._load, daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Wait until what has begun is done."""
        if self._thread is not None:
            self._thread.join()

    def _load(self) -> None:
        with loading():
            for module in self._modules:
                # What cannot be imported is told where it is needed.
                with contextlib.suppress(Exception):
                    importlib.import_module(module)
