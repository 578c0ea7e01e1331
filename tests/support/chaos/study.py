"""The study that everything happens to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hpo.records import Access
from hpo.spec.loading import validate
from hpo.storage.backends import open_storage
from hpo.study.creation import begin
from hpo.study.record import Source, StudyRecord
from tests.support.chaos.objective import LEASE_S, PART_S

BUDGET = 200

SPACE = {"space": {"alpha": {"type": "float", "low": 0.0, "high": 10.0}}}
MODULE = "tests.support.chaos.objective"
# What scores a trial, and the time after which something of it hangs.
KINDS: dict[str, dict[str, Any]] = {
    "table": SPACE | {
        "objective": {"name": f"{MODULE}:Troubled"},
        "limits": {"part_s": PART_S},
    },
    "function": {
        "objective": {"function": f"{MODULE}:objective"},
        "limits": {"attempt_s": 2 * PART_S},
    },
    "program": SPACE | {
        "objective": {
            "command": [sys.executable, "-m", MODULE],
            "score": {"regex": r"total (\S+)"},
            "report": {"regex": r"part (?P<step>\d+) score (?P<value>\S+)"},
        },
        "limits": {"attempt_s": 2 * PART_S},
    },
}  # fmt: skip


def begin_troubled(
    url: str, folder: Path, kind: str = "table", trials: int = BUDGET, name: str = "chaos"
) -> StudyRecord:
    """Begin a study whose journal and troubles are in a folder."""
    for made in ("troubles", "taken"):
        (folder / made).mkdir()
    fields = {
        "name": name,
        "trials": trials,
        "lease_s": LEASE_S,
        # The journal says that a part is stored when the next one begins.
        "checkpoint_s": 0,
        "max_deaths": 1000,
    }
    spec = validate(
        fields
        | KINDS[kind]
        | {"limits": KINDS[kind]["limits"] | {"on_exceeded": "retry", "retries": 100}},
        "test",
    )
    storage = open_storage(url, Access.CREATE)
    # A launcher waits as long as a user would.
    storage.patience_s = 30.0
    return begin(storage, spec, Source(str(folder / "chaos.toml"), (), None), None)
