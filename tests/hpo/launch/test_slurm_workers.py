"""Studies on a real SLURM and a real PostgreSQL, by the commands that a user types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from hpo.cli import main
from hpo.errors import FailedStudyError
from hpo.launch.slurm_history import find_wanted
from hpo.launch.slurm_workers import MAX_REFILLS_WITHOUT_PROGRESS, refill
from hpo.records import Access, WorkerRun
from hpo.storage.backends import open_storage
from hpo.study.record import find
from tests.support.studies import ROOT, command, journal, wait_until, write_study
from tests.support.trials import finished_trials


@pytest.mark.slow
def test_a_study_is_submitted_as_one_array_and_finished(hpo, site):
    path = write_study(trials=12, delay_s=0.1)
    said = hpo("submit", path, "--workers", "4", "--cluster", "test")
    assert "0 of 12 trials, 4 workers needed, 0 there, 4 submitted: job " in said.stdout
    assert "hpo status x --watch" in said.stderr
    watched = hpo("status", "x", "--watch", "--interval", "0.5").stdout
    # Workers on their way out may still be listed below it.
    states = [line for line in watched.splitlines() if line.startswith("x: ")]
    assert states[-1].startswith("x: finished, 12 of 12 trials, best")
    assert set(journal().values()) == {1}
    told = json.loads(hpo("provenance", "x", "--json").stdout)
    jobs = {worker["job"] for worker in told["workers"]}
    assert len(jobs) == 4
    assert {worker["cluster"] for worker in told["workers"]} == {"hpotest"}
    assert {worker["restarts"] for worker in told["workers"]} == {0}
    commits = {worker["provenance"]["git"]["commit"] for worker in told["workers"]}
    assert commits == {told["origin"]["git"]["commit"]}
    assert [event["kind"] for event in told["events"][:2]] == ["submitting", "submitted"]
    assert set(told["events"][1]["jobs"]) == jobs
    # The URL of the tests' server holds a password.
    password = sa.make_url(os.environ["HPO_STORAGE"]).password
    assert password
    for shown in (json.dumps(told), hpo("provenance", "x").stdout, hpo("status", "x").stdout):
        assert str(password) not in shown
    lines = hpo("logs", "x", "--trial", "3").stdout
    assert "trial 3: attempt 1 begins" in lines
    assert "trial 3: finished, score" in lines
    assert "trial 4" not in lines
    assert "is finished: 12 of 12 trials; nothing to do" in hpo("submit", path).stdout
    assert "nothing to do" in hpo("refill", "x").stdout


@pytest.mark.slow
def test_a_worker_that_is_warned_gives_its_trial_back_and_is_requeued(hpo, site):
    hpo("submit", write_study(trials=4, delay_s=1.5), "--workers", "1")
    record = site.record()
    wait_until(lambda: record.ledger.progress() >= 1)
    (job,) = site.running()
    site.cluster.scancel("--signal=USR2", job.job_id)
    wait_until(lambda: site.status().counts.finished == 4, 120)
    assert set(journal().values()) <= {1, 2}
    again = [part for part, times in journal().items() if times > 1]
    assert again == [] or len(again) == 1  # the part that the signal interrupted
    told = json.loads(hpo("provenance", "x", "--json").stdout)
    incarnations = [(worker["job"], worker["restarts"]) for worker in told["workers"]]
    assert incarnations == [(job.job_id, 0), (job.job_id, 1)]
    assert told["workers"][0]["outcome"] == "stopped: SIGUSR2"
    assert not [event for event in told["events"] if event["kind"] == "death"]


@pytest.mark.slow
def test_refill_submits_what_is_missing_and_nothing_else(hpo, site):
    hpo("submit", write_study(trials=30, delay_s=0.8), "--workers", "4")
    wait_until(lambda: len(site.running()) == 4)
    assert "4 workers needed, 4 there\n" in hpo("refill", "x").stdout
    gone = site.running()[:2]
    site.cluster.scancel(*(job.job_id for job in gone))
    wait_until(lambda: len(site.jobs()) == 2)
    said = hpo("refill", "x", "--json")
    done = json.loads(said.stdout)
    assert (done["needed"], done["active"], len(done["submitted"])) == (4, 2, 2)
    both = [
        subprocess.Popen(
            command("refill", "x", "--workers", "6"), stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in both:
        process.communicate(timeout=60)
    assert len(site.jobs()) == 6
    hpo("refill", "x", "--watch", "--interval", "1")
    assert site.status().state == "finished"


@pytest.mark.slow
def test_stop_ends_a_study_and_submit_goes_on_with_it(hpo, site):
    path = write_study(trials=40, delay_s=0.5)
    hpo("submit", path, "--workers", "3")
    record = site.record()
    wait_until(lambda: record.ledger.counts().finished >= 2)
    said = hpo("stop", "x").stdout
    assert "3 workers finish their trials and leave, 0 jobs cancelled" in said
    wait_until(lambda: site.status().state == "stopped")
    counts = record.ledger.counts()
    assert (counts.held, counts.free) == (0, 0)
    refused = hpo("refill", "x", code=2).stderr
    assert "study 'x' was stopped (hpo stop), so no workers are submitted" in refused
    hpo("submit", path, "--workers", "3")
    wait_until(lambda: record.ledger.counts().held == 3)
    said = hpo("stop", "x", "--now").stdout
    assert "give their trials back and leave, 3 jobs cancelled" in said
    wait_until(lambda: record.ledger.counts().held == 0)
    counts = record.ledger.counts()
    assert counts.free == 3
    hpo("submit", path, "--workers", "4", "--trials", str(counts.finished + 5))
    wait_until(lambda: site.status().state == "finished")
    assert record.ledger.counts().finished == counts.finished + 5
    # At the second stop each worker was at one part; nothing else was computed twice.
    assert sum(journal().values()) - len(journal()) <= 3


@pytest.mark.slow
def test_a_budget_changes_while_workers_run(hpo, site):
    hpo("submit", write_study(trials=100, delay_s=0.7), "--workers", "3")
    record = site.record()
    wait_until(lambda: record.ledger.counts().finished >= 1)
    # More than can be finished before the command is carried out.
    said = hpo("budget", "x", "15").stdout
    assert "study 'x': budget 100 -> 15" in said
    wait_until(lambda: site.status().state == "finished", 120)
    assert record.ledger.counts().finished == 15
    hpo("budget", "x", "17")
    hpo("refill", "x", "--watch", "--interval", "1")
    counts = record.ledger.counts()
    assert (counts.finished, counts.held, counts.free) == (17, 0, 0)


@pytest.mark.slow
def test_a_node_that_is_lost_costs_one_part_and_no_trial(hpo, site):
    hpo("submit", write_study(trials=12, delay_s=0.8, lease_s=60.0), "--workers", "3")
    record = site.record()
    wait_until(lambda: record.ledger.counts().held == 3)
    node = site.running()[0].node
    site.cluster.set_node(node, "DOWN")
    # It may have come back by itself.
    site.cluster.run("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)
    # Leases of a minute: what was lost is free at once because SLURM knows of it.
    began = time.monotonic()
    hpo("refill", "x", "--watch", "--interval", "1")
    assert time.monotonic() - began < 60.0
    assert site.status().counts.finished == 12


@pytest.mark.slow
def test_workers_that_fail_at_once_are_not_submitted_for_ever(hpo, site):
    hpo("submit", write_study(trials=4), "--workers", "2", "--slurm", "setup=exit 7")
    record = site.record()
    wanted = find_wanted(record, os.environ["HPO_STORAGE"])
    for _ in range(MAX_REFILLS_WITHOUT_PROGRESS):
        wait_until(lambda: not site.jobs())
        (done,) = refill(record, wanted)
        assert len(done.submitted) == 2
    wait_until(lambda: not site.jobs())
    with pytest.raises(FailedStudyError, match="no part was scored in between") as caught:
        refill(record, wanted)
    assert "See what they printed in " in str(caught.value)
    assert record.ledger.counts().held == 0


@pytest.mark.slow
def test_sbatch_by_hand_adds_a_worker(hpo, site, monkeypatch):
    hpo("submit", write_study(trials=3), "--workers", "0")
    venv = Path("venv/bin")
    venv.mkdir(parents=True)
    script = venv / "hpo"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m hpo "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("HPO_VENV", "venv")
    subprocess.run(["sbatch", "--mem=500", ROOT / "slurm" / "worker.sbatch", "x"], check=True)
    wait_until(lambda: site.status().state == "finished")
    assert list(journal().values()) == [1] * 9


@pytest.mark.slow
def test_a_script_for_sbatch_adds_a_job_as_submit_would(hpo, site):
    path = write_study(trials=3)
    with Path(path).open("a") as file:
        file.write("[resources]\ncpus_per_worker = 2\nmemory_gb = 0.7\n")
    hpo("submit", path, "--workers", "0")
    said = hpo("sbatch", "x", "--slurm", "setup=echo prepared")
    script = said.stdout
    assert "#SBATCH --partition=work\n" in script
    assert "#SBATCH --cpus-per-task=2\n#SBATCH --mem=717M\n" in script
    assert " -m hpo worker x --logs " in script
    assert "--workers 1 --cpus-per-worker 2 --gpus-per-worker 0" in script
    # The URL of the tests' server holds a password; sbatch hands the variable on.
    assert str(sa.make_url(os.environ["HPO_STORAGE"]).password) not in script + said.stderr
    assert "HPO_STORAGE must be set where sbatch is called" in said.stderr
    Path("job.sh").write_text(script)
    submit = ["sbatch", "--parsable", "--hold", "job.sh"]
    job = subprocess.run(submit, capture_output=True, text=True, check=True).stdout.strip()
    # It is the study's, and none of those that were asked for.
    assert [(found.job_id, found.state) for found in site.jobs()] == [(job, "PENDING")]
    site.cluster.run("scontrol", "release", job)
    wait_until(lambda: site.status().state == "finished")
    assert list(journal().values()) == [1] * 9
    wait_until(lambda: site.cluster.job_states()[job] == "COMPLETED")
    assert "prepared" in Path(f"slurm-{job}.out").read_text()
    variables = {key: value for key, value in os.environ.items() if key != "HPO_STORAGE"}
    done = subprocess.run(
        ["bash", "job.sh"], env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "HPO_STORAGE: must be set where sbatch is called" in done.stderr


def test_a_script_for_sbatch_names_a_storage_that_is_no_secret(hpo):
    hpo("submit", write_study(), "--workers", "0")
    script = hpo("sbatch", "x", "--slurm", "time_limit=2:00:00").stdout
    assert f" --storage sqlite:///{Path.cwd()}/hpo.db --logs {Path.cwd()}/logs " in script
    assert "#SBATCH --time=02:00:00\n" in script
    assert "no study 'y'" in hpo("sbatch", "y", code=2).stderr
    assert "unknown key" in hpo("sbatch", "x", "--slurm", "cpu=2", code=2).stderr
    assert "is called cpus_per_worker now" in hpo("sbatch", "x", "--slurm", "cpus=2", code=2).stderr


@pytest.mark.slow
def test_what_cannot_be_submitted_is_said(hpo, site):
    path = write_study()
    for arguments, message in (
        (("--cluster", "tset"), "no cluster 'tset'; did you mean 'test'?"),
        (("--slurm", "partition=nowhere"), "invalid partition specified"),
        (("--slurm", "tim_limit=5"), "did you mean 'time_limit'?"),
        (("--workers", "many"), "must be a whole number of at least 0, got 'many'"),
    ):
        assert message in hpo("submit", path, *arguments, code=2).stderr
    assert "was never submitted to a cluster" in hpo("refill", "x", code=2).stderr


def test_a_cluster_file_is_not_needed_to_be_told_that_there_is_no_slurm(hpo, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    said = hpo("submit", write_study(), "--workers", "2", code=2).stderr
    assert "sbatch" in said or "squeue" in said or "scontrol" in said


@pytest.mark.slow
def test_a_worker_leaves_before_the_time_limit(hpo, monkeypatch):
    hpo("submit", write_study(trials=500, delay_s=0.2), "--workers", "0")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 12))
    hpo("worker", "x", "--no-requeue")
    status = json.loads(hpo("status", "x", "--json").stdout)
    assert status["counts"]["held"] == 0
    assert 0 < status["counts"]["finished"] < 500
    told = json.loads(hpo("provenance", "x", "--json").stdout)
    assert told["workers"][0]["outcome"] == "stopped: the time limit is near"


@pytest.mark.slow
def test_a_worker_does_not_join_those_of_another_machine_on_a_sqlite_file(hpo):
    hpo("submit", write_study(lease_s=60.0), "--workers", "0")
    record = find(open_storage("sqlite:///hpo.db", Access.WORK), "x")
    record.ledger.register("w1", WorkerRun("node7", 1))
    record.storage.engine.dispose()
    said = hpo("worker", "x", code=2).stderr
    assert "hpo.db: this SQLite file is on a " in said
    assert "node7" in said
    assert "hpo db start DIR" in said


@pytest.mark.slow
def test_slurm_on_a_single_machine_may_use_a_sqlite_file(hpo, slurm_cluster):
    path = write_study(trials=4)
    hpo("submit", path, "--workers", "2", "--slurm", "memory_gb=0.5")
    wait_until(lambda: finished_trials() == 4)
    assert set(journal().values()) == {1}
    slurm_cluster.wait_idle()


def test_a_sqlite_file_is_refused_where_jobs_run_on_other_machines(hpo, monkeypatch, capsys):
    path = write_study()
    monkeypatch.setattr(
        "hpo.commands.cluster.submit.node_hosts", lambda partition: {"node7", "node8"}
    )
    assert main(["submit", path, "--workers", "2"]) == 2
    said = capsys.readouterr().err
    assert "hpo.db: this SQLite file is on a " in said
    assert "node7, node8" in said
    assert "'hpo db start DIR' starts one, 'hpo copy sqlite:///" in said
    assert not Path("hpo.db").exists(), "refused before anything was begun"


@pytest.mark.slow
def test_a_function_and_a_program_are_submitted_as_any_study(hpo, site):
    Path("train.py").write_text(
        "def objective(trial):\n    return trial.suggest_float('x', 0, 1)\n"
    )
    asked = ("--trials", "6", "--workers", "2", "--cluster", "test")
    assert "2 submitted: job " in hpo("submit", "train.py:objective", *asked).stdout
    Path("prog.toml").write_text(
        "trials = 4\n[objective]\ncommand = ['echo', 'loss={x}']\nscore = { regex = 'loss=(.+)' }\n"
        "[space]\nx = { type = 'float', low = 0.0, high = 1.0 }\n"
    )
    hpo("submit", "prog.toml", "--workers", "2", "--cluster", "test")
    for name in ("train", "prog"):
        wait_until(lambda name=name: site.status(name).state == "finished")
        told = json.loads(hpo("provenance", name, "--json").stdout)
        assert {worker["cluster"] for worker in told["workers"]} == {"hpotest"}
