"""Imports in a thread of their own, before there is need of them: they take a second or two."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Iterable

from hpo.system.resources import loading


class EarlyImports:
    """Imports modules in a thread, once it is time for that.

    Parameters
    ----------
    modules
        Their names; one that cannot be imported is left to whoever needs it.
    """

    def __init__(self, modules: Iterable[str]) -> None:
        self._modules = tuple(modules)
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
