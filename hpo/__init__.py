"""The engine: study files, shared storage, the ledger, workers, reports and the command line.

In scripts and notebooks, `import hpo` offers what `hpo.api` says; it is loaded when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpo.api import trial_dir

__all__ = ["trial_dir"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'hpo' has no attribute '{name}'")
    import hpo.api

    return getattr(hpo.api, name)


def __dir__() -> list[str]:
    return __all__
