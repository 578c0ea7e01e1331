"""A study on SLURM and PostgreSQL that everything happens to: exactly its budget, nothing twice."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import psycopg

from hpo.errors import HpoError, StorageError
from hpo.launch.slurm_history import DesiredWorkers, comment_of
from hpo.launch.slurm_jobs import UnwritableError
from hpo.launch.slurm_workers import BusyError, refill
from hpo.storage.events import EventKind
from hpo.storage.postgres.server import Server
from hpo.storage.urls import resolve_url
from hpo.study.record import StudyRecord
from slurm.cluster import ClusterSpec
from slurm.errors import SlurmError
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
from tests.support.chaos.objective import LEASE_S, TROUBLES, make_trouble
from tests.support.chaos.processes import MARK, Program, Struck, find_programs, wait_until_gone
from tests.support.chaos.study import BUDGET, begin_troubled
from tests.support.requirements import unavailable
from tests.support.slurm.cluster import SlurmCluster
from tests.support.studies import ROOT

FAULTS = 60
# Sections that serve the study: workers, and the shape of their jobs.
SECTIONS: dict[str, tuple[int, dict[str, Any]]] = {
    "packed": (8, {"workers_per_job": 4}),
    "gpus": (4, {"workers_per_job": 2, "gpus_per_worker": 1.0}),
    "single": (4, {}),
}
WORKERS = sum(workers for workers, _ in SECTIONS.values())

# A squeue whose answers are, while a file says so, not what the cluster says.
SQUEUE = """\
#!/bin/sh
case $(cat "$0.lie" 2>/dev/null) in
empty) exit 0 ;;
titles) %(squeue)s "$@" | head -n 1; exit 0 ;;
cut) %(squeue)s "$@" | head -c 400; exit 0 ;;
esac
exec %(squeue)s "$@"
"""


class Job(NamedTuple):
    """A job of the study in the queue."""

    job_id: str
    raw_id: str
    state: str
    submission: str


class Site:
    """Faults of a cluster and its database, while a study runs on them."""

    def __init__(
        self,
        record: StudyRecord,
        wanted: list[DesiredWorkers],
        cluster: SlurmCluster,
        server: Server,
        folder: Path,
        seed: int,
        disk: bool,
    ) -> None:
        self.record, self.wanted = record, wanted
        self.cluster, self.server, self.folder = cluster, server, folder
        self.rng = random.Random(seed)
        self.struck = Struck(str(folder))
        self.preempted: dict[str, float] = {}
        self.refused = self.most_workers = 0
        self.chaos: Chaos
        faults: dict[str, Fault] = {
            "worker killed": lambda: self.kill(self.workers()),
            "worker of a packed job killed": lambda: self.kill(self.packed_workers()),
            "launcher killed": self.kill_launcher,
            "worker stopped beyond its lease": self.freeze_worker,
            "worker and launcher stopped beyond the lease": self.freeze_both,
            "worker told to leave (USR2)": lambda: self.scancel("--signal=USR2", deadly=False),
            "worker terminated (TERM)": self.terminate,
            "warm process killed": self.kill_forkserver,
            "job suspended": self.suspend,
            "slurmstepd killed": self.kill_step,
            "slurmd killed": self.kill_slurmd,
            "slurmctld killed": self.kill_slurmctld,
            "squeue lies": self.lie,
            "PostgreSQL killed": lambda: self.restart_server(kill=True),
            "PostgreSQL restarted": lambda: self.restart_server(kill=False),
            "PostgreSQL away while workers start": self.server_away_at_start,
            "one connection killed": self.kill_backend,
            "node DOWN": self.node_down,
            "preemption": self.preempt,
            "requeue": self.requeue,
            "scancel": self.scancel,
            "two launchers at once": self.two_launchers,
            **{name: partial(make_trouble, folder, name) for name in TROUBLES},
        }
        if disk:
            faults["disk of the logs full"] = lambda: fill_disk(
                self.chaos, Path(wanted[0].logs), for_s=4.0
            )
        self.chaos = Chaos(faults, self.keep_alive, self.is_finished, seed)
        self.next_refill = 0.0

    # What a user does ---------------------------------------------------------------------

    def keep_alive(self) -> None:
        if time.monotonic() < self.next_refill:
            return
        self.next_refill = time.monotonic() + 2.0
        for node, until in self.preempted.items():
            if time.monotonic() < until:
                self.struck.strike(node=node)
        self.refill()
        self.count_workers()

    def refill(self) -> None:
        try:
            refill(self.record, self.wanted, anew=True)
        except (StorageError, SlurmError, UnwritableError):
            pass  # `hpo refill --watch` tries again
        except BusyError:
            self.refused += 1

    def is_finished(self) -> bool:
        try:
            return self.record.ledger.counts().done
        except StorageError:
            return False

    # What there is ------------------------------------------------------------------------

    def jobs(self) -> list[Job]:
        """Return the jobs of the study, as the cluster says and not what stands first on PATH."""
        shown = self.cluster.run("squeue", "-h", "-r", "-o", "%i %A %T %k", check=False)
        rows = [line.split() for line in shown.splitlines()]
        comment = comment_of(self.record)
        return [
            Job(row[0], row[1], row[2], row[3].removeprefix(f"{comment}:"))
            for row in rows
            if len(row) == 4 and row[3].startswith(comment)
        ]

    def count_workers(self) -> None:
        """Keep how many workers the jobs had that run or wait, at the most."""
        jobs = [job for job in self.jobs() if job.state in ("PENDING", "RUNNING", "SUSPENDED")]
        try:
            begun = self.record.ledger.events(EventKind.SUBMITTING)
        except StorageError:
            return
        sizes = {event["id"]: event["workers_per_job"] for event in begun}
        self.most_workers = max(self.most_workers, sum(sizes[job.submission] for job in jobs))

    def running(self) -> Job | None:
        """Return a job that runs."""
        running = sorted(job for job in self.jobs() if job.state == "RUNNING")
        return self.rng.choice(running) if running else None

    def workers(self) -> list[Program]:
        return self.struck.workers()

    def packed_workers(self) -> list[Program]:
        """Return the workers that are not the only one of their launcher."""
        workers = self.workers()
        siblings = Counter(worker.parent for worker in workers)
        return [worker for worker in workers if siblings[worker.parent] > 1]

    # Faults -------------------------------------------------------------------------------

    def kill(self, workers: list[Program]) -> bool:
        if not workers:
            return False
        pid = self.rng.choice(workers).pid
        self.struck.pids.add(pid)
        return send(pid, signal.SIGKILL)

    def kill_launcher(self) -> bool:
        workers = self.workers()
        if not workers:
            return False
        launcher = self.rng.choice(workers).parent
        self.struck.strike(launchers=[launcher])
        return send(launcher, signal.SIGKILL)

    def kill_forkserver(self) -> bool:
        found = [p.pid for p in find_programs(str(self.folder)) if p.name == "hpo-forkserver"]
        return bool(found) and send(self.rng.choice(found), signal.SIGKILL)

    def terminate(self) -> bool:
        workers = self.workers()
        return bool(workers) and send(self.rng.choice(workers).pid, signal.SIGTERM)

    def freeze_worker(self) -> bool:
        workers = self.workers()
        if not workers:
            return False
        pid = self.rng.choice(workers).pid
        self.struck.pids.add(pid)
        return freeze(self.chaos, [pid], LEASE_S + 3.0)

    def freeze_both(self) -> bool:
        workers = self.workers()
        if not workers:
            return False
        worker = self.rng.choice(workers)
        self.struck.strike(launchers=[worker.parent])
        return freeze(self.chaos, [worker.parent, worker.pid], LEASE_S + 3.0)

    def scancel(self, *options: str, deadly: bool = True) -> bool:
        job = self.running()
        if job is None:
            return False
        if deadly:
            self.struck.strike(jobs=[job.raw_id, job.job_id])
        return self.ask("scancel", *options, job.job_id)

    def requeue(self) -> bool:
        job = self.running()
        if job is None:
            return False
        self.struck.strike(jobs=[job.raw_id, job.job_id])
        return self.ask("scontrol", "requeue", job.job_id)

    def suspend(self) -> bool:
        """Suspend a job for longer than a lease, or than after what its workers are replaced."""
        job = self.running()
        if job is None:
            return False
        self.struck.strike(jobs=[job.raw_id, job.job_id])
        for_s = self.rng.choice([LEASE_S + 3.0, 2.0 * LEASE_S + 4.0])
        self.chaos.later(for_s, lambda: self.ask("scontrol", "resume", job.job_id))
        return self.ask("scontrol", "suspend", job.job_id)

    def ask(self, *command: str) -> bool:
        done = subprocess.run(command, env=self.cluster.env, capture_output=True, timeout=60)
        return done.returncode == 0

    def kill_step(self) -> bool:
        steps = self.cluster.find_steps()
        if not steps:
            return False
        pid = self.rng.choice(steps)
        # Its arguments are like `slurmstepd: [12.batch]`.
        of = re.search(r"\[(\d+)\.", Path(f"/proc/{pid}/cmdline").read_text())
        hit = self.struck.strike(jobs=[of[1]] if of else [])
        self.struck.lost_jobs |= {name for one in hit for name in (one.job, one.task)}
        return send(pid, signal.SIGKILL)

    def kill_slurmd(self) -> bool:
        node = self.rng.choice(self.cluster.nodes)
        if node not in self.cluster._slurmds:
            return False
        # SLURM may give up a node that it does not hear of.
        self.struck.strike(node=node)
        self.cluster.kill_slurmd(node)
        self.chaos.later(5.0, lambda: self.cluster.start_slurmd(node))
        return True

    def kill_slurmctld(self) -> None:
        self.cluster.kill_slurmctld()
        time.sleep(1.0)
        self.cluster.start_slurmctld()

    def lie(self) -> None:
        """Refill by answers that are not the whole queue."""
        lie = self.folder / "bin" / "squeue.lie"
        try:
            for kind in self.rng.sample(["empty", "titles", "cut"], 2):
                lie.write_text(kind)
                self.refill()
                self.count_workers()
        finally:
            lie.unlink()

    def node_down(self) -> bool:
        node = self.rng.choice(self.cluster.nodes)
        self.struck.strike(node=node)
        if not self.ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=chaos"):
            return False
        resume = ("scontrol", "update", f"NodeName={node}", "State=RESUME")
        self.chaos.later(4.0, lambda: self.ask(*resume))
        return True

    def preempt(self) -> bool:
        """Have another's job take a node, at once or as soon as that can be."""
        node = self.rng.choice(self.cluster.nodes)
        self.struck.strike(node=node)
        self.preempted[node] = time.monotonic() + 15.0
        options = ("--partition=urgent", f"--nodelist={node}", "--mem=100", "--cpus-per-task=8")
        own = ("--exclusive", "--output=/dev/null", "--wrap=sleep 3")
        job_id = self.cluster.run("sbatch", "--parsable", *options, *own, check=False).strip()
        self.chaos.later(10.0, lambda: self.ask("scancel", job_id))
        return job_id != ""

    def restart_server(self, *, kill: bool, away_s: float = 1.0) -> None:
        if kill:
            pid = int((self.server.data / "postmaster.pid").read_text().split()[0])
            os.kill(pid, signal.SIGKILL)
            psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=10)
        else:
            self.server.stop()
        time.sleep(away_s)
        self.server.start()

    def server_away_at_start(self) -> bool:
        """Submit jobs that begin while the server is away."""
        if not self.scancel():
            return False
        self.scancel()
        self.refill()
        self.restart_server(kill=False, away_s=5.0)
        return True

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
export %(mark)s=%(folder)s
case ${SLURM_ARRAY_TASK_ID:-0} in
*[147]) export FAKETIME=+3600 ;;
*[258]) export FAKETIME=-3600 ;;
esac
if [ -n "${FAKETIME:-}" ]; then
export LD_PRELOAD=%(library)s DONT_FAKE_MONOTONIC=1 PYTHONPATH=%(tests)s/support/skewed:$PYTHONPATH
fi"""


def want_workers(folder: Path, server: Server) -> list[DesiredWorkers]:
    skew = {"mark": MARK, "folder": folder, "library": find_faketime(), "tests": ROOT / "tests"}
    shared: dict[str, Any] = {
        "partition": "work",
        "memory_gb": 0.5,
        "setup": tuple((SKEW % skew).splitlines()),
    }
    return [
        DesiredWorkers(
            workers,
            ClusterSpec(name=name, **shared, **shape),
            str(server.folder),
            str(folder / "logs"),
        )
        for name, (workers, shape) in SECTIONS.items()
    ]


def lying_squeue(folder: Path) -> Path:
    """Make a folder whose squeue can lie."""
    program = folder / "bin" / "squeue"
    program.parent.mkdir()
    program.write_text(SQUEUE % {"squeue": shutil.which("squeue")})
    program.chmod(0o755)
    return program.parent


def test_a_study_on_slurm_and_postgresql_lives_through_everything(
    tmp_path, slurm_cluster, monkeypatch
):
    server = Server(tmp_path / "pg")
    try:
        server.start("127.0.0.1")
    except HpoError as exc:
        unavailable("postgresql", str(exc))
    monkeypatch.setenv("PATH", f"{lying_squeue(tmp_path)}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    record = begin_troubled(resolve_url(str(server.folder)), tmp_path)
    try:
        with small_disk(tmp_path / "logs") as disk:
            wanted = want_workers(tmp_path, server)
            site = Site(record, wanted, slurm_cluster, server, tmp_path, seed=7, disk=disk)
            began = time.monotonic()
            site.chaos.run(FAULTS, pause_s=1.5, within_s=900.0)
            # Nobody ends them: they see that the study is finished.
            left = wait_until_gone(str(tmp_path), within_s=60.0)
            print(json.dumps({"faults": dict(site.chaos.done)}, indent=1))
            print(f"wall {time.monotonic() - began:.0f} s, launchers refused {site.refused}")
            print(f"at most {site.most_workers} workers in the queue")
            slurm_cluster.wait_idle()
            print("\n".join(site.chaos.told))
            print(
                json.dumps(
                    check_deaths(record, tmp_path, site.struck.pids, site.struck.lost_jobs),
                    indent=1,
                )
            )
            print(json.dumps(check_books(record, tmp_path / "journal.txt", BUDGET), indent=1))
        parts = read_parts(tmp_path / "journal.txt")
        assert {part.gpus for part in parts} == {"0", "1", "-"}
        assert shared_too_often(parts, 1) == []
        assert left == []
        assert site.most_workers <= WORKERS
        assert sum(site.chaos.done.values()) >= FAULTS
        assert set(site.chaos.done) == set(site.chaos.faults)
    finally:
        record.storage.engine.dispose()
        server.stop()
