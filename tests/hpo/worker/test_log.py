"""Tests of what a worker tells of its log."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from hpo.launch.limits import TrialWatch
from hpo.spec.limits import LimitsSpec

LIMIT_MB = 0.5


def size_told(stdout) -> int:
    code = (
        "from hpo.worker.log import size_of_log; import sys; sys.stderr.write(str(size_of_log()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=stdout, stderr=subprocess.PIPE, check=True, text=True
    )
    return int(done.stderr)


def test_a_worker_tells_the_size_of_a_file_and_of_nothing_else(tmp_path):
    path = tmp_path / "worker.log"
    path.write_bytes(b"x" * 1234)
    with path.open("ab") as stream:
        assert size_told(stream) == 1234
    assert size_told(subprocess.PIPE) == size_told(subprocess.DEVNULL) == 0


@pytest.mark.parametrize("heard_late", [False, True])
def test_output_counts_from_the_start_of_the_trial_and_is_cut_to_its_limit(tmp_path, heard_late):
    path = tmp_path / "worker.log"
    path.write_bytes(b"before\n")
    watch = TrialWatch(LimitsSpec(output_mb=LIMIT_MB), os.getpid(), "worker", path)
    told = json.loads(json.dumps({"trial": 3, "attempt": 1, "before_s": 0.0, "log_bytes": 7}))
    if heard_late:
        path.write_bytes(b"before\n" + b"y" * 2_000_000)
    watch.note(told, 10.0)
    if not heard_late:
        assert watch.exceeded(10.0) == ""
        path.write_bytes(b"before\n" + b"y" * 2_000_000)
    # At once: a second of printing may be a gigabyte.
    assert watch.exceeded(10.1).startswith("limits.output_mb = 0.5 exceeded: 2 MB")
    watch.cut_log()
    assert path.read_bytes() == b"before\n" + b"y" * int(LIMIT_MB * 1e6)


def test_a_log_within_its_limit_is_not_cut_and_a_missing_one_not_made(tmp_path):
    path = tmp_path / "worker.log"
    watch = TrialWatch(LimitsSpec(output_mb=LIMIT_MB), os.getpid(), "worker", path)
    watch.note({"trial": 0, "attempt": 1, "before_s": 0.0, "log_bytes": 0}, 0.0)
    watch.cut_log()
    assert not path.exists()
    path.write_bytes(b"z" * 400_000)
    watch.cut_log()
    assert path.stat().st_size == 400_000
