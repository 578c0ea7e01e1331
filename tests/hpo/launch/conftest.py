"""A cluster and a database on which studies are run by commands."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from hpo.launch.slurm_history import comment_of
from hpo.launch.slurm_plan import is_ours
from hpo.records import Access
from hpo.storage.backends import open_storage
from hpo.study.record import StudyRecord, find
from hpo.study.status import Status, take_status
from slurm.queue import list_jobs
from slurm.scheduler import QueuedJob

CLUSTERS = """
[test]
partition = "work"
memory_gb = 0.5
time_limit = "1:00:00"
"""


@pytest.fixture
def site(hpo, slurm_cluster, postgres_url, monkeypatch):
    """A folder with a cluster file, a database and a cluster that is at rest."""
    monkeypatch.setenv("HPO_STORAGE", postgres_url)
    Path("clusters.toml").write_text(CLUSTERS)
    opened: dict[str, StudyRecord] = {}

    class Site:
        cluster = slurm_cluster

        def record(self, name="x") -> StudyRecord:
            if name not in opened:
                opened[name] = find(open_storage(postgres_url, Access.WORK), name)
            return opened[name]

        def liar(self, program: str, script: str) -> AbstractContextManager[None]:
            """Have a script stand before a program of SLURM on PATH; REAL is the program."""
            return stand_before(Path("liars"), program, script)

        def status(self, name="x") -> Status:
            """What `hpo status` shows: asked many times, and without a command of its own."""
            return take_status(self.record(name))

        def jobs(self, name="x") -> list[QueuedJob]:
            """The jobs of a study that run or wait."""
            comment = comment_of(self.record(name))
            return [job for job in list_jobs() if is_ours(job, comment) and job.active]

        def running(self, name="x") -> list[QueuedJob]:
            return [job for job in self.jobs(name) if job.state == "RUNNING"]

    yield Site()
    for record in opened.values():
        record.storage.engine.dispose()
    slurm_cluster.wait_idle()


@contextlib.contextmanager
def stand_before(folder: Path, program: str, script: str) -> Iterator[None]:
    """Put a script of this name first on PATH."""
    real = shutil.which(program)
    assert real is not None
    folder.mkdir(exist_ok=True)
    liar = folder / program
    liar.write_text(f"#!/bin/bash\nREAL={real}\n{script}\n")
    liar.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder.resolve()), prepend=os.pathsep)
        yield
    liar.unlink()
