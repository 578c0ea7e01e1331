"""Refills on a real SLURM whose programs lie, whose jobs hang, and whose clients are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from hpo.launch import slurm_plan
from hpo.launch.slurm_history import find_wanted
from hpo.launch.slurm_workers import refill
from slurm.queue import list_jobs
from tests.support.studies import command, wait_until, write_study

pytestmark = pytest.mark.slow

LIES = {
    "empty": "exit 0",
    "empty, with titles": '"$REAL" "$@" | head -c 83',
    "cut after 200 bytes": '"$REAL" "$@" | head -c 200',
    "cut after a job": '"$REAL" "$@" | awk \'NR <= 2\'',
    "without comments": '"$REAL" "$@" | sed \'s/hpo:[^\\x1e]*//\'',
    "its own format": '"$REAL" --me',
    "exit code 1": '"$REAL" "$@"; echo "squeue: error: no" >&2; exit 1',
    "no controller": 'echo "squeue: error: Unable to contact slurm controller" >&2; exit 1',
}


@pytest.fixture
def four_workers(hpo, site):
    """A study whose trials never end, with four jobs that run."""
    hpo("submit", write_study(trials=100, delay_s=30.0), "--workers", "4")
    wait_until(lambda: len(site.running()) == 4)
    record = site.record()
    wait_until(lambda: record.ledger.counts().held == 4)
    return record


def test_an_answer_that_is_no_answer_has_nothing_submitted(hpo, site, four_workers):
    before = sorted(job.job_id for job in site.jobs())
    for lie in LIES.values():
        with site.liar("squeue", lie):
            said = hpo("refill", "x", code=2).stderr
            assert "squeue: " in said, lie
            assert len(said.splitlines()) == 1
            hpo("submit", "x.toml", "--workers", "4", code=2)
        assert sorted(job.job_id for job in site.jobs()) == before, lie
    # Workers that live and jobs that run are not touched by any of it.
    assert four_workers.ledger.counts().held == 4
    assert "4 workers needed, 4 there\n" in hpo("refill", "x").stdout
    with site.liar("squeue", LIES["empty"]):
        said = hpo("stop", "x", "--now")
    assert "jobs are not cancelled, they will end by themselves: squeue: " in said.stderr


@pytest.mark.parametrize("how", ["scontrol suspend", "SIGSTOP"])
def test_jobs_whose_workers_hang_are_replaced(hpo, site, how):
    hpo("submit", write_study(trials=100, delay_s=30.0, lease_s=3.0), "--workers", "3")
    record = site.record()
    wait_until(lambda: record.ledger.counts().held == 3)
    hung = site.running()[0]
    if how == "SIGSTOP":
        for pid in site.cluster.find_tasks(hung.raw_id):
            os.kill(pid, signal.SIGSTOP)
    else:
        site.cluster.run("scontrol", "suspend", hung.job_id)
    time.sleep(2.0 * record.spec.lease_s)
    done = json.loads(hpo("refill", "x", "--json").stdout)
    assert (done["cancelled"], len(done["submitted"]), len(done["reaped"])) == ([hung.job_id], 1, 1)
    wait_until(lambda: record.ledger.counts().held == 3)
    # A suspended job is listed until its node has ended it, and is cancelled again until then.
    wait_until(lambda: hung.job_id not in {job.job_id for job in site.jobs()})
    assert "3 workers needed, 3 there\n" in hpo("refill", "x").stdout


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_client_that_is_killed_inside_sbatch_is_settled_by_the_queue(
    hpo, site, monkeypatch, when
):
    script = (
        'touch called; sleep 30; "$REAL" "$@"'
        if when == "before"
        else ('"$REAL" "$@"; touch called; sleep 30')
    )
    path = write_study(trials=100, delay_s=30.0)
    with site.liar("sbatch", script):
        client = subprocess.Popen(command("submit", path, "--workers", "4"), start_new_session=True)
        wait_until(lambda: Path("called").exists())
        os.killpg(client.pid, signal.SIGKILL)
        client.wait()
    # At once: what is in the queue counts, and what may still come, too.
    said = hpo("refill", "x").stdout
    doubt = "" if when == "after" else " (4 of them being submitted)"
    assert f"4 workers needed, 4 there{doubt}\n" in said
    assert len(site.jobs()) == (4 if when == "after" else 0)
    if when == "before":
        monkeypatch.setattr(slurm_plan, "IN_DOUBT_S", 0.0)
        record = site.record()
        (done,) = refill(record, find_wanted(record, os.environ["HPO_STORAGE"]))
        assert (done.active, len(done.submitted)) == (0, 4)
    assert len(site.jobs()) == 4


def test_an_sbatch_that_times_out_and_accepts_is_believed_by_the_queue(hpo, site):
    late = '"$REAL" "$@"; echo "sbatch: error: Socket timed out on send/recv operation" >&2; exit 1'
    path = write_study(trials=100, delay_s=30.0)
    with site.liar("sbatch", late):
        said = hpo("submit", path, "--workers", "4").stdout
    assert "4 workers needed, 0 there, 4 submitted: job " in said
    assert "4 workers needed, 4 there\n" in hpo("refill", "x").stdout
    never = 'echo "sbatch: error: Socket timed out on send/recv operation" >&2; exit 1'
    with site.liar("sbatch", never):
        said = hpo("refill", "x", "--workers", "6", code=2).stderr
    assert "whether the 2 jobs were accepted is settled by the queue at the next refill" in said
    assert "6 there (2 of them being submitted)" in hpo("refill", "x").stdout
    assert len(site.jobs()) == 4


def test_many_clients_at_once_submit_what_one_would(hpo, site):
    hpo("submit", write_study(trials=100, delay_s=30.0), "--workers", "0")
    both = [
        subprocess.Popen(
            command("submit", "x.toml", "--workers", "6"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(4)
    ]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert sum("6 submitted: job" in text for text in said) == 1, said
    assert len(site.jobs()) == 6


def test_a_study_is_served_by_two_sections_and_each_is_looked_after(hpo, site):
    with Path("clusters.toml").open("a") as file:
        file.write('[quick]\npartition = "urgent"\nmemory_gb = 0.5\n')
    path = write_study(trials=9, delay_s=30.0)
    hpo("submit", path, "--workers", "2", "--cluster", "test")
    said = hpo("submit", path, "--workers", "32", "--cluster", "quick").stdout
    assert "7 workers needed, 0 there, 7 submitted: job " in said
    partitions = sorted(job.partition for job in site.jobs())
    assert partitions == ["urgent"] * 7 + ["work"] * 2
    gone = [job.job_id for job in site.jobs() if job.partition == "work"]
    site.cluster.scancel(*gone)
    wait_until(lambda: len(site.jobs()) == 7)
    said = hpo("refill", "x").stdout
    assert "test: 1 workers needed, 0 there, 1 submitted: job " in said
    assert "; quick: 8 workers needed, 7 there, 1 submitted: job " in said
    refused = hpo("refill", "x", "--workers", "3", code=2).stderr
    assert "add --cluster NAME: test, quick" in refused
    hpo("refill", "x", "--workers", "0", "--cluster", "quick")
    told = hpo("stop", "x", "--now").stdout
    assert "9 jobs cancelled (quick 8, test 1)" in told
    wait_until(lambda: not site.jobs())
    assert not [job for job in list_jobs() if job.active]
