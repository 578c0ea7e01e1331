"""Lines of shell before a job's command, the options of sbatch, and whole scripts."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import pytest

from slurm.cluster import ClusterSpec, restore_cluster
from slurm.script import render_script, sbatch_options, setup_lines
from slurm.submit import submit
from tests.support.slurm.jobs import run_on_all_nodes, write_job, write_signals

GOLDEN = """\
#!/bin/bash
#SBATCH --job-name=hpo-x
#SBATCH --comment='a b'
#SBATCH --time=02:00:00
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --gres=gpu:2
#SBATCH --mem-per-cpu=1536M
#SBATCH --requeue
#SBATCH --signal=B:USR2@120
#SBATCH --open-mode=append
#SBATCH --hold

trap 'code=$?; if [ ${#BASH_SOURCE[@]} -eq 1 ]; then line=$(sed -n "${LINENO}p" "$0"); \
exit $code; fi' ERR
trap 'code=$?; echo "error: setup ended the job with exit code $code${line:+: $line}" >&2; \
exit $code' EXIT
module load python
trap - ERR EXIT
# exec, because SLURM's warning goes to the batch shell alone: the command has to be it.
exec apptainer exec 'my image.sif' python -m hpo worker x --logs '/a b'
"""


def test_a_script_for_sbatch():
    cluster = ClusterSpec(
        name="c",
        time_limit="120",
        workers_per_job=4,
        gpus_per_worker=0.5,
        memory_per_cpu_gb=1.5,
        setup=("module load python",),
        python="apptainer exec 'my image.sif' python",
        extra={"hold": True},
    )
    arguments = ["worker", "x", "--logs", "/a b"]
    assert render_script(cluster, "hpo", arguments, name="hpo-x", comment="a b") == GOLDEN


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ({}, {"cpus-per-task": 1, "mem": "4096M"}),
        ({"workers_per_job": 3}, {"cpus-per-task": 3, "mem": "12288M"}),
        ({"workers_per_job": 3, "memory_gb": 10}, {"cpus-per-task": 3, "mem": "10240M"}),
        ({"cpus_per_worker": 8, "workers_per_job": 2}, {"cpus-per-task": 16, "mem": "8192M"}),
        ({"memory_per_cpu_gb": 2}, {"cpus-per-task": 1, "mem-per-cpu": "2048M"}),
        ({"memory_by_site": True, "exclusive": True}, {"cpus-per-task": 1, "exclusive": True}),
        (
            {"nodes_per_trial": 4, "cpus_per_worker": 48, "memory_by_site": True},
            {"nodes": 4, "cpus-per-task": 48},
        ),
    ],
)
def test_what_a_job_is_asked_for_follows_from_its_workers(shape, options):
    asked = sbatch_options(ClusterSpec(name="c", **shape), "n", "c", exec_by_shell=False)
    shaped = ("nodes", "cpus-per-task", "mem", "mem-per-cpu", "exclusive", "gres")
    found = {key: value for key, value in asked.items() if key in shaped}
    assert found == {"nodes": 1, **options}


@pytest.mark.parametrize(
    ("gpus_per_worker", "workers", "gpus"),
    [(0, 3, 0), (1, 3, 3), (2, 2, 4), (0.5, 4, 2), (0.5, 3, 2), (0.4, 4, 2), (0.1, 10, 1),
     (0.3, 3, 1), (0.75, 2, 2), (1 / 3, 3, 1)],
)  # fmt: skip
def test_gpus_of_a_job(gpus_per_worker, workers, gpus):
    cluster = ClusterSpec(name="c", gpus_per_worker=gpus_per_worker, workers_per_job=workers)
    assert cluster.gpus_per_job == gpus


def test_a_cluster_that_an_earlier_version_wrote_down_is_read():
    stored = {"name": "old", "memory_gb": 4.0, "cpus": 3, "gres": "gpu:a100:2,lustre:1"}
    found = restore_cluster({**stored, "setup": ["x"], "extra": {"hold": True}})
    assert (found.cpus_per_worker, found.memory_per_job_gb) == (3, 4.0)
    assert (found.gpus_per_worker, found.gpu_type, found.gres) == (2.0, "a100", "lustre:1")
    assert restore_cluster({"name": "old", "gres": "gpu"}).gpus_per_job == 1
    assert restore_cluster(found.model_dump(mode="json")) == found


@pytest.mark.parametrize(
    ("setup", "code", "shown"),
    [
        (["true", "export A=1  # a comment", "source inner.sh", "quiet"], 0, ""),
        (["if false; then", "  false", "else", "  A=1", "fi", "false || true"], 0, ""),
        (["true", "module load nothing"], 3, "exit code 3: module load nothing"),
        (["source nowhere.sh"], 1, "exit code 1: source nowhere.sh"),
        (["nosuchprogram --x"], 127, "exit code 127: nosuchprogram --x"),
        (["if true; then", "  cp nothing here", "fi"], 1, "exit code 1:   cp nothing here"),
        (["exit 7"], 7, "setup ended the job with exit code 7"),
        (["exit 0"], 0, "setup ended the job with exit code 0"),
    ],
)
def test_a_line_of_setup_that_fails_ends_the_job_with_its_text(tmp_path, setup, code, shown):
    (tmp_path / "inner.sh").write_text("false\ngrep -q nothing /dev/null\ntrue\n")
    functions = ["module() { false; return 3; }", "quiet() { false; true; }"]
    lines = setup_lines(ClusterSpec(name="c", setup=(*functions, *setup)))
    script = tmp_path / "job.sh"
    script.write_text("\n".join(["#!/bin/bash", *lines, "echo begun $A"]) + "\n")
    done = subprocess.run(
        ["bash", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert shown in done.stderr
    assert done.stdout == ("" if shown else "begun 1\n" if "A=1" in str(setup) else "begun\n")


@pytest.mark.slow
def test_a_failing_line_ends_a_real_job_and_its_output_says_why(slurm_cluster, tmp_path):
    spec = ClusterSpec(name="c", memory_gb=0.1, setup=("true", "cp no-such-file ."))
    jobs = tmp_path / "jobs"
    [job] = submit(spec, print, 1, name="s", comment="setup", folder=jobs)
    slurm_cluster.wait_until(lambda: slurm_cluster.job_states()[job] == "FAILED", "it failed")
    shown = slurm_cluster.run("scontrol", "show", "job", job)
    assert "ExitCode=1:0" in shown
    said = (jobs / f"{job}_0_log.out").read_text()
    assert "error: setup ended the job with exit code 1: cp no-such-file ." in said


@pytest.mark.slow
def test_the_shape_of_a_job_is_what_slurm_gives(slurm_cluster, tmp_path):
    spec = ClusterSpec(
        name="c",
        workers_per_job=2,
        cpus_per_worker=3,
        gpus_per_worker=0.5,
        memory_per_cpu_gb=0.1,
        python=f"env PREFIXED=1 {sys.executable}",
    )
    [job] = submit(
        spec, partial(write_job, tmp_path), 1, name="s", comment="shape", folder=tmp_path / "jobs"
    )
    slurm_cluster.wait_until(lambda: (tmp_path / f"{job}.json").exists(), "it ran")
    shown = slurm_cluster.run("scontrol", "show", "job", job)
    assert "NumCPUs=6 " in shown
    assert "MinMemoryCPU=103M" in shown
    assert "gres:gpu:1" in shown


@pytest.mark.slow
def test_an_objective_runs_on_all_nodes_of_its_trial(slurm_cluster, tmp_path):
    """The callable runs once, on the first node; its own srun has all CPUs of all of them."""
    spec = ClusterSpec(name="c", nodes_per_trial=3, cpus_per_worker=4, memory_gb=0.2)
    jobs = tmp_path / "jobs"
    run = partial(run_on_all_nodes, tmp_path)
    ids = submit(spec, run, 1, name="s", comment="nodes", folder=jobs)
    done = tmp_path / f"{ids[0]}.done"
    slurm_cluster.wait_until(done.exists, "it ran on all nodes", within_s=60)
    [plain, packed, first] = done.read_text().splitlines()
    assert len(set(plain.split())) == 3
    assert sorted(packed.split()) == sorted([*plain.split()] * 4)
    assert first in plain.split()
    assert len(list(tmp_path.glob("*.done"))) == 1


@pytest.mark.slow
def test_a_trial_on_several_nodes_gets_the_warning(slurm_cluster, tmp_path):
    spec = ClusterSpec(name="c", nodes_per_trial=2, memory_gb=0.2, python=sys.executable)
    run = partial(write_signals, tmp_path)
    [job] = submit(spec, run, 1, name="s", comment="warned", folder=tmp_path / "jobs")
    slurm_cluster.wait_until(lambda: (tmp_path / f"{job}.ready").exists(), "it runs")
    slurm_cluster.scancel("--batch", "--signal=USR2", job)
    slurm_cluster.wait_until(lambda: (tmp_path / f"{job}.signal").exists(), "it was told")
    assert (tmp_path / f"{job}.signal").read_text() == "SIGUSR2\n"
    shown = slurm_cluster.run("scontrol", "show", "job", job)
    assert "NumNodes=2 " in shown
