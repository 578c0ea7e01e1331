"""A study that is prepared once, by real workers of which those that prepare are killed."""

from __future__ import annotations

import json
import signal
import subprocess
from collections import Counter
from pathlib import Path

import psutil
import pytest

from tests.support.prepared import N_UNITS, write_prepared
from tests.support.studies import command, wait_until


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, monkeypatch):
    """The URL of the storage, which all commands are told."""
    found = "sqlite:///hpo.db"
    if request.param == "postgresql":
        found = request.getfixturevalue("postgres_url")
    monkeypatch.setenv("HPO_STORAGE", found)
    return found


def lines():
    journal = Path("journal.txt")
    return (
        [line.rpartition(" ") for line in journal.read_text().splitlines()]
        if journal.exists()
        else []
    )


def done(what):
    return [line for line, _, _ in lines() if line.startswith(what)]


def status(hpo, name="x"):
    return json.loads(hpo("status", name, "--json").stdout)


def check(hpo, trials):
    """The study is prepared once to its end, its baseline scored once, its budget exact."""
    units = Counter(done("unit"))
    assert sorted(units) == [f"unit {k}" for k in range(N_UNITS)]
    # A unit whose file was written while its worker was killed may lack its line, and no more.
    assert max(units.values()) == 1
    found = status(hpo)
    assert (found["state"], found["counts"]["finished"]) == ("finished", trials)
    assert found["told"]["baseline"]["scores"]["score"] == pytest.approx(10.0)
    parts = Counter(done("part"))
    assert all(parts[f"part {k} of 4.0"] >= 1 for k in range(3))
    events = json.loads(hpo("provenance", "x", "--json").stdout)["events"]
    assert [e["kind"] for e in events if e["kind"] in ("prepared", "baseline")] == [
        "prepared",
        "baseline",
    ]


def test_a_preparing_worker_that_is_killed_is_followed_by_another(hpo, url):
    write_prepared(trials=4, delay_s=0.4)
    run = subprocess.Popen(
        command("run", "x.toml", "--workers", "2"), stderr=subprocess.PIPE, text=True
    )
    for n in (1, 3):
        wait_until(lambda n=n: len(done("unit")) >= n)
        psutil.Process(int(lines()[-1][2])).kill()
    _, said = run.communicate(timeout=120)
    assert run.returncode == 0, said
    assert len(done("prepare")) == 3
    check(hpo, 4)


def test_a_run_that_is_told_to_end_goes_on_where_it_was(hpo, url):
    write_prepared(trials=3, delay_s=0.3)
    run = subprocess.Popen(
        command("run", "x.toml", "--workers", "2"), stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: len(done("unit")) >= 2)
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=60)
    assert "hpo resume x" in said
    found = status(hpo)
    assert found["state"] == "stopped"
    assert found["told"]["preparation"]["done"] >= 2
    assert ", preparing " in hpo("status", "x").stdout
    # It is reported, compared and exported all the same.
    for reading in (("report", "x"), ("compare", "x"), ("export", "x", "--output", "x.csv")):
        hpo(*reading)
    hpo("resume", "x", "--workers", "2")
    check(hpo, 3)


def test_who_only_checks_begins_or_looks_prepares_nothing(hpo):
    write_prepared(until="water")
    hpo("check", "x.toml")
    failed = hpo("run", "x.toml", "--workers", "2", code=2).stderr
    assert failed.count("the preparation failed: prepare: ValueError: there is no water") >= 1
    assert "hpo resume x" in failed
    assert "the preparation failed: prepare: ValueError" in hpo("status", "x").stdout
    assert not done("part")
    Path("water").touch()
    assert "finished" in hpo("resume", "x", "--workers", "2").stdout
    check(hpo, 4)


def test_a_baseline_that_hangs_is_ended_by_the_limits_of_a_trial(hpo):
    study = Path(write_prepared(trials=3))
    study.write_text(f"{study.read_text()}[limits]\npart_s = 1\n")
    hpo("run", "x.toml", "--workers", "2", "--set", "objective.params.hangs=true")
    found = status(hpo)
    assert found["counts"]["finished"] == 3
    assert "limits.part_s = 1 exceeded" in found["told"]["baseline"]["failure"]
    assert "the baseline has no score: limits.part_s" in Path("reports/x/report.html").read_text()
