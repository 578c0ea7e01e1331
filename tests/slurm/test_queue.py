"""What a real cluster says of its queue, its site and a job within it; what may fail."""

from __future__ import annotations

import os
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo.cli import main
from slurm.calls import call
from slurm.errors import SlurmError, UnreachableError
from slurm.queue import list_jobs, node_hosts, versions_and_limits
from slurm.submit import current_job, requeue_self, submit
from tests.support.slurm.jobs import SMALL


@pytest.mark.slow
def test_a_controller_that_is_gone_is_not_an_empty_queue(slurm_cluster, tmp_path):
    slurm_cluster.wait_idle()
    slurm_cluster.kill_slurmctld()
    try:
        with pytest.raises(
            UnreachableError, match=r"SLURM cannot be asked: squeue: .*Unable to con"
        ):
            list_jobs()
        with pytest.raises(
            UnreachableError, match=r"SLURM cannot be asked: sbatch: .*Unable to con"
        ):
            submit(SMALL, time.time, 1, name="s", comment="s", folder=tmp_path / "jobs")
    finally:
        slurm_cluster.start_slurmctld()
    list_jobs()


def test_what_a_site_is_like(slurm_cluster):
    site = versions_and_limits()
    assert (site.cluster, site.max_array, site.accounting) == ("hpotest", 101, False)
    assert (site.kill_wait_s, site.preempt_mode) == (2, "REQUEUE")
    assert site.version[0].isdigit()
    assert node_hosts("urgent") == node_hosts() == {os.uname().nodename.split(".")[0]}
    assert node_hosts("nowhere,urgent") == node_hosts()
    assert node_hosts("nowhere") == set()


TITLES = ["JOBID", "JOBID", "STATE", "", "", "", "NAME", "PARTITION", "TIME_LEFT", "COMMENT"]
SHOWN = """\
JobId=7 ArrayJobId=7 ArrayTaskId={task} JobName=x
   UserId=me({user}) GroupId=me(1) MCS_label=N/A
   JobState={state} Reason=None Dependency=(null)
   Comment={comment}{space}
   Power=

"""


def squeue_says(n: int, comment: str = "study") -> str:
    rows = [TITLES]
    rows += [[f"7_{i}", "7", "RUNNING", "None", "n1", "0", "x", "p", "1:00", comment] for i in
             range(n)]  # fmt: skip
    return "".join("\x1f".join(row) + "\x1e\n" for row in rows)


@settings(deadline=None)
@given(st.integers(0, 5), st.data())
def test_no_part_of_an_answer_is_taken_for_the_whole(n, data):
    whole = squeue_says(n)
    part = whole[: data.draw(st.integers(0, len(whole.rstrip())))]
    shown = "".join(
        SHOWN.format(task=i, user=os.getuid(), state="RUNNING", comment="study", space=" ")
        for i in range(n)
    )
    answers = {"squeue": part, "scontrol": shown}
    expected = {f"7_{i}": "study" for i in range(n)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slurm.queue.call", lambda *command, **_: answers[command[0]])
        if part == whole.rstrip("\n"):
            assert {job.job_id for job in list_jobs(expected=expected)} == set(expected)
        else:
            with pytest.raises(UnreachableError, match=r"squeue: .*; try again later"):
                list_jobs(expected=expected)


@pytest.mark.parametrize(
    ("shown", "gone"),
    [
        ({"comment": "study"}, False),
        ({"comment": "study", "state": "PENDING", "task": "0-2,9%4"}, False),
        ({"comment": "study", "state": "PENDING", "task": "1-9:4"}, True),
        ({"comment": "study", "state": "COMPLETED"}, True),
        # The id was used again, by a job of one's own or of somebody else.
        ({"comment": "another"}, True),
        ({"comment": "study", "user": os.getuid() + 1}, True),
    ],
)
def test_a_job_that_is_not_listed_is_gone_only_if_scontrol_does_not_show_it(
    monkeypatch, shown, gone
):
    values = {"task": 2, "user": os.getuid(), "state": "RUNNING", "space": ""} | shown
    answers = {"squeue": squeue_says(0), "scontrol": SHOWN.format(**values)}
    monkeypatch.setattr("slurm.queue.call", lambda *command, **_: answers[command[0]])
    if gone:
        assert list_jobs(expected={"7_2": "study"}) == []
    else:
        with pytest.raises(UnreachableError, match="scontrol shows job 7_2 as"):
            list_jobs(expected={"7_2": "study"})
    # Of a worker by hand the comment is not known.
    if shown == {"comment": "another"}:
        with pytest.raises(UnreachableError, match="scontrol shows job 7_2 as RUNNING"):
            list_jobs(expected={"7_2": None})


def test_a_real_job_that_is_not_expected_any_more_is_no_trouble(slurm_cluster):
    job = slurm_cluster.sbatch(
        "--hold", "--array=0-3", "--comment=here", "-o", "/dev/null", "--wrap", "true"
    )
    expected = {"99999": "here", "99998_3": None, **{f"{job}_{i}": "here" for i in range(4)}}
    assert {found.job_id for found in list_jobs("here", expected)} == {
        f"{job}_{i}" for i in range(4)
    }
    slurm_cluster.scancel(job)


def test_settings_of_the_users_own_do_not_hide_jobs(slurm_cluster, monkeypatch):
    job = slurm_cluster.sbatch("--hold", "--comment=hidden", "-o", "/dev/null", "--wrap", "true")
    monkeypatch.setenv("SQUEUE_PARTITION", "urgent")
    monkeypatch.setenv("SQUEUE_FORMAT", "%i")
    assert [found.job_id for found in list_jobs("hidden")] == [job]
    slurm_cluster.scancel(job)


def test_outside_a_job_there_is_none(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    assert current_job() is None
    with pytest.raises(SlurmError, match="not inside a SLURM job"):
        requeue_self()


@pytest.mark.slow
def test_a_job_without_a_time_limit_has_no_end_and_is_not_asked_again(slurm_cluster, monkeypatch):
    arguments = ("--time=infinite", "--mem=100M", "-o", "/dev/null", "--wrap", "sleep 60")
    job = slurm_cluster.sbatch(*arguments)
    slurm_cluster.wait_until(lambda: slurm_cluster.job_states()[job] == "RUNNING", "it runs")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", job)
    asked = []

    def count(*command, **options):
        asked.append(command)
        return call(*command, **options)

    monkeypatch.setattr("slurm.submit.call", count)
    found = current_job()
    slurm_cluster.scancel(job)
    assert found is not None
    assert (found.job_id, found.end_unix_s) == (job, None)
    assert len(asked) == 1


def test_the_environment_of_a_job_is_read(monkeypatch):
    for key, value in {
        "SLURM_JOB_ID": "15", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_RESTART_COUNT": "2", "SLURMD_NODENAME": "c7", "SLURM_JOB_PARTITION": "long",
        "SLURM_JOB_END_TIME": "1800000000",
    }.items():  # fmt: skip
        monkeypatch.setenv(key, value)
    job = current_job()
    assert job is not None
    assert (job.job_id, job.raw_id, job.restarts) == ("12_3", "15", 2)
    assert (job.node, job.partition, job.end_unix_s) == ("c7", "long", 1.8e9)


def test_the_command_line_treats_it_as_the_users_mistake(monkeypatch, capsys):
    def refuse(options):
        raise UnreachableError("SLURM cannot be asked: because")

    monkeypatch.setattr("hpo.commands.studies.check.run", refuse)
    assert main(["check", "x.toml"]) == 2
    assert capsys.readouterr().err == "error: SLURM cannot be asked: because\n"
