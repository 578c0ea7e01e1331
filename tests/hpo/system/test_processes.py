"""Processes of a worker: found wherever they are, ended as a whole, and nobody else's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from hpo.system.processes import (
    WORKER_VARIABLE,
    adopt_orphans,
    awake_s,
    children,
    count_threads,
    end_members,
    end_processes,
    is_stopped,
    members,
    memory_bytes,
    reap_adopted,
)
from tests.support.studies import ROOT, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux shows environments")

# What a worker may start; each line of "started" is a process that stays.
TREES = {
    "a program": "run()",
    "a program in a session of its own": "run(start_new_session=True)",
    "a daemon": """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        note(); time.sleep(1000)
    os._exit(0)
os.wait()
""",
    "a program of a program": 'run(code=\'import subprocess; subprocess.run(["sleep", "1000"])\')',
    "a fork": "if os.fork() == 0: note(); time.sleep(1000)",
    "one that ignores signals": """
run(code="import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(1000)")
""",
    "one that is stopped": "os.kill(run(), signal.SIGSTOP)",
}
WORKER = """
import os, signal, subprocess, sys, time
def note(pid=None):
    with open("started", "a") as stream:
        stream.write(f"{pid or os.getpid()}\\n")
def run(code="import time; time.sleep(1000)", **options):
    pid = subprocess.Popen([sys.executable, "-c", code], **options).pid
    note(pid)
    return pid
"""


def start(code: str, worker_id: str, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", f"{WORKER}\n{code}\ntime.sleep(1000)"],
        cwd=folder,
        env=os.environ | {WORKER_VARIABLE: worker_id},
        start_new_session=True,
    )


def started(folder: Path) -> list[int]:
    path = folder / "started"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def two(tmp_path):
    """Folders of two workers; whatever was started in them is ended."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    workers: list[subprocess.Popen[bytes]] = []
    yield folders, workers
    for worker in workers:
        worker.kill()
        worker.wait()
    for folder in folders:
        for pid in started(folder):
            if lives(pid):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("tree", TREES)
def test_all_that_a_killed_worker_has_started_ends_and_nothing_else(tree, two):
    folders, workers = two
    # The id of the one begins like that of the other.
    ids = ("w1", "w12")
    for worker_id, folder in zip(ids, folders, strict=True):
        workers.append(start(TREES[tree], worker_id, folder))
    wait_until(lambda: all(started(folder) for folder in folders))
    time.sleep(0.2)
    workers[0].kill()
    workers[0].wait()
    end_members(workers[0].pid, "w1")
    assert [pid for pid in started(folders[0]) if lives(pid)] == []
    assert members(workers[0].pid, "w1") == []
    assert workers[1].poll() is None
    assert all(lives(pid) for pid in started(folders[1]))
    end_members(workers[1].pid, "w12")
    assert [pid for pid in started(folders[1]) if lives(pid)] == []


@pytest.mark.slow
def test_programs_that_are_started_while_others_are_ended_end_as_well(two):
    folders, workers = two
    # A chain: each starts the next and leaves.
    chain = """
def follow():
    for _ in range(400):
        if os.fork():
            os._exit(0)
        os.setsid()
        time.sleep(0.005)
    note(); time.sleep(1000)
if os.fork() == 0:
    follow()
note(1)
"""
    workers.append(start(chain, "w1", folders[0]))
    wait_until(lambda: bool(started(folders[0])))
    end_members(workers[0].pid, "w1")
    # A process that was killed ends when it is scheduled.
    wait_until(lambda: members(workers[0].pid, "w1") == [])


@pytest.mark.parametrize("grace_s", [0.0, 20.0])
def test_who_is_given_time_to_leave_leaves(grace_s, tmp_path):
    code = """
import pathlib, signal, sys, time
def leave(*_):
    pathlib.Path("left").touch()
    sys.exit()
signal.signal(15, leave)
print(flush=True)
time.sleep(1000)
"""
    program = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE)
    assert program.stdout is not None
    with program.stdout as stream:
        stream.readline()
    seen = psutil.Process(program.pid)
    end_processes([seen], grace_s)
    assert not seen.is_running()
    assert (tmp_path / "left").exists() == (grace_s > 0.0)
    # Whoever is gone is passed over.
    end_processes([seen])
    program.wait()


REAPER = """
import os, subprocess, sys, time
from hpo.system.processes import adopt_orphans, children, reap_adopted
assert adopt_orphans(adopt=True)
own = subprocess.Popen(["true"], start_new_session=True)
known = children()
worker = subprocess.Popen([sys.executable, "-c", '''
import os
for own_session in (False, True):
    for _ in range(20):
        if os.fork() == 0:
            if own_session:
                os.setsid()
            if os.fork() == 0:
                os._exit(0)
            os._exit(0)
        os.wait()
'''], start_new_session=True)
worker.wait()
time.sleep(0.3)
before = len(children())
reap_adopted(known)
print(before, len(children() - known), own.wait())
"""


def test_what_was_adopted_is_reaped_and_own_children_are_left_to_who_started_them():
    done = subprocess.run(
        [sys.executable, "-c", REAPER],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    before, left, code = map(int, done.stdout.split())
    assert before >= 30, done.stderr
    assert (left, code) == (0, 0)


def test_memory_is_that_of_all_who_are_there():
    code = "x = bytearray(b'1') * (60 << 20); print(flush=True); input()"
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for program in programs:
        assert program.stdout is not None
        program.stdout.readline()
    seen = [psutil.Process(program.pid) for program in programs]
    assert 120e6 < memory_bytes(seen) < 250e6
    for program in programs:
        program.communicate(b"\n")
    assert memory_bytes(seen) == 0


def test_a_stopped_process_is_known():
    program = subprocess.Popen(["sleep", "1000"])
    assert not is_stopped(program.pid)
    os.kill(program.pid, signal.SIGSTOP)
    wait_until(lambda: is_stopped(program.pid))
    os.kill(program.pid, signal.SIGCONT)
    wait_until(lambda: not is_stopped(program.pid))
    program.kill()
    program.wait()
    assert not is_stopped(program.pid)


def test_threads_of_libraries_count():
    code = "import threading, time; from hpo.system.processes import count_threads as n\n"
    code += "print(n()); threading.Thread(target=time.sleep, args=(1,)).start(); print(n())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["1", "2"]
    assert count_threads() >= 1
    assert awake_s() <= awake_s()
    assert not children() & {os.getpid()}
    reap_adopted(children())
    assert adopt_orphans(adopt=False)


def test_what_nobody_collects_has_ended(tmp_path):
    """Within a container there may be no process that collects what is orphaned."""
    parent = start("run()", "w", tmp_path)
    try:
        wait_until(lambda: started(tmp_path))
        child = psutil.Process(started(tmp_path)[0])
        end_processes([child], grace_s=3600.0)
        assert child.status() == psutil.STATUS_ZOMBIE
    finally:
        parent.kill()
        parent.wait()
