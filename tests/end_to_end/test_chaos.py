"""What looks for broken promises after faults finds them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.chaos.books import Part, computed_again, shared_too_often
from tests.support.chaos.processes import MARK, Struck, wait_until_gone

# A worker as `ps` shows it.
WORKER = """
import sys, time
from hpo.system.resources import name_process
name_process("hpo-worker")
print(flush=True)
time.sleep(60)
"""


def test_what_is_computed_again_is_seen():
    # Part 1 begins, so part 0 is stored; a worker dies in part 1, and another begins it again.
    good = [("a", 0), ("b", 0), ("a", 1), ("a", 1), ("b", 0), ("a", 2), ("a", 2)]
    assert computed_again(good) == []
    assert computed_again([*good, ("a", 1)]) == [("a", 1)]
    assert computed_again([("a", 0), ("a", 1), ("a", 0), ("a", 1)]) == [("a", 0)]


@pytest.mark.parametrize(
    ("parts", "workers_per_gpu", "found"),
    [
        # One after the other, of different launchers, on different GPUs, without any.
        ([("a", "1", "0", 0), ("a", "1", "0", 5), ("b", "1", "0", 6)], 1, []),
        ([("a", "1", "0", 0), ("b", "2", "0", 1), ("a", "1", "0", 5)], 1, []),
        ([("a", "1", "0", 0), ("b", "1", "1", 1), ("a", "1", "0", 5)], 1, []),
        ([("a", "1", "-", 0), ("b", "1", "-", 1), ("a", "1", "-", 5)], 1, []),
        ([("a", "1", "0", 0), ("b", "1", "0", 1), ("a", "1", "0", 5)], 2, []),
        (
            [("a", "1", "0", 0), ("b", "1", "0", 1), ("a", "1", "0", 5)],
            1,
            ["GPU 0 of launcher 1"],
        ),
        # The launcher has died, and the worker is on its way.
        (
            [("a", "1", "0", 0), ("b", "1", "0", 1), ("a", "99", "0", 5)],
            1,
            ["GPU 0 of launcher 1"],
        ),
    ],
)
def test_gpus_that_too_many_have_are_seen(parts, workers_per_gpu, found):
    assert shared_too_often([Part(*part) for part in parts], workers_per_gpu) == found


def test_who_is_left_behind_is_seen(tmp_path):
    mark = str(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER], env=os.environ | {MARK: mark}, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        struck = Struck(mark)
        assert struck.strike(node="n1") == []
        (worker,) = struck.strike(launchers=[os.getpid()])
        assert struck.pids == {worker.pid} == {process.pid}
        assert wait_until_gone(mark, 0.0) == [f"hpo-worker {process.pid} of {os.getpid()}"]
    finally:
        process.kill()
        process.communicate()
    assert wait_until_gone(mark, 5.0) == []
