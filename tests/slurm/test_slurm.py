"""Copies of a callable on a real cluster: clusters.toml, submission, the queue, what may fail."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from hpo.cli import main
from slurm.calls import call
from slurm.cluster import ClusterSpec, find_cluster, parse_time, render_time
from slurm.errors import ClusterError, SlurmError, SubmitError, UnreachableError
from slurm.queue import list_jobs, node_hosts, versions_and_limits
from slurm.submit import cancel, current_job, requeue_self, submit
from tests.support import slurm_jobs
from tests.support.studies import ROOT

SMALL = ClusterSpec(name="small", memory_gb=0.1, max_array=50)

VALID = """
[narval]
partition = ["short", "long"]
time_limit = "1-12:00:00"
memory_gb = 8
setup = ["module load python/3.11"]
extra = { mail-type = "FAIL" }

[local]
partition = "work"
"""


@pytest.fixture(autouse=True)
def no_settings(monkeypatch, tmp_path):
    """No cluster file and no variable of whoever runs the tests; jobs import from the checkout."""
    for variable in [key for key in os.environ if key.startswith(("HPO_SLURM_", "SBATCH_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.delenv("HPO_CLUSTERS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def clusters(tmp_path: Path, monkeypatch) -> Path:
    """A valid cluster file, found because HPO_CLUSTERS names it."""
    path = tmp_path / "mine.toml"
    path.write_text(VALID)
    monkeypatch.setenv("HPO_CLUSTERS", str(path))
    return path


# The cluster file


def test_a_cluster_file_is_read(clusters):
    narval = find_cluster("narval")
    assert narval.partition == "short,long"
    assert narval.time_limit_s == 36 * 3600
    assert (narval.memory_gb, narval.cpus, narval.requeue) == (8.0, 1, True)
    assert (narval.leave_before_s, narval.stagger_s) == (120, 120)
    assert narval.extra == {"mail-type": "FAIL"}
    assert find_cluster("local") == find_cluster("local", clusters)


def test_the_file_is_looked_for_in_four_places(clusters, tmp_path, monkeypatch):
    here, home = tmp_path / "here", tmp_path / "home" / ".config" / "hpo"
    for folder in (here, home):
        folder.mkdir(parents=True)
        (folder / "clusters.toml").write_text(f'[{folder.name}]\npartition = "p"\n')
    explicit = tmp_path / "explicit.toml"
    explicit.write_text("[explicit]\n")
    monkeypatch.chdir(here)
    assert find_cluster(path=explicit).name == "explicit"
    assert find_cluster("local").name == "local"
    monkeypatch.delenv("HPO_CLUSTERS")
    assert find_cluster().name == "here"
    (here / "clusters.toml").unlink()
    assert find_cluster().name == "hpo"
    (home / "clusters.toml").unlink()
    assert find_cluster() == ClusterSpec(name="default")


def test_overrides_stand_above_variables_above_the_file(clusters, monkeypatch):
    monkeypatch.setenv("HPO_SLURM_PARTITION", "urgent")
    monkeypatch.setenv("HPO_SLURM_MEMORY_GB", "2.5")
    monkeypatch.setenv("HPO_SLURM_ACCOUNT", "12345")
    monkeypatch.setenv("HPO_SLURM_SETUP", "module load gcc")
    monkeypatch.setenv("HPO_SLURM_QOS", "")
    spec = find_cluster(
        "narval", overrides=["memory_gb=3", "requeue=false", "extra.mail-user=a@b.c"]
    )
    assert (spec.partition, spec.memory_gb, spec.account) == ("urgent", 3.0, "12345")
    assert (spec.setup, spec.requeue, spec.qos) == (("module load gcc",), False, None)
    assert spec.extra == {"mail-type": "FAIL", "mail-user": "a@b.c"}
    assert spec.time_limit == "1-12:00:00"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('partiton = "x"', r"\[bad\] partiton: unknown key; did you mean 'partition'\?"),
        ('name = "x"', r"\[bad\] name: unknown key"),
        ("partition = 3", r"partition: input should be a valid string, got 3"),
        ('time_limit = "3:00"', "time_limit: must be D-HH:MM:SS, HH:MM:SS or minutes, got '3:00'"),
        ('time_limit = "0"', "time_limit: must be longer than nothing, got '0'"),
        ("memory_gb = 0", "memory_gb: input should be greater than 0, got 0"),
        ('memory_gb = "4"', "memory_gb: input should be a valid number, got '4'"),
        ("cpus = 0", "cpus: .* greater than or equal to 1, got 0"),
        ("cpus = true", "cpus: .* valid integer, got True"),
        ("max_array = 0", "max_array: .* greater than or equal to 1, got 0"),
        ("throttle = -1", "throttle: .* greater than or equal to 0, got -1"),
        ('requeue = "yes"', "requeue: .* valid boolean, got 'yes'"),
        ('qos = "a\\nb"', r"qos: must be one line of text, got 'a\\nb'"),
        ('setup = ["a\\nb"]', r"setup.0: must be one line of text"),
        ("extra = { mem = 3 }", "extra: 'mem' has a key of its own: memory_gb"),
        ("extra = { no-requeue = true }", "extra: 'no-requeue' has a key of its own: requeue"),
        ('extra = { comment = "x" }', "extra: 'comment' is set by every submission itself"),
        ("extra = { exclusive = false }", "extra: 'exclusive' must be true or a value"),
        ('extra = { "--hold" = true }', "extra: '--hold' must be a long option of sbatch"),
        (
            'time_limit = "10:00:00"\nleave_before_s = 7000\nstagger_s = 200',
            r"leave_before_s \+ stagger_s must be less than 20% of time_limit"
            r" \(7200 s of 36000 s\), got 7000 \+ 200",
        ),
        ('x = "1"\n[b', "not valid TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, line, message):
    path = tmp_path / "bad.toml"
    path.write_text(f"[bad]\n{line}\n")
    with pytest.raises(ClusterError, match=message) as caught:
        find_cluster("bad", path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("narvla", [], r"mine.toml: no cluster 'narvla'; did you mean 'narval'\? \(valid: default"),
        ("narval", ["cpu=2"], r"\[narval\] cpu: unknown key; did you mean 'cpus'"),
        ("narval", ["cpus"], "cpus: must be key=value, as in partition=long"),
        ("narval", ["cpus.x=1"], "cpus.x=1: 'cpus' is a value, not a section"),
        ("narval", ["cpus=many"], r"\[narval\] cpus: .*valid integer, got 'many'"),
    ],
)
def test_a_wrong_name_or_override_is_named(clusters, name, overrides, message):
    with pytest.raises(ClusterError, match=message):
        find_cluster(name, overrides=overrides)


def test_a_wrong_variable_or_file_is_named(clusters, monkeypatch, tmp_path):
    monkeypatch.setenv("HPO_SLURM_PARTITON", "x")
    with pytest.raises(ClusterError, match="did you mean 'HPO_SLURM_PARTITION'"):
        find_cluster("narval")
    monkeypatch.setenv("HPO_CLUSTERS", str(tmp_path / "none.toml"))
    with pytest.raises(ClusterError, match=r"none.toml: cannot be read: No such file"):
        find_cluster("narval")
    flat = tmp_path / "flat.toml"
    flat.write_text('partition = "x"\n')
    with pytest.raises(ClusterError, match=r"partition: must stand in a section, as in"):
        find_cluster(None, flat)


def test_all_that_is_wrong_is_said_at_once(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text('[bad]\npartiton = "x"\ncpus = 0\nmemory_gb = -1\n')
    with pytest.raises(ClusterError) as caught:
        find_cluster("bad", path)
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "seconds", "rendered"),
    [
        ("90", 5400, "01:30:00"),
        ("3:00:00", 10800, "03:00:00"),
        ("0:20:30", 1230, "00:20:30"),
        ("48:00:00", 172800, "2-00:00:00"),
        ("2-3", 183600, "2-03:00:00"),
        ("1-02:03", 93780, "1-02:03:00"),
        ("7-00:00:00", 604800, "7-00:00:00"),
    ],
)
def test_times_are_read_and_written_as_slurm_does(text, seconds, rendered):
    assert parse_time(text) == seconds
    assert render_time(seconds) == rendered
    assert ClusterSpec(name="x", time_limit=text).time_limit == rendered


@pytest.mark.parametrize("minutes", [1, 5, 20, 24, 25, 60, 10000])
def test_unless_it_is_said_workers_leave_within_a_fifth_of_any_limit(minutes):
    spec = ClusterSpec(name="x", time_limit=str(minutes))
    assert spec.time_limit_s is not None
    assert 0 < spec.leave_before_s + spec.stagger_s < 0.2 * spec.time_limit_s


# Submission

GOLDEN = """\
#!/bin/bash

# Parameters
#SBATCH --account=def-xyz
#SBATCH --array=0-2%2
#SBATCH --comment='study 7f3a'
#SBATCH --constraint='amd|intel'
#SBATCH --cpus-per-task=2
#SBATCH --exclude=n4
#SBATCH --gres=none
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
module load python/3.11
export A="b c"

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output {folder}/%A_%a_%t_log.out --cpus-per-task=2 --cpu-bind=none \
{python} -u -m submitit.core._submit {folder}
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
        cpus=2,
        account="def-xyz",
        qos="normal",
        constraint="amd|intel",
        reservation="maint",
        nodelist="n1",
        exclude="n4",
        gres="none",
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
    assert script == GOLDEN.format(folder=folder, python=sys.executable)
    sent = (programs / "env").read_text().splitlines()
    assert "SBATCH_CLUSTERS=c1" in sent
    hidden = ("SBATCH_P", "SBATCH_M", "SBATCH_W", "SBATCH_R", "SLURM_J", "SLURM_CP")
    assert not [line for line in sent if line.startswith(hidden)]
    assert os.environ["SLURM_CPUS_PER_TASK"] == "9"


def test_copies_run_in_arrays_no_larger_than_allowed(slurm_cluster, tmp_path):
    jobs = tmp_path / "jobs"
    spec = ClusterSpec(name="small", memory_gb=0.1, max_array=2, time_limit="3:00:00")
    run = partial(slurm_jobs.write_job, tmp_path)
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
    run = partial(slurm_jobs.write_job, tmp_path)
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


# Signals, requeues, nodes


def test_the_callables_own_handlers_get_the_signals(slurm_cluster, tmp_path):
    run = partial(slurm_jobs.write_signals, tmp_path)
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


def test_a_copy_can_put_itself_back_into_the_queue(slurm_cluster, tmp_path):
    """The last job of an array bears the array's own id, and still goes back alone."""
    run = partial(slurm_jobs.requeue_once, tmp_path)
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


def test_the_jobs_of_a_lost_node_are_listed_as_requeued(slurm_cluster, tmp_path):
    spec = ClusterSpec(name="small", memory_gb=0.1, nodelist="n3")
    run = partial(slurm_jobs.write_signals, tmp_path)
    [job_id] = submit(spec, run, 1, name="lost", comment="lost", folder=tmp_path / "jobs")
    slurm_cluster.wait_until(lambda: (tmp_path / f"{job_id}.ready").exists(), "it runs")
    assert (tmp_path / f"{job_id}.ready").read_text() == "n3\n"
    slurm_cluster.set_node("n3", "DOWN")
    slurm_cluster.wait_until(lambda: list_jobs("lost")[0].state == "PENDING", "it waits again")
    [job] = list_jobs("lost")
    assert (job.job_id, job.active, job.restarts) == (job_id, True, 1)
    slurm_cluster.wait_idle()
    assert list_jobs("lost")[0].state == "CANCELLED"


def test_urgent_jobs_preempt_which_requeues(slurm_cluster, tmp_path):
    run = partial(slurm_jobs.write_signals, tmp_path)
    spec = ClusterSpec(name="small", memory_gb=0.1, nodelist="n4", cpus=8)
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


# The queue


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


# Workers by hand


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A program hpo that writes its arguments and the first signal that it gets."""
    programs = tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    program = programs / "hpo"
    program.write_text(
        f"#!{sys.executable}\n"
        "import signal, sys, time\n"
        "caught = []\n"
        "signal.signal(signal.SIGUSR2, lambda number, frame: caught.append('USR2'))\n"
        "signal.signal(signal.SIGTERM, lambda number, frame: caught.append('TERM'))\n"
        "print(*sys.argv[1:], flush=True)\n"
        "while not caught:\n"
        "    time.sleep(0.02)\n"
        "print(caught[0], flush=True)\n"
    )
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("found_by", ["folder", "variable", "path"])
def test_a_worker_submitted_by_hand_gets_the_warning(
    slurm_cluster, tmp_path, monkeypatch, stand_in, found_by
):
    folder = tmp_path / "studies"
    folder.mkdir()
    if found_by == "folder":
        (folder / ".venv").symlink_to(stand_in.parents[1])
    elif found_by == "variable":
        monkeypatch.setitem(slurm_cluster.env, "HPO_VENV", "../venv")
    else:
        path = f"{stand_in.parent}{os.pathsep}{os.environ['PATH']}"
        monkeypatch.setitem(slurm_cluster.env, "PATH", path)
    out = tmp_path / "out.txt"
    monkeypatch.chdir(folder)
    script = str(ROOT / "slurm" / "worker.sbatch")
    job = slurm_cluster.sbatch("--mem=100M", "-o", str(out), script, "small", "--storage", "a b")
    slurm_cluster.wait_until(lambda: out.exists() and out.read_text() != "", "it began")
    assert out.read_text() == "worker small --storage a b\n"
    shown = slurm_cluster.run("scontrol", "show", "job", job)
    assert "JobName=hpo-worker" in shown
    assert "Requeue=1" in shown
    assert "TimeLimit=01:00:00" in shown
    slurm_cluster.scancel("--batch", "--signal=USR2", job)
    slurm_cluster.wait_until(lambda: slurm_cluster.job_states()[job] == "COMPLETED", "it left")
    assert out.read_text().splitlines()[1:] == ["USR2"]


@pytest.mark.parametrize(
    ("arguments", "venv", "message"),
    [
        ([], None, "which study? sbatch slurm/worker.sbatch NAME"),
        (["small"], None, "no program hpo in {folder}/.venv/bin or on PATH"),
        (["small"], "mine", "no program hpo in {folder}/mine/bin (HPO_VENV) or on PATH"),
    ],
)
def test_a_worker_by_hand_says_what_is_missing(tmp_path, arguments, venv, message):
    env = {"PATH": "/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(tmp_path)}
    if venv:
        env["HPO_VENV"] = venv
    script = ROOT / "slurm" / "worker.sbatch"
    done = subprocess.run(
        ["bash", script, *arguments], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert message.format(folder=tmp_path) in done.stderr
    assert len(done.stderr.splitlines()) == 1


# The test cluster itself


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
