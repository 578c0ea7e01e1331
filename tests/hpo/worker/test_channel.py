"""What launcher and worker tell each other arrives whole, and what is no message does no harm."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import psutil
import pytest

from hpo.worker.channel import Channel, WorkerOrder
from tests.support.studies import ROOT

MESSAGES = [
    {"trial": 3, "attempt": 1, "before_s": 0.5},
    {"part": 0},
    {"scored": 0},
    {"silent": True},
    {"silent": True, "why": "the disk is full"},
    {"idle": True},
    {"registered": True},
    {"left": "done"},
    {"refused": "why", "kind": "HpoError", "code": 2, "passing": False},
    {"leave": "limit", "limit": True},
    WorkerOrder("sqlite:///é.db", "x", "logs", 1, "w", {"A": "b"}, (0, 2)).as_message(),
]


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Channel(ours), theirs


def as_heard(messages):
    return json.loads(json.dumps(messages))


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_messages_arrive_whole_in_whatever_pieces(ends, size):
    channel, raw = ends
    sent = b"".join(json.dumps(message).encode() + b"\n" for message in MESSAGES)
    heard = []
    for begin in range(0, len(sent), size):
        raw.sendall(sent[begin : begin + size])
        heard += channel.hear()
    assert heard == as_heard(MESSAGES)


def test_a_part_of_a_line_is_waited_for_and_not_asked_for_again_and_again(ends):
    channel, raw = ends
    raw.sendall(b'{"wake"')
    channel.hear()
    began, worked = time.monotonic(), time.process_time()
    assert channel.hear(0.3) == []
    assert time.monotonic() - began >= 0.29
    assert time.process_time() - worked < 0.1
    raw.sendall(b": true}\n")
    assert channel.hear(5.0) == [{"wake": True}]


NO_MESSAGES = [
    b"",
    b"hello",
    b"3",
    b"null",
    b'"left"',
    b'["left"]',
    b"\xff\xfe\0",
    b'{"left"',
    b"[" * 100_000,
    b"9" * 10_000,
    b'{"left": null}',
    b'{"left": 3}',
    b'{"trial": 1}',
    b'{"trial": "1", "attempt": 1, "before_s": 0}',
    b'{"trial": 1, "attempt": 1, "before_s": "long"}',
    b'{"refused": "why"}',
    b'{"part": []}',
    b'{"silent": "no"}',
]


@pytest.mark.parametrize("line", NO_MESSAGES, ids=lambda line: repr(line[:30]))
def test_what_is_no_message_is_passed_over(ends, line):
    channel, raw = ends
    threading.Thread(target=raw.sendall, args=(line + b'\n{"idle": true}\n',)).start()
    heard: list[dict[str, Any]] = []
    while not heard:
        heard = channel.hear(5.0)
    assert heard == [{"idle": True}]


def test_megabytes_without_a_line_are_not_kept_and_do_not_hold_up_who_listens(ends):
    channel, raw = ends
    over = threading.Event()

    def write():
        while not over.is_set():
            raw.sendall(b"x" * 65536)
        raw.sendall(b'\n{"idle": true}\n')

    thread = threading.Thread(target=write)
    thread.start()
    longest_s = 0.0
    for _ in range(50):
        began = time.monotonic()
        assert channel.hear() == []
        longest_s = max(longest_s, time.monotonic() - began)
        assert len(channel._unread) <= 6 << 20
    over.set()
    heard: list[dict[str, Any]] = []
    while not heard:
        heard = channel.hear(5.0)
    thread.join()
    assert heard == [{"idle": True}]
    assert longest_s < 2.0


def test_what_was_told_before_the_end_is_heard_after_it(ends):
    channel, raw = ends
    raw.sendall(b'{"left": "done"}\n{"par')
    raw.close()
    assert channel.hear(5.0) == [{"left": "done"}]
    assert channel.closed
    assert channel.hear(0.1) == []


@pytest.mark.parametrize("how", ["other end", "own end", "own descriptor"])
def test_a_closed_end_is_no_error_and_is_known(how):
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    if how == "other end":
        theirs.close()
    elif how == "own end":
        channel.close()
    else:
        os.close(ours.fileno())
    channel.tell(idle=True)
    assert channel.closed
    assert channel.hear(0.1) == []
    if how == "own descriptor":
        ours.detach()
    channel.close()
    theirs.close()


def test_a_descriptor_of_any_number_is_listened_to():
    # As of a launcher of hundreds of workers.
    code = """
import os, resource, socket
from hpo.worker.channel import Channel
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 4096), most))
ours, theirs = socket.socketpair()
os.dup2(ours.fileno(), 2000)
theirs.sendall(b'{"wake": true}\\n')
print(Channel(socket.socket(fileno=2000)).hear(5.0))
os._exit(0)
"""
    code = code.replace("os._exit(0)", "import sys; sys.stdout.flush(); os._exit(0)")
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "[{'wake': True}]\n", done.stderr


@pytest.mark.slow
def test_a_worker_that_is_never_told_what_to_do_leaves_with_its_launcher():
    ours, theirs = socket.socketpair()
    with theirs:
        worker = subprocess.Popen(
            [sys.executable, "-m", "hpo.launch.worker_process", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=subprocess.DEVNULL,
        )
    process = psutil.Process(worker.pid)
    ours.close()
    try:
        assert worker.wait(60.0) != 0
    finally:
        if process.is_running() and worker.poll() is None:
            worker.kill()
