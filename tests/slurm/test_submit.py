"""Copies of a callable on a real cluster: submission, signals, requeues, lost nodes."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from functools import partial

import pytest

from slurm.cluster import ClusterSpec
from slurm.errors import SubmitError, UnreachableError
from slurm.queue import list_jobs
from slurm.submit import cancel, submit
from tests.support.slurm.jobs import SMALL, requeue_once, write_job, write_signals

GOLDEN = """\
#!/bin/bash

# Parameters
#SBATCH --account=def-xyz
#SBATCH --array=0-2%2
#SBATCH --comment='study 7f3a'
#SBATCH --constraint='amd|intel'
#SBATCH --cpus-per-task=6
#SBATCH --exclude=n4
#SBATCH --exclusive
#SBATCH --gres=lustre:1,gpu:a100:1
#SBATCH --hold
#SBATCH --job-name=hpo-small
#SBATCH --mail-type=NONE
#SBATCH --mem=1536M
#SBATCH --nice=5
#SBATCH --no-requeue
#SBATCH --nodelist=n1
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output={folder}/%A_%a_0_log.out
#SBATCH --partition=work,urgent
#SBATCH --qos=normal
#SBATCH --reservation=maint
#SBATCH --signal=USR2@90
#SBATCH --time=03:00:00

# setup
trap 'code=$?; if [ ${{#BASH_SOURCE[@]}} -eq 1 ]; then line=$(sed -n "${{LINENO}}p" "$0"); \
exit $code; fi' ERR
trap 'code=$?; echo "error: setup ended the job with exit code $code${{line:+: $line}}" >&2; \
exit $code' EXIT
module load python/3.11
export A="b c"
trap - ERR EXIT

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output {folder}/%A_%a_%t_log.out --cpus-per-task=6 --cpu-bind=none \
conda run -n env python -u -m submitit.core._submit {folder}
"""


def test_the_script_that_is_sent(tmp_path, monkeypatch):
    """Pins every line, with an sbatch that accepts what this machine's SLURM would not know."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sbatch", "srun"):
        program = programs / name
        program.write_text("#!/bin/sh\nenv > $(dirname $0)/env\necho Submitted batch job 7\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    for variable in ("SBATCH_PARTITION", "SBATCH_MEM_PER_CPU", "SBATCH_WAIT", "SBATCH_REQUEUE"):
        monkeypatch.setenv(variable, "1")
    monkeypatch.setenv("SBATCH_CLUSTERS", "c1")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "9")
    spec = ClusterSpec(
        name="full",
        partition="work,urgent",
        time_limit="3:00:00",
        memory_gb=1.5,
        workers_per_job=2,
        cpus_per_worker=3,
        gpus_per_worker=0.5,
        gpu_type="a100",
        exclusive=True,
        python="conda run -n env python",
        account="def-xyz",
        qos="normal",
        constraint="amd|intel",
        reservation="maint",
        nodelist="n1",
        exclude="n4",
        gres="lustre:1",
        nice=5,
        setup=("module load python/3.11", 'export A="b c"'),
        max_array=100,
        throttle=2,
        leave_before_s=90,
        requeue=False,
        srun=("--cpu-bind=none",),
        extra={"mail-type": "NONE", "hold": True},
    )
    folder = tmp_path / "jobs"
    ids = submit(spec, time.time, 3, name="hpo-small", comment="study 7f3a", folder=folder)
    assert ids == ["7_0", "7_1", "7_2"]
    script = (folder / "7_submission.sh").read_text()
    assert script == GOLDEN.format(folder=folder)
    sent = (programs / "env").read_text().splitlines()
    assert "SBATCH_CLUSTERS=c1" in sent
    hidden = ("SBATCH_P", "SBATCH_M", "SBATCH_W", "SBATCH_R", "SLURM_J", "SLURM_CP")
    assert not [line for line in sent if line.startswith(hidden)]
    assert os.environ["SLURM_CPUS_PER_TASK"] == "9"


@pytest.mark.slow
def test_copies_run_in_arrays_no_larger_than_allowed(slurm_cluster, tmp_path):
    jobs = tmp_path / "jobs"
    spec = ClusterSpec(name="small", memory_gb=0.1, max_array=2, time_limit="3:00:00")
    run = partial(write_job, tmp_path)
    ids = submit(spec, run, 3, name="three", comment="my id|1", folder=jobs)
    array = int(ids[0].partition("_")[0])
    assert ids == [f"{array}_0", f"{array}_1", ids[2]]
    assert ids[2].isdigit()
    slurm_cluster.wait_until(lambda: len(list(tmp_path.glob("*.json"))) == 3, "all ran")
    told = [json.loads((tmp_path / f"{job}.json").read_text()) for job in ids]
    assert [job["job_id"] for job in told] == ids
    assert all(7200 < job["end_unix_s"] - time.time() <= 10800 for job in told)
    assert all(job["node"] in slurm_cluster.nodes for job in told)
    assert {(job["partition"], job["restarts"]) for job in told} == {("work", 0)}
    listed = {job.job_id: job for job in list_jobs("my id|1")}
    assert set(listed) == set(ids)
    assert {job["raw_id"] for job in told} == {job.raw_id for job in listed.values()}
    assert {(job.name, job.partition) for job in listed.values()} == {("three", "work")}
    slurm_cluster.wait_until(
        lambda: [job.state for job in list_jobs("my id|1")] == ["COMPLETED"] * 3, "all are over"
    )
    assert not any(job.active for job in list_jobs("my id|1"))
    assert list_jobs("my id") == []


def test_the_sites_own_limit_of_an_array_is_kept(slurm_cluster, tmp_path):
    held = ClusterSpec(name="small", memory_gb=0.1, extra={"hold": True})
    run = partial(write_job, tmp_path)
    ids = submit(held, run, 103, name="many", comment="many", folder=tmp_path / "jobs")
    assert len(ids) == len(set(ids)) == 103
    assert len({job_id.partition("_")[0] for job_id in ids}) == 2
    assert {job.job_id for job in list_jobs("many")} == set(ids)
    assert {(job.state, job.active, job.node) for job in list_jobs("many")} == {
        ("PENDING", True, None)
    }
    cancel(ids, pending_only=True)
    assert not any(job.active for job in list_jobs("many"))


def test_what_is_submitted_is_for_nobody_elses_eyes(slurm_cluster, tmp_path):
    jobs = tmp_path / "jobs"
    held = ClusterSpec(name="small", memory_gb=0.1, extra={"hold": True})
    ids = submit(held, partial(print, "secret"), 2, name="s", comment="s", folder=jobs)
    assert stat.S_IMODE(jobs.stat().st_mode) == 0o700
    pickles = list(jobs.glob("*.pkl"))
    assert len(pickles) == 2
    assert all(b"secret" in pickle.read_bytes() for pickle in pickles)
    files = [file for file in jobs.iterdir() if not file.is_symlink()]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    cancel(ids)
    with pytest.raises(ValueError, match="must be empty"):
        submit(SMALL, time.time, 1, name="s", comment="s", folder=jobs)


def test_a_refused_submission_says_why_in_one_line(slurm_cluster, tmp_path, capfd):
    spec = ClusterSpec(name="mine", partition="wrok", memory_gb=0.1, max_array=9)
    with pytest.raises(SubmitError) as caught:
        submit(spec, time.time, 2, name="s", comment="s", folder=tmp_path / "jobs")
    assert str(caught.value) == (
        "cluster mine: sbatch refused 2 jobs: invalid partition specified: wrok;"
        " Batch job submission failed: Invalid partition name specified"
    )
    assert caught.value.job_ids == ()
    assert list((tmp_path / "jobs").glob("*.pkl")) == []
    assert capfd.readouterr() == ("", "")


def test_jobs_submitted_before_a_refusal_are_not_forgotten(slurm_cluster, tmp_path):
    # An account's limit of jobs, which this sbatch stands in for, cuts in after the first array.
    calls = tmp_path / "calls"
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "sbatch"
    program.write_text(
        f"#!/bin/sh\necho x >> {calls}\n[ $(wc -l < {calls}) -gt 1 ] && "
        'echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2 && exit 1\n'
        "echo Submitted batch job 12\n"
    )
    program.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(programs), prepend=os.pathsep)
        with pytest.raises(
            SubmitError, match=r"QOSMax.* \(50 jobs were submitted before"
        ) as caught:
            submit(SMALL, time.time, 120, name="s", comment="s", folder=tmp_path / "jobs")
    assert caught.value.job_ids == tuple(f"12_{i}" for i in range(50))


def test_without_slurm_the_way_out_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for ask in (list_jobs, lambda: submit(SMALL, time.time, 2, name="s", comment="s",
                                          folder=tmp_path / "jobs")):  # fmt: skip
        with pytest.raises(UnreachableError, match=r"no program \w+ on PATH; use a login node"):
            ask()
    assert not (tmp_path / "jobs").exists()


@pytest.mark.parametrize(("n", "name", "comment"), [(0, "a", "b"), (1, "a\nb", "c"), (1, "a", "")])
def test_a_submission_of_nonsense_is_refused(tmp_path, n, name, comment):
    with pytest.raises(ValueError, match="must be"):
        submit(SMALL, time.time, n, name=name, comment=comment, folder=tmp_path / "jobs")


@pytest.mark.slow
def test_the_callables_own_handlers_get_the_signals(slurm_cluster, tmp_path):
    run = partial(write_signals, tmp_path)
    ids = submit(SMALL, run, 2, name="sig", comment="sig", folder=tmp_path / "jobs")
    slurm_cluster.wait_until(lambda: len(list(tmp_path.glob("*.ready"))) == 2, "both run")
    cancel(ids, pending_only=True)
    cancel(ids[:1], signal="USR2")
    cancel(ids[1:])
    slurm_cluster.wait_until(lambda: len(list(tmp_path.glob("*.signal"))) == 2, "both were told")
    assert (tmp_path / f"{ids[0]}.signal").read_text() == "SIGUSR2\n"
    assert (tmp_path / f"{ids[1]}.signal").read_text() == "SIGTERM\n"
    slurm_cluster.wait_until(
        lambda: (
            {job.job_id: job.state for job in list_jobs("sig")}
            == {ids[0]: "COMPLETED", ids[1]: "CANCELLED"}
        ),
        "both are over",
    )
    cancel([*ids, "99999"])  # all gone, which is what was wanted
    cancel([])


@pytest.mark.slow
def test_a_copy_can_put_itself_back_into_the_queue(slurm_cluster, tmp_path):
    """The last job of an array bears the array's own id, and still goes back alone."""
    run = partial(requeue_once, tmp_path)
    ids = submit(SMALL, run, 2, name="back", comment="back", folder=tmp_path / "jobs")

    def restarts(job_id):
        file = tmp_path / f"{job_id}.restarts"
        return file.read_text().split() if file.exists() else []

    slurm_cluster.wait_until(lambda: restarts(ids[1]) == ["0"], "it has run once")
    slurm_cluster.wait_until(
        lambda: {job.job_id: job for job in list_jobs("back")}[ids[1]].state == "PENDING",
        "it waits again",
    )
    waiting = {job.job_id: job for job in list_jobs("back")}[ids[1]]
    assert (waiting.active, waiting.restarts, waiting.node) == (True, 1, None)
    assert waiting.reason == "BeginTime"
    slurm_cluster.wait_until(lambda: restarts(ids[1]) == ["0", "1"], "it has run twice")
    assert restarts(ids[0]) == ["0"]
    log = (tmp_path / "jobs" / f"{ids[1]}_0_log.out").read_text()
    assert log.count("Starting with") == 2


@pytest.mark.slow
def test_the_jobs_of_a_lost_node_are_listed_as_requeued(slurm_cluster, tmp_path):
    spec = ClusterSpec(name="small", memory_gb=0.1, nodelist="n3")
    run = partial(write_signals, tmp_path)
    [job_id] = submit(spec, run, 1, name="lost", comment="lost", folder=tmp_path / "jobs")
    slurm_cluster.wait_until(lambda: (tmp_path / f"{job_id}.ready").exists(), "it runs")
    assert (tmp_path / f"{job_id}.ready").read_text() == "n3\n"
    slurm_cluster.set_node("n3", "DOWN")
    slurm_cluster.wait_until(lambda: list_jobs("lost")[0].state == "PENDING", "it waits again")
    [job] = list_jobs("lost")
    assert (job.job_id, job.active, job.restarts) == (job_id, True, 1)
    slurm_cluster.wait_idle()
    assert list_jobs("lost")[0].state == "CANCELLED"


@pytest.mark.slow
def test_urgent_jobs_preempt_which_requeues(slurm_cluster, tmp_path):
    run = partial(write_signals, tmp_path)
    spec = ClusterSpec(name="small", memory_gb=0.1, nodelist="n4", cpus_per_worker=8)
    [job_id] = submit(spec, run, 1, name="low", comment="low", folder=tmp_path / "jobs")
    slurm_cluster.wait_until(lambda: (tmp_path / f"{job_id}.ready").exists(), "it runs")
    urgent = slurm_cluster.sbatch("-p", "urgent", "-w", "n4", "-o", "/dev/null", "--wrap", "true")
    slurm_cluster.wait_until(lambda: (tmp_path / f"{job_id}.signal").exists(), "it was told")
    assert (tmp_path / f"{job_id}.signal").read_text() == "SIGTERM\n"
    slurm_cluster.wait_until(
        lambda: slurm_cluster.job_states().get(urgent) == "COMPLETED", "the urgent one ran"
    )
    [job] = list_jobs("low")
    assert (job.active, job.restarts) == (True, 1)
    slurm_cluster.wait_idle()


@pytest.mark.slow
def test_a_node_can_be_lost_while_its_job_goes_on(slurm_cluster):
    job = slurm_cluster.sbatch("-w", "n2", "-o", "/dev/null", "--no-requeue", "--wrap", "sleep 99")
    slurm_cluster.wait_until(lambda: slurm_cluster.find_tasks(job) != [], "it runs")
    slurm_cluster.kill_slurmd("n2")
    [step] = slurm_cluster.find_steps(job)
    tasks = slurm_cluster.find_tasks(job)
    os.kill(step, signal.SIGKILL)
    slurm_cluster.wait_until(lambda: slurm_cluster.find_steps(job) == [], "the step is gone")
    assert set(slurm_cluster.find_tasks(job)) & set(tasks)
    for pid in slurm_cluster.find_tasks(job):
        os.kill(pid, signal.SIGKILL)
    slurm_cluster.start_slurmd("n2")
    slurm_cluster.wait_idle()
