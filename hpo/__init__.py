"""The engine: study files, shared storage, the ledger, workers, reports and the command line.

In scripts and notebooks, `import hpo` offers what `hpo.api` says; it is loaded when it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpo.api import Study, enqueue, load_study, resume, run, status, submit
    from hpo.errors import HpoError
    from hpo.worker.trial_folder import trial_dir

__all__ = [
    "HpoError",
    "Study",
    "enqueue",
    "load_study",
    "resume",
    "run",
    "status",
    "submit",
    "trial_dir",
]

# What objectives call in their workers loads nothing else.
_HOMES = {"HpoError": "hpo.errors", "trial_dir": "hpo.worker.trial_folder"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'hpo' has no attribute '{name}'")
    home = _HOMES.get(name, "hpo.api")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return __all__
