"""Studies that everything happens to: exactly their budget, and nothing computed twice."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg

from hpo.errors import HpoError, StorageError
from hpo.launch.slurm_history import DesiredWorkers, comment_of
from hpo.launch.slurm_jobs import UnwritableError
from hpo.launch.slurm_plan import is_ours
from hpo.launch.slurm_workers import BusyError, refill
from hpo.records import Access
from hpo.spec.loading import validate
from hpo.storage.backends import open_storage
from hpo.storage.postgres.server import Server
from hpo.storage.urls import resolve_url
from hpo.study.creation import begin
from hpo.study.record import Source, StudyRecord
from slurm.cluster import ClusterSpec
from slurm.errors import SlurmError
from slurm.queue import list_jobs
from tests.support.chaos import Chaos, check_books, computed_again, freeze, send
from tests.support.requirements import unavailable
from tests.support.slurm.cluster import SlurmCluster
from tests.support.studies import ROOT

BUDGET, WORKERS, FAULTS = 200, 16, 60
LEASE_S = 6.0


def begin_witness(url: str, folder: Path, delay_s: float, name: str = "chaos") -> StudyRecord:
    spec = validate(
        {
            "name": name,
            "trials": BUDGET,
            "lease_s": LEASE_S,
            # The journal says that a part is stored when the next one begins.
            "checkpoint_s": 0,
            "max_deaths": 1000,
            "objective": {
                "name": "tests.support.objectives:Witness",
                "params": {"delay_s": delay_s, "journal": str(folder / "journal.txt")},
            },
            "space": {"alpha": {"type": "float", "low": 0.0, "high": 10.0}},
        },
        "test",
    )
    storage = open_storage(url, Access.CREATE)
    # A launcher waits as long as a user would.
    storage.patience_s = 30.0
    return begin(storage, spec, Source(str(folder / "chaos.toml"), (), None), None)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A small file system of its own at a folder; False where mounting is refused."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill_disk(chaos: Chaos, folder: Path, for_s: float) -> None:
    """Take the last byte of the disk that the logs are on, for a while."""
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("ab", buffering=0) as stream:
        while True:
            stream.write(b"x" * 4096)
    chaos.later(for_s, lambda: filler.unlink(missing_ok=True))


class Site:
    """Faults of a cluster and its database, while a study runs on them."""

    def __init__(
        self,
        record: StudyRecord,
        wanted: DesiredWorkers,
        cluster: SlurmCluster,
        server: Server,
        seed: int,
        disk: bool,
    ) -> None:
        self.record, self.wanted = record, wanted
        self.cluster, self.server = cluster, server
        self.rng = random.Random(seed)
        self.refused = 0
        faults = {
            "worker killed": lambda: self.to_a_task(signal.SIGKILL),
            "worker frozen beyond its lease": self.freeze_task,
            "worker told to leave (USR2)": lambda: self.scancel("--signal=USR2"),
            "worker terminated (TERM)": lambda: self.to_a_task(signal.SIGTERM),
            "slurmstepd killed": self.kill_step,
            "slurmd killed": self.kill_slurmd,
            "slurmctld killed": self.kill_slurmctld,
            "PostgreSQL killed": lambda: self.restart_server(kill=True),
            "PostgreSQL restarted": lambda: self.restart_server(kill=False),
            "one connection killed": self.kill_backend,
            "node DOWN": self.node_down,
            "preemption": self.preempt,
            "requeue": self.requeue,
            "scancel": lambda: self.scancel(),
            "two launchers at once": self.two_launchers,
        }
        if disk:
            faults["disk of the logs full"] = lambda: fill_disk(
                self.chaos, Path(wanted.logs), for_s=4.0
            )
        self.chaos = Chaos(faults, self.keep_alive, self.is_finished, seed)
        self.next_refill = 0.0

    # What a user does ---------------------------------------------------------------------

    def keep_alive(self) -> None:
        if time.monotonic() < self.next_refill:
            return
        self.next_refill = time.monotonic() + 2.0
        self.refill()

    def refill(self) -> None:
        try:
            refill(self.record, [self.wanted], anew=True)
        except (StorageError, SlurmError, UnwritableError):
            pass  # `hpo refill --watch` tries again
        except BusyError:
            self.refused += 1

    def is_finished(self) -> bool:
        try:
            return self.record.ledger.counts().done
        except StorageError:
            return False

    # Faults -------------------------------------------------------------------------------

    def a_task(self) -> int | None:
        """A process that computes: the innermost of a job."""
        tasks = []
        for pid in self.cluster.find_tasks():
            with contextlib.suppress(psutil.Error):
                if "submitit" in " ".join(psutil.Process(pid).cmdline()):
                    tasks.append(pid)
        return self.rng.choice(sorted(tasks)) if tasks else None

    def to_a_task(self, number: int) -> bool:
        pid = self.a_task()
        return pid is not None and send(pid, number)

    def freeze_task(self) -> bool:
        pid = self.a_task()
        return pid is not None and freeze(self.chaos, pid, LEASE_S + 3.0)

    def running(self) -> list[str]:
        try:
            jobs = [job for job in list_jobs() if is_ours(job, comment_of(self.record))]
        except SlurmError:
            return []
        return sorted(job.job_id for job in jobs if job.state == "RUNNING")

    def scancel(self, *options: str) -> bool:
        running = self.running()
        return bool(running) and self.ask("scancel", *options, self.rng.choice(running))

    def requeue(self) -> bool:
        running = self.running()
        return bool(running) and self.ask("scontrol", "requeue", self.rng.choice(running))

    def ask(self, *command: str) -> bool:
        done = subprocess.run(command, env=self.cluster.env, capture_output=True, timeout=60)
        return done.returncode == 0

    def kill_step(self) -> bool:
        steps = self.cluster.find_steps()
        return bool(steps) and send(self.rng.choice(steps), signal.SIGKILL)

    def kill_slurmd(self) -> bool:
        node = self.rng.choice(self.cluster.nodes)
        if node not in self.cluster._slurmds:
            return False
        self.cluster.kill_slurmd(node)
        self.chaos.later(5.0, lambda: self.cluster.start_slurmd(node))
        return True

    def kill_slurmctld(self) -> None:
        self.cluster.kill_slurmctld()
        time.sleep(1.0)
        self.cluster.start_slurmctld()

    def node_down(self) -> bool:
        node = self.rng.choice(self.cluster.nodes)
        if not self.ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=chaos"):
            return False
        resume = ("scontrol", "update", f"NodeName={node}", "State=RESUME")
        self.chaos.later(4.0, lambda: self.ask(*resume))
        return True

    def preempt(self) -> bool:
        return self.ask(
            *("sbatch", "--partition=urgent", "--mem=100", "--cpus-per-task=8", "--exclusive"),
            *("--output=/dev/null", "--wrap=sleep 3"),
        )

    def restart_server(self, *, kill: bool) -> None:
        if kill:
            pid = int((self.server.data / "postmaster.pid").read_text().split()[0])
            os.kill(pid, signal.SIGKILL)
            psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=10)
        else:
            self.server.stop()
        time.sleep(1.0)
        self.server.start()

    def kill_backend(self) -> bool:
        query = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND application_name = 'hpo' ORDER BY random() LIMIT 1"
        )
        try:
            with psycopg.connect(resolve_url(str(self.server.folder))) as connection:
                return connection.execute(query).fetchone() is not None
        except psycopg.OperationalError:
            return False

    def two_launchers(self) -> None:
        both = [threading.Thread(target=self.refill) for _ in range(2)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()


SKEW = """\
case ${SLURM_ARRAY_TASK_ID:-0} in
*[147]) export FAKETIME=+3600 ;;
*[258]) export FAKETIME=-3600 ;;
esac
if [ -n "${FAKETIME:-}" ]; then
export LD_PRELOAD=%(library)s DONT_FAKE_MONOTONIC=1 PYTHONPATH=%(tests)s/support/skewed:$PYTHONPATH
fi"""


def find_faketime() -> str:
    """The library that shows a process another time of day."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not found:
        unavailable("faketime", "install Debian's package libfaketime")
    return str(found[0])


def test_a_study_on_slurm_and_postgresql_lives_through_everything(tmp_path, slurm_cluster):
    skew = SKEW % {"library": find_faketime(), "tests": ROOT / "tests"}
    server = Server(tmp_path / "pg")
    try:
        server.start("127.0.0.1")
    except HpoError as exc:
        unavailable("postgresql", str(exc))
    cluster = ClusterSpec(
        name="test", partition="work", memory_gb=0.5, setup=tuple(skew.splitlines())
    )
    url = resolve_url(str(server.folder))
    record = begin_witness(url, tmp_path, delay_s=2.0)
    try:
        with small_disk(tmp_path / "logs") as disk:
            wanted = DesiredWorkers(WORKERS, cluster, str(server.folder), str(tmp_path / "logs"))
            site = Site(record, wanted, slurm_cluster, server, seed=7, disk=disk)
            began = time.monotonic()
            site.chaos.run(FAULTS, pause_s=1.5, within_s=900.0)
            slurm_cluster.wait_idle()
            figures = check_books(record, tmp_path / "journal.txt", BUDGET)
            print(json.dumps({"faults": dict(site.chaos.done), **figures}, indent=1))
            print(f"wall {time.monotonic() - began:.0f} s, launchers refused {site.refused}")
        assert sum(site.chaos.done.values()) >= FAULTS
        assert set(site.chaos.done) == set(site.chaos.faults)
    finally:
        record.storage.engine.dispose()
        server.stop()


class Laptop:
    """Faults of one machine that runs a study on a SQLite file with local workers."""

    def __init__(self, record: StudyRecord, folder: Path, seed: int, disk: bool) -> None:
        self.record, self.folder = record, folder
        self.rng = random.Random(seed)
        self.launchers: list[subprocess.Popen[bytes]] = []
        self.database = folder / "hpo.db"
        faults = {
            "worker killed": lambda: self.to_a_worker(signal.SIGKILL),
            "worker frozen beyond its lease": self.freeze_worker,
            "worker told to leave (USR2)": lambda: self.to_a_worker(signal.SIGUSR2),
            "worker terminated (TERM)": lambda: self.to_a_worker(signal.SIGTERM),
            "launcher killed": lambda: self.to_the_launcher(signal.SIGKILL),
            "Ctrl-C": lambda: self.to_the_launcher(signal.SIGINT),
            "two launchers at once": self.another_launcher,
            "launcher with another time of day": self.skewed_launcher,
            "database locked for seconds": self.lock_database,
        }
        if disk:
            faults["disk of the logs full"] = lambda: fill_disk(
                self.chaos, folder / "logs", for_s=3.0
            )
        rare = ("launcher killed", "Ctrl-C", "launcher with another time of day")
        self.chaos = Chaos(faults, self.keep_alive, self.is_finished, seed, rare)

    def start(self, workers: int, **variables: str) -> None:
        """What a user types, and types again when it has ended."""
        self.launchers.append(
            subprocess.Popen(
                [sys.executable, "-m", "hpo", "resume", "chaos", "--workers", str(workers)],
                cwd=self.folder,
                env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )

    def keep_alive(self) -> None:
        self.launchers = [process for process in self.launchers if process.poll() is None]
        if not self.launchers:
            self.start(WORKERS)

    def is_finished(self) -> bool:
        return self.record.ledger.counts().done

    def workers(self) -> list[int]:
        found = []
        for launcher in self.launchers:
            with contextlib.suppress(psutil.Error):
                found += [child.pid for child in psutil.Process(launcher.pid).children()]
        return sorted(found)

    def to_a_worker(self, number: int) -> bool:
        workers = self.workers()
        return bool(workers) and send(self.rng.choice(workers), number)

    def freeze_worker(self) -> bool:
        workers = self.workers()
        return bool(workers) and freeze(self.chaos, self.rng.choice(workers), LEASE_S + 3.0)

    def to_the_launcher(self, number: int) -> bool:
        return bool(self.launchers) and send(self.launchers[0].pid, number)

    def another_launcher(self) -> None:
        self.start(3)
        launcher = self.launchers[-1]
        self.chaos.later(8.0, lambda: send(launcher.pid, signal.SIGINT))

    def skewed_launcher(self) -> bool:
        """Replace the launcher by one that lives, with its workers, two hours ahead."""
        if not self.to_the_launcher(signal.SIGINT):
            return False
        self.start(
            WORKERS,
            FAKETIME="+7200",
            LD_PRELOAD=find_faketime(),
            DONT_FAKE_MONOTONIC="1",
            PYTHONPATH=f"{ROOT / 'tests' / 'support' / 'skewed'}:{ROOT}",
        )
        return True

    def lock_database(self) -> None:
        # In a thread: whoever has the lock now may be frozen, and is thawed by this one.
        threading.Thread(target=self.hold_lock, daemon=True).start()

    def hold_lock(self) -> None:
        with contextlib.closing(
            sqlite3.connect(self.database, isolation_level=None, timeout=60.0)
        ) as connection:
            connection.execute("BEGIN IMMEDIATE")
            time.sleep(3.0)
            connection.execute("ROLLBACK")

    def end(self) -> None:
        """End what is still there, and return when the last worker has gone."""
        workers = self.workers()
        for launcher in self.launchers:
            send(launcher.pid, signal.SIGINT)
        for launcher in self.launchers:
            launcher.wait(timeout=60)
        _, alive = psutil.wait_procs(
            [psutil.Process(pid) for pid in workers if psutil.pid_exists(pid)], timeout=30
        )
        for process in alive:
            process.kill()


def test_a_study_on_one_machine_lives_through_everything(tmp_path):
    find_faketime()
    record = begin_witness(f"sqlite:///{tmp_path / 'hpo.db'}", tmp_path, delay_s=2.0)
    with small_disk(tmp_path / "logs") as disk:
        laptop = Laptop(record, tmp_path, seed=8, disk=disk)
        began = time.monotonic()
        try:
            laptop.chaos.run(FAULTS, pause_s=1.5, within_s=900.0)
        finally:
            laptop.end()
        figures = check_books(record, tmp_path / "journal.txt", BUDGET)
        print(json.dumps({"faults": dict(laptop.chaos.done), **figures}, indent=1))
        print(f"wall {time.monotonic() - began:.0f} s")
    assert sum(laptop.chaos.done.values()) >= FAULTS
    assert set(laptop.chaos.done) == set(laptop.chaos.faults)
    record.storage.engine.dispose()


def test_what_is_computed_again_is_seen():
    # Part 1 begins, so part 0 is stored; a worker dies in part 1, and another begins it again.
    good = [("a", 0), ("b", 0), ("a", 1), ("a", 1), ("b", 0), ("a", 2), ("a", 2)]
    assert computed_again(good) == []
    assert computed_again([*good, ("a", 1)]) == [("a", 1)]
    assert computed_again([("a", 0), ("a", 1), ("a", 0), ("a", 1)]) == [("a", 0)]
