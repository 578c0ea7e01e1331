"""A study on one machine that everything happens to: exactly its budget, nothing twice."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Collection
from functools import partial
from pathlib import Path

import pytest

from hpo.study.record import StudyRecord
from tests.support.chaos.books import check_books, check_deaths, read_parts, shared_too_often
from tests.support.chaos.faults import (
    Chaos,
    Fault,
    fill_disk,
    find_faketime,
    freeze,
    send,
    small_disk,
)
from tests.support.chaos.objective import DEADLY, LEASE_S, TROUBLES, make_trouble
from tests.support.chaos.processes import MARK, Struck, find_programs, wait_until_gone
from tests.support.chaos.study import BUDGET, begin_troubled
from tests.support.studies import ROOT, command

FAULTS = 60
# Two GPUs, each of which eight workers of a launcher share.
GPUS, WORKERS_PER_GPU = "0,1", 8


class Laptop:
    """Faults of one machine that runs a study on a SQLite file with local workers."""

    def __init__(
        self, record: StudyRecord, folder: Path, seed: int, disk: bool, troubles: Collection[str]
    ) -> None:
        self.record, self.folder = record, folder
        self.rng = random.Random(seed)
        self.launchers: list[subprocess.Popen[bytes]] = []
        self.interrupted: set[int] = set()
        self.hours_ahead = 0
        self.workers = 16
        self.struck = Struck(str(folder))
        self.chaos: Chaos
        faults: dict[str, Fault] = {
            "worker killed": lambda: self.to_a_worker(signal.SIGKILL, deadly=True),
            "worker stopped beyond its lease": self.freeze_worker,
            "launcher stopped beyond the lease": self.freeze_launcher,
            "worker told to leave (USR2)": lambda: self.to_a_worker(signal.SIGUSR2),
            "worker terminated (TERM)": lambda: self.to_a_worker(signal.SIGTERM),
            "warm process killed": self.kill_forkserver,
            "launcher killed": self.kill_launcher,
            "Ctrl-C": lambda: bool(self.launchers) and self.interrupt(self.launchers[0].pid),
            "two launchers at once": self.another_launcher,
            "clock set two hours ahead": self.set_clock,
            "database locked for seconds": self.lock_database,
            **{name: partial(make_trouble, folder, name) for name in troubles},
        }
        if disk:
            faults["disk of the logs full"] = lambda: fill_disk(
                self.chaos, folder / "logs", for_s=3.0
            )
        rare = (
            *("launcher killed", "Ctrl-C", "clock set two hours ahead"),
            *("warm process killed", "launcher stopped beyond the lease"),
        )
        self.chaos = Chaos(faults, self.keep_alive, self.is_finished, seed, rare)

    def start(self, workers: int) -> None:
        """What a user types, and types again when it has ended."""
        share = f"{1 / WORKERS_PER_GPU:g}"
        arguments = ("--workers", str(workers), "--gpus-per-worker", share)
        own = {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": GPUS, MARK: str(self.folder)}
        if self.hours_ahead:
            own |= {
                "FAKETIME": f"+{3600 * self.hours_ahead}",
                "LD_PRELOAD": find_faketime(),
                "DONT_FAKE_MONOTONIC": "1",
                "PYTHONPATH": f"{ROOT / 'tests' / 'support' / 'skewed'}:{ROOT}",
            }
        self.launchers.append(
            subprocess.Popen(
                command("resume", "chaos", *arguments),
                cwd=self.folder,
                env=os.environ | own,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )

    def keep_alive(self) -> None:
        self.launchers = [process for process in self.launchers if process.poll() is None]
        if not self.launchers:
            self.start(self.workers)

    def is_finished(self) -> bool:
        return self.record.ledger.counts().done

    # Faults -------------------------------------------------------------------------------

    def to_a_worker(self, number: int, *, deadly: bool = False) -> bool:
        pids = [worker.pid for worker in self.struck.workers()]
        pid = self.rng.choice(pids) if pids else 0
        if deadly:
            self.struck.pids.add(pid)
        return bool(pids) and send(pid, number)

    def freeze_worker(self) -> bool:
        pids = [worker.pid for worker in self.struck.workers()]
        pid = self.rng.choice(pids) if pids else 0
        self.struck.pids.add(pid)
        return bool(pids) and freeze(self.chaos, [pid], LEASE_S + 3.0)

    def freeze_launcher(self) -> bool:
        if not self.launchers:
            return False
        pid = self.launchers[0].pid
        return bool(self.struck.strike(launchers=[pid])) and freeze(
            self.chaos, [pid], LEASE_S + 3.0
        )

    def kill_launcher(self) -> bool:
        if not self.launchers:
            return False
        self.struck.strike(launchers=[self.launchers[0].pid])
        return send(self.launchers[0].pid, signal.SIGKILL)

    def kill_forkserver(self) -> bool:
        found = [p.pid for p in find_programs(str(self.folder)) if p.name == "hpo-forkserver"]
        return bool(found) and send(self.rng.choice(found), signal.SIGKILL)

    def interrupt(self, pid: int) -> bool:
        if pid in self.interrupted:
            # The second Ctrl-C kills.
            self.struck.strike(launchers=[pid])
        self.interrupted.add(pid)
        return send(pid, signal.SIGINT)

    def another_launcher(self) -> bool:
        if not self.launchers or self.launchers[0].pid in self.interrupted:
            return False
        self.start(3)
        pid = self.launchers[-1].pid
        self.chaos.later(8.0, lambda: self.interrupt(pid))
        return True

    def set_clock(self) -> bool:
        """End the launchers; from the next one on it is two hours later for all.

        A file has no clock of its own: who works on it at the same time has the same time of day.
        """
        if not self.launchers:
            return False
        for launcher in self.launchers:
            self.interrupt(launcher.pid)
        self.hours_ahead += 2
        return True

    def lock_database(self) -> None:
        # In a thread: whoever has the lock now may be frozen, and is thawed by this one.
        threading.Thread(target=self.hold_lock, daemon=True).start()

    def hold_lock(self) -> None:
        with contextlib.closing(
            sqlite3.connect(self.folder / "hpo.db", isolation_level=None, timeout=60.0)
        ) as connection:
            connection.execute("BEGIN IMMEDIATE")
            time.sleep(3.0)
            connection.execute("ROLLBACK")

    def end(self) -> list[str]:
        """Wait until all have left a finished study; return who has not, and end those."""
        left = wait_until_gone(str(self.folder), within_s=45.0)
        for program in find_programs(str(self.folder)):
            send(program.pid, signal.SIGKILL)
        for launcher in self.launchers:
            launcher.wait(timeout=60)
        return left


# Trials, faults and workers. Functions and programs are claimed as tables are: fewer will do.
SIZES = {"table": (BUDGET, FAULTS, 16), "function": (60, 15, 16), "program": (40, 15, 10)}


@pytest.mark.parametrize("kind", SIZES)
def test_a_study_on_one_machine_lives_through_everything(tmp_path, kind):
    find_faketime()
    budget, n_faults, workers = SIZES[kind]
    record = begin_troubled(f"sqlite:///{tmp_path / 'hpo.db'}", tmp_path, kind, budget)
    # A program that leaves with a code has failed, and no worker with it.
    troubles = set(TROUBLES) - (DEADLY if kind == "program" else set())
    with small_disk(tmp_path / "logs") as disk:
        laptop = Laptop(record, tmp_path, seed=8, disk=disk, troubles=sorted(troubles))
        laptop.workers = workers
        began = time.monotonic()
        try:
            laptop.chaos.run(n_faults, pause_s=1.5, within_s=900.0)
        finally:
            left = laptop.end()
        print(json.dumps({"faults": dict(laptop.chaos.done), "when": laptop.chaos.told}, indent=1))
        print(f"wall {time.monotonic() - began:.0f} s")
        print(json.dumps(check_deaths(record, tmp_path, laptop.struck.pids), indent=1))
        figures = check_books(
            record, tmp_path / "journal.txt", budget, may_overlap=kind == "program"
        )
        print(json.dumps(figures, indent=1))
    parts = read_parts(tmp_path / "journal.txt")
    assert {part.gpus for part in parts} == {"0", "1"}
    assert shared_too_often(parts, WORKERS_PER_GPU) == []
    assert left == []
    assert sum(laptop.chaos.done.values()) >= n_faults
    assert kind != "table" or set(laptop.chaos.done) == set(laptop.chaos.faults)
    record.storage.engine.dispose()
