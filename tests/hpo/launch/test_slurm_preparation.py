"""A study that is prepared in one of its jobs on a real SLURM."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from hpo.study.events import workers_of
from hpo.study.status import take_status
from tests.support.prepared import N_UNITS, write_prepared
from tests.support.studies import wait_until


def lines(what):
    file = Path("journal.txt")
    if not file.exists():
        return []
    written = (line.rpartition(" ") for line in file.read_text().splitlines())
    return [(line, int(pid)) for line, _, pid in written if line.startswith(what)]


@pytest.mark.slow
def test_a_study_is_prepared_by_one_of_its_jobs_and_not_by_submit(hpo, site):
    hpo("submit", write_prepared(trials=4, delay_s=1.0), "--workers", "2")
    record = site.record()
    wait_until(lambda: len(lines("unit")) >= 2)
    preparing = take_status(record).told.preparation
    assert preparing is not None
    (job,) = (w.job for w in workers_of(record) if w.worker_id == preparing.worker)
    site.cluster.scancel("--signal=USR2", job)
    wait_until(lambda: site.status().state == "finished", 120)
    units = Counter(line for line, _ in lines("unit"))
    assert set(units.values()) == {1}
    assert len(units) == N_UNITS
    assert len(lines("prepare")) == 2
    workers = {worker.pid for worker in workers_of(record)}
    assert {pid for _, pid in lines("")} <= workers
    assert site.status().as_dict()["told"]["baseline"]["scores"]["score"] == pytest.approx(10.0)
