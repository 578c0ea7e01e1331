"""Calls beside this process: what they return and raise, and what becomes of them."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from hpo.system import beside
from hpo.system.beside import Beside
from hpo.system.resources import Cores

COUNT = threading.active_count


@pytest.fixture(autouse=True)
def two_cores_and_no_thread(monkeypatch):
    """Earlier tests, and whoever runs them, may have left a thread that sleeps."""
    monkeypatch.setattr(beside, "cores", lambda: Cores(2, 2, None))
    monkeypatch.setattr(threading, "active_count", lambda: 1)


def refuse():
    raise ValueError("no such thing")


def test_a_call_is_made_in_another_process_while_this_one_goes_on(tmp_path):
    told = tmp_path / "told"

    def wait_for_it():
        while not told.exists():
            time.sleep(0.01)
        return os.getpid(), "x" * 1_000_000

    with Beside(wait_for_it) as call:
        told.touch()
        pid, text = call.result()
    assert pid != os.getpid()
    assert len(text) == 1_000_000
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def test_what_it_raises_is_raised_where_the_result_is_asked_for():
    with Beside(refuse) as call, pytest.raises(ValueError, match="no such thing"):
        call.result()


def test_a_killed_call_is_made_here():
    here = os.getpid()

    def die_elsewhere():
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return "made here"

    with Beside(die_elsewhere) as call:
        assert call.result() == "made here"


def test_a_call_that_does_not_answer_is_made_here_and_ended(monkeypatch, tmp_path):
    here, other = os.getpid(), tmp_path / "pid"
    monkeypatch.setattr(beside, "PATIENCE_S", 0.2)

    def hang_elsewhere():
        if os.getpid() != here:
            other.write_text(str(os.getpid()))
            time.sleep(600.0)
        return "made here"

    with Beside(hang_elsewhere) as call:
        deadline = time.monotonic() + 30.0
        while not other.exists() or not other.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert call.result() == "made here"
    with pytest.raises(ProcessLookupError):
        os.kill(int(other.read_text()), 0)


@pytest.mark.parametrize("why", ["thread", "core", "system"])
def test_without_a_safe_and_useful_fork_it_is_made_here(why, monkeypatch):
    if why == "core":
        monkeypatch.setattr(beside, "cores", lambda: Cores(8, 1, None))
    if why == "system":
        monkeypatch.setattr(beside, "_CAN_FORK", False)
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    if why == "thread":
        monkeypatch.setattr(threading, "active_count", COUNT)
        thread.start()
    try:
        with Beside(os.getpid) as call:
            assert call.result() == os.getpid()
    finally:
        ended.set()
        if why == "thread":
            thread.join()
