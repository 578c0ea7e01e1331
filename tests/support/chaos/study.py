"""The study that everything happens to."""

from __future__ import annotations

from pathlib import Path

from hpo.records import Access
from hpo.spec.loading import validate
from hpo.storage.backends import open_storage
from hpo.study.creation import begin
from hpo.study.record import Source, StudyRecord
from tests.support.chaos.objective import LEASE_S, PART_S

BUDGET = 200


def begin_troubled(url: str, folder: Path, delay_s: float, name: str = "chaos") -> StudyRecord:
    """Begin a study of a `Troubled` objective, whose journal and troubles are in a folder."""
    for kind in ("troubles", "taken"):
        (folder / kind).mkdir()
    spec = validate(
        {
            "name": name,
            "trials": BUDGET,
            "lease_s": LEASE_S,
            # The journal says that a part is stored when the next one begins.
            "checkpoint_s": 0,
            "max_deaths": 1000,
            "limits": {"part_s": PART_S, "on_exceeded": "retry", "retries": 100},
            "objective": {
                "name": "tests.support.chaos.objective:Troubled",
                "params": {
                    "delay_s": delay_s,
                    "journal": str(folder / "journal.txt"),
                    "troubles": str(folder / "troubles"),
                },
            },
            "space": {"alpha": {"type": "float", "low": 0.0, "high": 10.0}},
        },
        "test",
    )
    storage = open_storage(url, Access.CREATE)
    # A launcher waits as long as a user would.
    storage.patience_s = 30.0
    return begin(storage, spec, Source(str(folder / "chaos.toml"), (), None), None)
