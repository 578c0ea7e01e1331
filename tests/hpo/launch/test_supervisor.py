"""A launcher and its workers on real studies: an exact budget, and nobody left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from hpo.launch.processes import FreshProcesses
from hpo.launch.supervisor import SHOW_S, describe_end, show_pause
from hpo.records import Access, Counts
from hpo.storage.backends import open_storage
from hpo.storage.events import EventKind
from hpo.storage.postgres.server import Server
from hpo.study.record import find
from hpo.worker.channel import WorkerOrder
from tests.support.chaos.books import check_books
from tests.support.studies import ROOT, command, wait_until, write_study

SQLITE = "sqlite:///hpo.db"
pytestmark = pytest.mark.slow


@contextlib.contextmanager
def launcher(*arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A command in the background; ended with what it has started."""
    process = subprocess.Popen(
        command(*arguments),
        env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.communicate(timeout=30)


def end(process: subprocess.Popen[str], within_s: float = 120.0) -> str:
    """Wait for a launcher to come to a good end, and return what it said."""
    _, said = process.communicate(timeout=within_s)
    assert process.returncode == 0, said
    assert "Traceback" not in said, said
    return said


@contextlib.contextmanager
def opened(url: str = SQLITE, name: str = "x") -> Iterator[Any]:
    storage = open_storage(url, Access.WORK)
    try:
        yield find(storage, name)
    finally:
        storage.engine.dispose()


def look(what: Callable[[Any], Any], url: str = SQLITE, name: str = "x") -> Any:
    with opened(url, name) as record:
        return what(record)


def n_finished(url: str = SQLITE) -> int:
    try:
        return int(look(lambda record: record.ledger.counts().finished, url))
    except Exception:
        # It is not begun yet, or its server is away.
        return -1


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children()
    return [child for child in children if child.name() == "hpo-worker"]


# How processes end -------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 2, 3, 130, 255])
def test_an_exit_code_is_no_message(code):
    assert describe_end(code) == f"ended by itself in the middle of its work, exit code {code}"


@pytest.mark.parametrize("number", sorted(set(signal.valid_signals()) - {signal.SIGSTOP}))
def test_every_signal_has_a_name(number):
    said = describe_end(-int(number))
    assert said.startswith("killed by ")
    assert said.removeprefix("killed by ").startswith(("SIG", "signal "))


TROUBLE = '''
import os, select, signal, socket, sys, time
from pathlib import Path
from tests.support.objectives import Witness

def channels():
    """The descriptors of this process that are sockets of the launcher."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                yield int(name)
        except OSError:
            pass

def write(data):
    for descriptor in channels():
        os.write(descriptor, data)

class Hanging:
    def write(self, text): return len(text)
    def flush(self): time.sleep(10_000)

def hang_at_the_end():
    sys.stdout = Hanging()
    os.kill(os.getpid(), signal.SIGTERM)

def take_away_the_output_and_leave():
    sys.stdout = sys.stderr = None
    os.kill(os.getpid(), signal.SIGTERM)

def close_the_channel():
    for descriptor in list(channels()):
        os.close(descriptor)

def exhaust():
    for descriptor in channels():
        for _ in range(200):
            os.write(descriptor, b"x" * 20_000)

TROUBLES = {
    "writes no message": lambda: write(b"hello\\n3\\nnull\\n[1]\\n\\xff\\n{}\\n"),
    "writes messages without what belongs to them": lambda: write(b'{"trial": 7}\\n{"left": 1}\\n'),
    "writes megabytes": exhaust,
    "writes half a line": lambda: write(b'\\n{"part": '),
    "closes the channel": close_the_channel,
    "dies by a signal without a name": lambda: os.kill(os.getpid(), 40),
    "never comes to its end": hang_at_the_end,
    "leaves without an output": take_away_the_output_and_leave,
}

class Troubled(Witness):
    def score_part(self, params, part):
        for name, do in TROUBLES.items():
            if part == 1:
                try:
                    Path(name).touch(exist_ok=False)
                except FileExistsError:
                    continue
                do()
                break
        return super().score_part(params, part)
'''
N_TROUBLES = 8


def test_what_an_objective_does_to_its_channel_harms_nobody_else(hpo, tmp_path):
    Path("trouble.py").write_text(TROUBLE)
    path = Path(write_study(trials=30, delay_s=0.05, journal=str(tmp_path / "journal.txt")))
    path.write_text(
        path.read_text().replace("tests.support.objectives:Parabola", "trouble:Troubled")
    )
    with launcher("run", str(path), "--workers", "4") as run:
        everybody: dict[int, psutil.Process] = {}
        while run.poll() is None:
            with contextlib.suppress(psutil.Error):
                everybody |= {child.pid: child for child in workers_of(run)}
            time.sleep(0.1)
        end(run)
    made = [
        line.split('"')[1]
        for line in TROUBLE.splitlines()
        if line.startswith('    "') and ":" in line
    ]
    assert len(made) == N_TROUBLES
    assert [name for name in made if not Path(name).exists()] == []
    assert [process for process in everybody.values() if process.is_running()] == []
    with opened() as record:
        check_books(record, tmp_path / "journal.txt", 30)
        reasons = [event["reason"] for event in record.ledger.events(EventKind.DEATH)]
    assert "killed by signal 40" in reasons


# Outages -----------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path, postgres_server):
    """A server that a test may stop; `postgres_server` says whether there can be one."""
    own = Server(tmp_path / "pg")
    own.start("127.0.0.1", settings={"fsync": "off"})
    yield own
    own.stop()


def test_four_restarts_of_the_server_and_a_worker_that_begins_without_one(hpo, server, tmp_path):
    url = str(server.folder)
    journal = tmp_path / "journal.txt"
    path = write_study(trials=60, delay_s=0.15, objective="Witness", journal=str(journal))
    with launcher("run", path, "--workers", "3", HPO_STORAGE=url) as run:
        wait_until(lambda: n_finished(url) >= 2)
        for n in range(4):
            server.stop()
            if n == 0:
                # It begins while there is no server, and joins when there is one.
                joined = launcher("worker", "x", HPO_STORAGE=url)
                late = joined.__enter__()
            time.sleep(1.5)
            assert run.poll() is None
            server.start()
            before = n_finished(url)
            wait_until(lambda before=before: n_finished(url) > before)
        end(run)
        end(late)
        joined.__exit__(None, None, None)
    with opened(url) as record:
        check_books(record, journal, 60)
        assert record.ledger.events(EventKind.DEATH) == []
        assert len(look_workers(record)) >= 4


def look_workers(record: Any) -> list[str]:
    from hpo.storage.schema import WORKERS

    with record.storage.read() as c:
        return [row.worker_id for row in c.execute(WORKERS.select())]


def test_more_workers_than_connections_do_not_end_the_others(hpo, postgres_server, postgres_url):
    path = write_study(trials=60, delay_s=0.1)
    database = postgres_url.rpartition("/")[2]

    def limit(connections: int) -> None:
        with postgres_server.connect_as_admin() as admin:
            text = f"ALTER DATABASE {database} CONNECTION LIMIT {connections}"
            admin.execute(text.encode())
            admin.commit()

    with launcher("run", path, "--workers", "10", HPO_STORAGE=postgres_url) as run:
        wait_until(lambda: n_finished(postgres_url) >= 0)
        limit(6)
        end(run)
    limit(-1)
    with opened(postgres_url) as record:
        assert record.ledger.counts() == Counts(60, finished=60)
        assert record.ledger.events(EventKind.DEATH) == []


# Sleep -------------------------------------------------------------------------------------------


def test_a_halt_of_two_leases_of_one_launcher_and_of_all(hpo, tmp_path):
    lease_s, journal = 2.0, tmp_path / "journal.txt"
    path = write_study(
        trials=50, delay_s=0.2, objective="Witness", lease_s=lease_s, journal=str(journal)
    )
    with (
        launcher("run", path, "--workers", "2") as first,
        contextlib.ExitStack() as stack,
    ):
        wait_until(lambda: n_finished() >= 1)
        second = stack.enter_context(launcher("resume", "x", "--workers", "2"))
        wait_until(lambda: len(workers_of(second)) == 2)
        wait_until(lambda: look(lambda record: record.ledger.counts().held) == 4)
        groups = [[psutil.Process(one.pid), *workers_of(one)] for one in (first, second)]
        # All are halted, as by a machine that sleeps, and one group wakes before the other.
        for process in (*groups[0], *groups[1]):
            process.suspend()
        time.sleep(2.2 * lease_s)
        for process in (*groups[1][1:], groups[1][0], *groups[0]):
            process.resume()
        time.sleep(1.2 * lease_s)
        assert look(lambda record: record.ledger.events(EventKind.DEATH)) == []
        # One group is halted, the other goes on and takes its trials over.
        for process in groups[0]:
            with contextlib.suppress(psutil.Error):
                process.suspend()
        time.sleep(2.2 * lease_s)
        for process in groups[0]:
            with contextlib.suppress(psutil.Error):
                process.resume()
        end(first)
        end(second)
    with opened() as record:
        counts = record.ledger.counts()
        deaths = record.ledger.events(EventKind.DEATH)
        assert counts == Counts(50, finished=50)
        assert len(deaths) <= 2
        assert {event["reason"] for event in deaths} <= {f"no sign of life for {lease_s:g} s"}


# Attempts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "code", "n_failed"),
    [("SIGINT", 130, 0), ("stop", 130, 0), ("SIGTERM", 130, 1), ("SIGUSR2", 130, 1)],
)
def test_an_attempt_that_was_ended_counts_unless_somebody_ended_the_study(how, code, n_failed, hpo):
    path = Path(write_study(trials=1, delay_s=2.0))
    path.write_text(path.read_text() + "[limits]\nmax_attempts = 1\n")
    with launcher("run", str(path), "--workers", "1") as run:
        wait_until(lambda: look_held())
        time.sleep(0.5)
        if how == "stop":
            hpo("stop", "x", "--now")
        else:
            run.send_signal(getattr(signal, how))
        assert run.wait(60) == code
    assert look(lambda record: record.ledger.counts().failed) == n_failed
    failures = look(lambda record: record.ledger.failures())
    if n_failed:
        assert failures == [(0, f"1 attempts in a row stored no part; the last: {how}")]


def look_held() -> bool:
    try:
        return bool(look(lambda record: record.ledger.counts().held))
    except Exception:
        # It is not begun yet.
        return False


# Processes ---------------------------------------------------------------------------------------

# `hpo ARGUMENTS` that says which databases are open when workers are forked, and ends there.
FORKING = """
import os, sys
import hpo.launch.processes as processes
def say(*_, **__):
    found = {os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")}
    print("open:", sorted(os.path.basename(path) for path in found if "hpo.db" in path))
    sys.stdout.flush()
    os._exit(0)
processes.ForkedProcesses = say
from hpo.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_no_database_is_open_in_what_workers_are_forked_from(hpo):
    path = write_study(trials=2, delay_s=0.0)

    def opened_by(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", FORKING, *arguments], capture_output=True, text=True, timeout=60
        )
        return done.stdout.strip() or done.stderr

    assert opened_by("run", path) == "open: []"
    hpo("run", path, "--workers", "1")
    for arguments in (
        ("run", path, "--trials", "4"),
        ("resume", "x", "--trials", "5"),
        ("worker", "x"),
    ):
        assert opened_by(*arguments) == "open: []", arguments


def test_a_launcher_without_room_for_a_process_goes_on_and_says_so(monkeypatch, caplog):
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    assert FreshProcesses().start(WorkerOrder(SQLITE, "x", "logs", os.getpid())) is None
    assert "no worker can be started, trying again: Resource temporarily" in caplog.text


@pytest.mark.parametrize(
    ("cpu_s", "pause_s"), [(0.0, SHOW_S), (0.004, SHOW_S), (0.045, 4.5), (2.0, 200.0)]
)
def test_a_status_takes_a_hundredth_of_a_core_at_most(cpu_s, pause_s):
    assert show_pause(cpu_s) == pytest.approx(pause_s)


THREADED = """
import json, sys, threading, time
from hpo.launch.processes import FreshProcesses, ForkedProcesses, worker_source
from hpo.spec.loading import validate
spec = validate({"name": "x", "trials": 1, "objective": {"name": "a:b"}, "space": {}}, "test")
if sys.argv[1] == "threads":
    threading.Thread(target=time.sleep, args=(3,), daemon=True).start()
with worker_source(spec, 1) as source:
    print(type(source).__name__)
"""


@pytest.mark.parametrize(
    ("how", "kind"), [("one", "ForkedProcesses"), ("threads", "FreshProcesses")]
)
def test_a_process_with_threads_is_not_forked(how, kind, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", THREADED, how],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == kind, done.stderr
