"""How many jobs a refill submits: a function of what is known, tried on clusters that misbehave."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo.launch.slurm_plan import (
    IN_DOUBT_S,
    Plan,
    Section,
    Submission,
    WorkerSign,
    make_plan,
    share,
)
from slurm.scheduler import QueuedJob

STUDY, SITE, LEASE_S = "hpo:study", "here", 10.0
FOUR = (Section("a", 4),)


def queued(job_id: str, state: str, restarts: int = 0, comment: str | None = STUDY) -> QueuedJob:
    return QueuedJob(job_id, job_id, state, None, "n1", restarts, "hpo-x", "work", None, comment)


def sign(silent_s: float = 0.0, job: str | None = "7_0", site: str | None = SITE, **changes):
    return replace(WorkerSign("w1", site, job, 0, silent_s, ended=False), **changes)


def submitted(*jobs: str, section: str = "a", **changes) -> Submission:
    return replace(Submission("", section, SITE, len(jobs), 1, 99.0, jobs), **changes)


def decide(queue=(), workers=(), submissions=(), sections=FOUR, left: int = 100) -> Plan:
    return make_plan(
        sections, submissions, queue, workers, comment=STUDY, site=SITE, left=left, lease_s=LEASE_S
    )


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING"])
@pytest.mark.parametrize("ended", [False, True])
def test_a_job_whose_workers_are_silent_is_replaced_whatever_its_state(state, ended):
    jobs = [submitted("7_0")]
    heard = decide([queued("7_0", state)], [sign(1.9 * LEASE_S, ended=ended)], jobs)
    assert (heard.reap, heard.cancel, heard.sections[0].there) == ((), (), 1)
    silent = decide([queued("7_0", state)], [sign(2.1 * LEASE_S, ended=ended)], jobs)
    assert silent.cancel == ("7_0",)
    assert [worker for worker, _ in silent.reap] == ([] if ended else ["w1"])
    assert (silent.sections[0].there, silent.sections[0].submit) == (0, ((4, 1),))


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "PENDING"])
def test_a_job_whose_workers_have_not_begun_counts(state):
    """Also one that was requeued: the silence is that of its workers before."""
    assert decide([queued("7_0", state)], [], [submitted("7_0")]).sections[0].there == 1
    again = decide([queued("7_0", state, 1)], [sign(99.0, ended=True)], [submitted("7_0")])
    assert (again.cancel, again.sections[0].there) == ((), 1)


@pytest.mark.parametrize(
    ("jobs", "reason"),
    [
        ([queued("7_0", "RUNNING")], None),
        ([queued("7_0", "SUSPENDED")], None),
        ([queued("7_0", "NODE_FAIL")], "its job 7_0 is over: NODE_FAIL"),
        ([queued("7_0", "COMPLETED")], "its job 7_0 is over: COMPLETED"),
        ([queued("7_0", "PENDING", restarts=1)], "its job 7_0 was started again"),
        # A controller that lost its state has not ended a worker that was heard of just now.
        ([], None),
    ],
)
def test_leases_and_queue_are_joined(jobs, reason):
    others = [
        sign(99.0, site="elsewhere", worker_id="w2"),
        sign(99.0, job=None, site=None, worker_id="w3"),
    ]
    found = decide(jobs, [sign(), *others])
    assert found.reap == ((("w1", reason),) if reason else ())


def test_a_job_that_slurm_has_forgotten_is_reaped_when_it_is_silent():
    found = decide([], [sign(0.7 * LEASE_S)])
    assert found.reap == (("w1", "SLURM does not know its job 7_0 any more"),)


def test_a_living_worker_counts_whatever_the_queue_says():
    found = decide([], [sign()], [submitted("7_0")]).sections[0]
    assert (found.there, found.submit) == (1, ((3, 1),))
    far = sign(0.9 * LEASE_S, site="elsewhere")
    recorded = [submitted("7_0", site="elsewhere")]
    assert decide([], [far], recorded).sections[0].there == 1
    assert decide([], [replace(far, silent_s=1.1 * LEASE_S)], recorded).sections[0].there == 0
    over = decide([queued("7_0", "COMPLETED")], [sign()], [submitted("7_0")]).sections[0]
    assert over.there == 0


def test_workers_by_hand_and_local_ones_take_of_the_budget_and_of_no_section():
    by_hand = queued("9", "RUNNING", comment=f"{STUDY}:by-hand")
    local = sign(job=None, site=None, worker_id="w2")
    for workers in ([local], [local, sign(job="9")]):
        found = decide([by_hand], workers, left=5).sections[0]
        assert (found.needed, found.there) == (3, 0)
        assert decide([by_hand], workers, left=9).sections[0].needed == 4


def test_the_last_job_has_as_many_workers_as_are_missing():
    packed = [Section("a", 10, workers_per_job=4)]
    assert decide(sections=packed).sections[0].submit == ((2, 4), (1, 2))
    assert decide(sections=packed, left=3).sections[0].submit == ((1, 3),)
    jobs = [submitted("7_0", "7_1", workers_per_job=4)]
    running = [queued("7_0", "RUNNING"), queued("7_1", "PENDING")]
    assert decide(running, submissions=jobs, sections=packed).sections[0].submit == ((1, 2),)


def test_waiting_jobs_that_nobody_needs_are_cancelled_and_running_ones_never():
    jobs = [submitted("7_0", "7_1", "7_2", "7_3")]
    queue = [queued("7_0", "RUNNING"), *(queued(f"7_{i}", "PENDING") for i in (1, 2, 3))]
    assert decide(queue, submissions=jobs, left=1).sections[0].cancel == ()
    assert decide(queue, submissions=jobs, left=0).sections[0].cancel == ("7_3", "7_2", "7_1")
    fewer = [Section("a", 2)]
    assert decide(queue, submissions=jobs, sections=fewer).sections[0].cancel == ("7_3", "7_2")


def test_a_submission_in_doubt_is_settled_by_the_queue():
    doubt = Submission("s1", "a", SITE, 4, 1, age_s=5.0, job_ids=None)
    three = [queued(f"8_{i}", "PENDING", comment=f"{STUDY}:s1") for i in range(3)]
    young = decide(three, submissions=[doubt])
    assert (young.settled, young.sections[0].there, young.sections[0].in_doubt) == ({}, 4, 1)
    fourth = queued("8_3", "COMPLETED", comment=f"{STUDY}:s1")
    whole = decide([*three, fourth], submissions=[doubt])
    assert whole.settled == {"s1": ("8_0", "8_1", "8_2", "8_3")}
    assert whole.sections[0].submit == ((1, 1),)
    old = decide(three, submissions=[replace(doubt, age_s=IN_DOUBT_S + 1.0)])
    assert (old.settled, old.sections[0].submit) == ({"s1": ("8_0", "8_1", "8_2")}, ((1, 1),))
    elsewhere = decide(submissions=[replace(doubt, site="elsewhere", age_s=999.0)])
    assert elsewhere.settled == {}


def test_sections_share_what_is_left_and_each_looks_after_its_own():
    sections = [Section("gpu", 8), Section("cpu", 32), Section("far", 8, refilled=False)]
    far = [sign(job=f"3_{i}", site="elsewhere", worker_id=f"f{i}") for i in range(5)]
    recorded = [
        submitted("3_0", "3_1", "3_2", "3_3", "3_4", section="far", site="elsewhere"),
        # The same id on another cluster is another job.
        submitted("3_0", section="gpu"),
    ]
    queue = [queued("3_0", "RUNNING")]
    found = {s.name: s for s in decide(queue, far, recorded, sections, left=100).sections}
    assert {name: (s.needed, s.there) for name, s in found.items()} == {
        "gpu": (8, 1),
        "cpu": (32, 0),
        "far": (5, 5),
    }
    assert found["far"].submit == ()
    found = {s.name: s for s in decide(queue, far, recorded, sections, left=16).sections}
    assert {name: s.needed for name, s in found.items()} == {"gpu": 6, "cpu": 5, "far": 5}


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 60), st.booleans()), max_size=5),
    st.integers(0, 200),
)
def test_a_share_is_never_more_than_is_wanted_or_left(drawn, left):
    sections = [Section(str(i), want, refilled=on) for i, (want, _, on) in enumerate(drawn)]
    there: dict[str | None, int] = {str(i): have for i, (_, have, _) in enumerate(drawn)}
    needed = share(sections, there, left)
    assert sum(needed.values()) <= left
    for section in sections:
        assert 0 <= needed[section.name] <= section.workers
        if not section.refilled:
            assert needed[section.name] <= there[section.name]
    hungry = [s for s in sections if s.refilled and needed[s.name] < s.workers]
    assert not hungry or sum(needed.values()) == left


@dataclass
class Cluster:
    """A cluster, and what the study's storage says of it, on a clock of its own."""

    now: float = 0.0
    jobs: dict[str, QueuedJob] = field(default_factory=dict)
    submissions: list[tuple[float, Submission]] = field(default_factory=list)
    heard_at: dict[str, float] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    late: list[tuple[Submission, int]] = field(default_factory=list)

    def workers_there(self, section: str) -> int:
        """What really runs or waits: a job whose processes are gone is none."""
        return sum(
            submission.workers_per_job
            for _, submission in self.submissions
            for job in self.jobs.values()
            if submission.section == section
            and job.comment == f"{STUDY}:{submission.submission_id}"
            and job.active
            and job.job_id not in self.silent
        )

    def beat(self) -> None:
        for job in self.jobs.values():
            if job.state == "RUNNING" and job.job_id not in self.silent | self.ended:
                self.heard_at[job.job_id] = self.now

    def refill(self, sections: list[Section], left: int, fates: list[str]) -> Plan:
        signs = [
            WorkerSign(f"w-{job}", SITE, job, 0, self.now - at, job in self.ended)
            for job, at in self.heard_at.items()
        ]
        aged = [replace(s, age_s=self.now - at) for at, s in self.submissions]
        found = decide(list(self.jobs.values()), signs, aged, sections, left)
        for worker, _ in found.reap:
            self.ended.add(worker.removeprefix("w-"))
        for job in [*found.cancel, *(job for s in found.sections for job in s.cancel)]:
            self.jobs[job] = replace(self.jobs[job], state="CANCELLED")
        for i, (at, submission) in enumerate(self.submissions):
            if submission.submission_id in found.settled:
                jobs = found.settled[submission.submission_id]
                self.submissions[i] = (at, replace(submission, job_ids=jobs))
        for section in found.sections:
            for n_jobs, workers in section.submit:
                self.submit(section.name, n_jobs, workers, fates.pop() if fates else "accepted")
        return found

    def submit(self, section: str, n_jobs: int, workers: int, fate: str) -> None:
        name = f"s{len(self.submissions)}"
        submission = Submission(name, section, SITE, n_jobs, workers, 0.0, None)
        accepted = {"killed before": 0, "refused": 0, "half": n_jobs // 2, "late": 0}
        n = accepted.get(fate, n_jobs)
        if fate == "late":
            self.late.append((submission, n_jobs))
        jobs = self.accept(submission, n)
        if fate in ("accepted", "refused"):
            submission = replace(submission, job_ids=jobs)
        self.submissions.append((self.now, submission))

    def accept(self, submission: Submission, n: int) -> tuple[str, ...]:
        comment = f"{STUDY}:{submission.submission_id}"
        jobs = tuple(f"{len(self.jobs) + i}" for i in range(n))
        self.jobs |= {job: queued(job, "PENDING", comment=comment) for job in jobs}
        return jobs

    def happen(self, what: str, which: int) -> None:
        """A job starts, ends, is forgotten or falls silent; a late submission comes in."""
        if what == "late comes" and self.late:
            self.accept(*self.late.pop())
        if not self.jobs:
            return
        job = self.jobs[[*self.jobs][which % len(self.jobs)]]
        if what == "starts" and job.state == "PENDING":
            self.jobs[job.job_id] = replace(job, state="RUNNING")
        elif what == "ends" and job.state == "RUNNING":
            self.jobs[job.job_id] = replace(job, state="COMPLETED")
            self.ended.add(job.job_id)
        elif what == "silent" and job.state == "RUNNING":
            self.jobs[job.job_id] = replace(job, state="SUSPENDED")
            self.heard_at.setdefault(job.job_id, self.now)
            self.silent.add(job.job_id)


FATES = ("accepted", "refused", "killed before", "killed after", "half", "late")
HAPPENINGS = ("starts", "starts", "ends", "silent", "late comes", "time", "refill", "refill")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(HAPPENINGS), st.integers(0, 40)), max_size=40),
    st.lists(st.sampled_from(FATES), max_size=20),
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4)), min_size=1, max_size=3),
    st.integers(0, 30),
)
def test_there_are_never_more_workers_than_wanted_and_in_the_end_as_many(
    happenings, fates, shapes, left
):
    """Whatever becomes of submissions and jobs, within a minute; after that jobs are cancelled."""
    sections = [Section(f"s{i}", n, per_job) for i, (n, per_job) in enumerate(shapes)]
    cluster = Cluster()
    for what, number in happenings:
        if what == "refill":
            cluster.refill(sections, left, fates)
        elif what == "time":
            # What sbatch still works on comes in while it is in doubt.
            while cluster.late:
                cluster.happen("late comes", 0)
            cluster.now += float(number)
        else:
            cluster.happen(what, number)
        cluster.beat()
        there = {section.name: cluster.workers_there(section.name) for section in sections}
        assert all(there[section.name] <= section.workers for section in sections)
        assert sum(there.values()) <= left
    for _ in range(3):
        while cluster.late:
            cluster.happen("late comes", 0)
        cluster.now += IN_DOUBT_S + 2.0 * LEASE_S + 1.0
        cluster.beat()
        cluster.refill(sections, left, [])
    there = {section.name: cluster.workers_there(section.name) for section in sections}
    assert sum(there.values()) == min(left, sum(section.workers for section in sections))
    again = cluster.refill(sections, left, [])
    assert not any(section.submit or section.cancel for section in again.sections)


@given(st.integers(1, 5))
def test_what_comes_after_its_time_is_cancelled_while_it_waits(n):
    cluster, sections = Cluster(), [Section("a", n)]
    cluster.refill(sections, 99, ["late"])
    cluster.now += IN_DOUBT_S + 1.0
    cluster.refill(sections, 99, [])
    cluster.happen("late comes", 0)
    assert cluster.workers_there("a") == 2 * n
    cluster.refill(sections, 99, [])
    assert cluster.workers_there("a") == n
