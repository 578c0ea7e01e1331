"""What each worker gets of a machine: cores, threads and GPUs."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpo.launch.placement import (
    PlacementError,
    Share,
    find_gpus,
    gpu_share,
    make_places,
    share_of,
)
from hpo.spec.limits import ResourcesSpec
from hpo.system.threads import VARIABLES
from tests.support.studies import ROOT, command

CUDA, ROCR = "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"


@pytest.fixture(autouse=True)
def _no_gpus(monkeypatch):
    for variable in (CUDA, ROCR):
        monkeypatch.delenv(variable, raising=False)


def make_devices(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("variables", "devices", "expected"),
    [
        ({CUDA: "4,7"}, ["nvidia0", "nvidia1"], (CUDA, ["4", "7"])),
        ({CUDA: " 4 , 7 ,"}, [], (CUDA, ["4", "7"])),
        ({CUDA: "GPU-a1,MIG-b2"}, [], (CUDA, ["GPU-a1", "MIG-b2"])),
        # What is said wins over what is there; nothing is nothing.
        ({CUDA: ""}, ["nvidia0"], (CUDA, [])),
        # CUDA sees nothing from the first name on that is no device.
        ({CUDA: "-1"}, ["nvidia0"], (CUDA, [])),
        ({CUDA: "2,-1,3"}, ["nvidia0"], (CUDA, ["2"])),
        # What SLURM says in a job without GPUs.
        ({CUDA: "NoDevFiles"}, ["nvidia0"], (CUDA, [])),
        ({ROCR: "1"}, ["kfd"], (ROCR, ["1"])),
        ({}, ["nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"], (CUDA, ["0", "1"])),
        ({}, [f"nvidia{n}" for n in range(11)], (CUDA, [str(n) for n in range(11)])),
        ({}, ["kfd", "dri/card0", "dri/renderD128", "dri/renderD129"], (ROCR, ["0", "1"])),
        ({}, ["kfd"], (ROCR, [])),
        # A screen is no GPU to compute on.
        ({}, ["dri/renderD128"], (CUDA, [])),
        ({}, [], (CUDA, [])),
    ],
)
def test_gpus_are_those_that_are_said_or_that_are_there(
    variables, devices, expected, tmp_path, monkeypatch
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert find_gpus(make_devices(tmp_path / "dev", *devices)) == expected


@pytest.mark.parametrize(
    ("workers", "gpus", "names", "expected"),
    [
        (2, 1.0, "4,7", ["4", "7"]),
        (2, 2.0, "0,1,2,3", ["0,1", "2,3"]),
        (4, 0.5, "4,7", ["4", "4", "7", "7"]),
        (3, 0.5, "4,7", ["4", "4", "7"]),
        (6, 1 / 3, "a,b", ["a", "a", "a", "b", "b", "b"]),
        # Two would not fit: each has one for itself.
        (2, 0.6, "4,7", ["4", "7"]),
        (1000, 0.001, "4", ["4"] * 1000),
    ],
)
@pytest.mark.parametrize("variable", [CUDA, ROCR])
def test_workers_share_no_more_of_a_gpu_than_there_is(
    workers, gpus, names, expected, variable, monkeypatch
):
    monkeypatch.setenv(variable, names)
    places = make_places(workers, Share(1, gpus))
    assert [place.environment for place in places] == [{variable: name} for name in expected]


@pytest.mark.parametrize(
    ("workers", "gpus", "names", "needed"),
    [(3, 1.0, "4,7", 3), (5, 0.5, "4,7", 3), (1, 3.0, "4,7", 3), (1, 0.5, "", 1)],
)
def test_too_few_gpus_are_an_error_that_names_all(workers, gpus, names, needed, monkeypatch):
    monkeypatch.setenv(CUDA, names)
    with pytest.raises(PlacementError) as caught:
        make_places(workers, Share(1, gpus))
    got = len([name for name in names.split(",") if name])
    text = str(caught.value)
    assert text.startswith(f"gpus_per_worker = {gpus:g} for {workers} worker")
    assert f": {needed} GPU" in text
    assert f"got {got} (" in text
    assert (f"{CUDA}={names}" if names else "no GPU was found") in text


def test_workers_without_gpus_keep_what_the_user_has_said(monkeypatch):
    monkeypatch.setenv(CUDA, "4,7")
    assert [place.environment for place in make_places(2, Share(1, 0.0))] == [{}, {}]


@pytest.mark.parametrize(
    ("workers", "cpus", "tied", "expected"),
    [
        (2, 2, True, [(3, 5), (8, 9)]),
        (4, 1, True, [(3,), (5,), (8,), (9,)]),
        (1, 4, True, [(3, 5, 8, 9)]),
        # More than there are: the system shares them better than a fixed order.
        (3, 2, True, [(), (), ()]),
        (2, 2, False, [(), ()]),
    ],
)
def test_cores_are_those_of_the_job(workers, cpus, tied, expected, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {9, 3, 8, 5}, raising=False)
    places = make_places(workers, Share(cpus, 0.0), tied=tied)
    assert [place.cpus for place in places] == expected
    assert {place.threads for place in places} == {cpus}


@pytest.mark.parametrize("text", ["0", "0.5", "0.001", "1", "2", "1024"])
def test_shares_of_gpus_are_read(text):
    assert gpu_share(text) == float(text)


@pytest.mark.parametrize("text", ["-1", "1.5", "1025", "nan", "inf", "one", "", "1e400", "0x1"])
def test_what_is_no_share_of_gpus_is_refused_and_named(text):
    with pytest.raises(argparse.ArgumentTypeError, match="whole number of GPUs") as caught:
        gpu_share(text)
    assert f"'{text}'" in str(caught.value)


def test_who_says_so_stands_over_the_study():
    asked = ResourcesSpec(cpus_per_worker=4, gpus_per_worker=0.5)
    assert share_of(ResourcesSpec()) == Share(1, 0.0)
    assert share_of(asked) == Share(4, 0.5)
    assert share_of(asked, 2, 0.0) == Share(2, 0.0)
    assert share_of(asked, None, 1.0) == Share(4, 1.0)


# What a worker, and a program that it starts, find.
LOOKING = """
import json, os, subprocess, sys
from pathlib import Path
from tests.support.objectives import Slope

NAMES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
LOOK = (
    "import json, os; "
    f"print(json.dumps({{n: os.environ.get(n) for n in {NAMES!r}}}"
    " | {'cpus': sorted(os.sched_getaffinity(0))}))"
)

class Looking(Slope):
    def score_part(self, params, part):
        import numpy, threadpoolctl, time
        numpy.ones((2, 2)) @ numpy.ones((2, 2))
        said = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, check=True)
        pools = {pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
        seen = json.loads(said.stdout) | {"pools": sorted(pools), "pid": os.getpid()}
        with Path("seen.jsonl").open("a") as stream:
            stream.write(json.dumps(seen) + "\\n")
        time.sleep(0.5)
        return super().score_part(params, part)
"""
STUDY = """
trials = 6
[objective]
name = "looking:Looking"
[resources]
cpus_per_worker = 2
gpus_per_worker = 0.5
[space]
alpha = { type = "float", low = 0.0, high = 1.0 }
"""


@pytest.mark.slow
def test_workers_and_their_programs_get_what_the_study_asks_for(hpo, tmp_path):
    Path("looking.py").write_text(LOOKING)
    Path("x.toml").write_text(STUDY)
    told = {CUDA: "GPU-a,GPU-b", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command("run", "x.toml", "--workers", "3"),
        env=os.environ | told,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    seen = [json.loads(line) for line in Path("seen.jsonl").read_text().splitlines()]
    gpus = {line["pid"]: line[CUDA] for line in seen}
    assert sorted(gpus.values()) == ["GPU-a", "GPU-a", "GPU-b"]
    for line in seen:
        assert {line[name] for name in VARIABLES if name in line} == {"2"}
        assert max(line["pools"], default=2) <= 2
    few = subprocess.run(
        [sys.executable, "-m", "hpo", "run", "x.toml", "--workers", "5", "--trials", "9"],
        env=os.environ | told,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert few.returncode == 2
    assert "gpus_per_worker = 0.5 for 5 workers: 3 GPUs needed, got 2 (CUDA_" in few.stderr
