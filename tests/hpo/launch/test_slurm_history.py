"""What events of a study, of this version and of earlier ones, say of its jobs."""

from __future__ import annotations

import time

import pytest

from hpo.errors import HpoError
from hpo.launch.slurm_history import (
    DesiredWorkers,
    comment_of,
    describe_submission,
    find_wanted,
    read_history,
    record_refusal,
    record_result,
)
from hpo.records import WorkerRun
from hpo.storage.events import EventKind
from slurm.cluster import ClusterSpec


def desired(name: str, workers: int, site: str | None = "here", **shape) -> DesiredWorkers:
    return DesiredWorkers(workers, ClusterSpec(name=name, **shape), "db", "/logs", site)


def submit(record, wanted: DesiredWorkers, submission_id: str, n_jobs: int):
    shape = (n_jobs, wanted.cluster.workers_per_job)
    detail = {"id": submission_id, "anew": True, **describe_submission(record, wanted, *shape)}
    record.ledger.record(EventKind.SUBMITTING, detail)
    return detail


def test_each_section_that_was_asked_for_stands_with_what_was_said_last(begin_study):
    record = begin_study()
    with pytest.raises(HpoError, match="study 'small' was never submitted to a cluster"):
        find_wanted(record, "db")
    record_result(record, submit(record, desired("a", 8), "s1", 2), ["1_0", "1_1"])
    record_result(record, submit(record, desired("b", 32), "s2", 1), ["2"])
    submit(record, desired("a", 4, workers_per_job=2), "s3", 1)
    record_refusal(record, submit(record, desired("c", 5), "s4", 5), [])
    asked = find_wanted(record, "db")
    assert [(each.cluster.name, each.workers) for each in asked] == [("a", 4), ("b", 32)]
    assert asked[0].cluster.workers_per_job == 2
    history = read_history(record, "db")
    known = [(s.submission_id, s.section, s.n_jobs, s.job_ids) for s in history.submissions]
    assert known == [
        ("s1", "a", 2, ("1_0", "1_1")),
        ("s2", "b", 1, ("2",)),
        ("s3", "a", 1, None),
        ("s4", "c", 5, ()),
    ]


def test_what_two_write_down_of_one_submission_counts_together(begin_study):
    record = begin_study()
    detail = submit(record, desired("a", 4), "s1", 4)
    record_result(record, detail, ["1_0", "1_1"])
    record_result(record, detail, ["1_1", "1_2", "1_3"])
    (submission,) = read_history(record, "db").submissions
    assert submission.job_ids == ("1_0", "1_1", "1_2", "1_3")


def test_what_an_earlier_version_wrote_down_is_read(begin_study):
    record = begin_study()
    cluster = {"name": "old", "cpus": 2, "gres": "gpu:1", "memory_gb": 8.0}
    event = {"wanted": 2, "cluster": cluster, "logs": "/logs", "jobs": ["7_0", "7_1"]}
    old = {"folder": "/logs/x", "anew": True, "progress": 0}
    record.ledger.record(EventKind.SUBMITTED, {**event, **old})
    (wanted,) = find_wanted(record, "db")
    assert (wanted.cluster.cpus_per_job, wanted.cluster.gpus_per_job, wanted.site) == (2, 1, None)
    history = read_history(record, "db")
    study = comment_of(record)
    assert history.expected(study, "anywhere") == {"7_0": study, "7_1": study}
    record.ledger.record(EventKind.JOBS_GONE, {"site": "here", "jobs": ["7_1"]})
    assert read_history(record, "db").expected(study, "here") == {"7_0": study}


def test_jobs_are_expected_on_their_own_cluster(begin_study):
    record = begin_study()
    record_result(record, submit(record, desired("a", 1), "s1", 1), ["1"])
    record_result(record, submit(record, desired("b", 1, site="far"), "s2", 1), ["2"])
    record.ledger.register("w1", WorkerRun("n1", 1, cluster="here", job="9", restarts=0))
    record.ledger.register("w2", WorkerRun("n1", 1, cluster="far", job="8", restarts=0))
    record.ledger.register("w3", WorkerRun("login", 1))
    history, study = read_history(record, "db"), comment_of(record)
    assert history.expected(study, "here") == {"1": f"{study}:s1", "9": None}
    assert history.expected(study, "far") == {"2": f"{study}:s2", "8": None}


def test_that_a_worker_was_reaped_is_no_sign_of_life(begin_study):
    record = begin_study()
    record.ledger.register("w1", WorkerRun("n1", 1, cluster="here", job="9", restarts=0))
    time.sleep(0.3)
    record.ledger.reap("w1", "silent")
    (worker,) = read_history(record, "db").workers
    assert worker.ended
    assert worker.silent_s >= 0.3


def test_who_decided_by_less_than_has_happened_decides_anew(begin_study):
    record = begin_study()
    kinds = (EventKind.SUBMITTING, EventKind.SUBMITTED)
    add = record.ledger.record_unless_others
    assert add(EventKind.SUBMITTING, {"id": "s1"}, kinds, 0)
    assert add(EventKind.SUBMITTING, {"id": "s1"}, kinds, 0), "the answer was lost"
    assert not add(EventKind.SUBMITTING, {"id": "s2"}, kinds, 0)
    record.ledger.record(EventKind.JOBS_GONE, {"site": "here", "jobs": []})
    assert add(EventKind.SUBMITTING, {"id": "s2"}, kinds, 1)
    assert len(record.ledger.events(EventKind.SUBMITTING)) == 2
