"""A private SLURM cluster of four virtual nodes, for tests: real daemons, all on this machine.

It needs no systemd, no munge, no cgroups and no root. Everything lives in one temporary folder,
and everything that it starts is ended by its process id.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PACKAGES = "slurmctld slurmd slurm-client slurm-wlm-basic-plugins"
# An ordinary user's PATH has no sbin.
SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])

# What is shorter than on a real cluster: a requeued job waits `cred_expire` (default 120 s), a
# killed one KillWait (30 s), a silent node is given up after SlurmdTimeout (300 s), a silent
# controller in about MessageTimeout (10 s).
CONFIGURATION = """\
ClusterName=hpotest
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1000
GresTypes=gpu
KillWait=2
MessageTimeout=4
MinJobAge=60
SlurmdTimeout=10
ReturnToService=2
MaxArraySize=101
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=work Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE MaxTime=INFINITE
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE
"""
NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=8 RealMemory=40000"
    " Gres=gpu:2"
)


def find_missing() -> list[str]:
    """Return the programs of SLURM that this machine lacks."""
    programs = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
    return [name for name in programs if shutil.which(name, path=SEARCH) is None]


class SlurmCluster:
    """A running cluster: partition `work` (the default) and `urgent`, which preempts it.

    Attributes
    ----------
    folder
        Holds slurm.conf, the logs of the daemons and their state; short, for socket paths.
    env
        The environment that SLURM's commands need to find this cluster.
    nodes
        Names of the nodes, 8 processors each.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.nodes = ["n1", "n2", "n3", "n4"]
        self.env = os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf")}
        self._slurmctld: subprocess.Popen[bytes] | None = None
        self._slurmds: dict[str, subprocess.Popen[bytes]] = {}
        self._write_configuration()

    def _write_configuration(self) -> None:
        host = socket.gethostname().split(".")[0]
        ports = _free_ports(len(self.nodes) + 1)
        self._port = ports.pop()
        self._node_ports = dict(zip(self.nodes, ports, strict=True))
        nodes = [
            NODE.format(name=name, host=host, port=port) for name, port in self._node_ports.items()
        ]
        (self.folder / "state").mkdir()
        for name in self.nodes:
            (self.folder / f"spool-{name}").mkdir()
        # Two GPUs on each node that are any devices.
        gpus = "Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n"
        (self.folder / "gres.conf").write_text(gpus)
        (self.folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                host=host,
                port=self._port,
                user=_user_name(),
                folder=self.folder,
                nodes="\n".join(nodes),
            )
        )

    def start(self) -> None:
        """Start every daemon and return when all nodes are idle."""
        self.start_slurmctld()
        for name in self.nodes:
            self.start_slurmd(name)
        self.wait_until(lambda: set(self.node_states().values()) == {"idle"}, "nodes are idle")

    def stop(self) -> None:
        """End every daemon and every job, also those whose slurmd is gone; remove the folder."""
        for process in [*self._slurmds.values(), self._slurmctld]:
            if process is not None:
                process.terminate()
        for process in [*self._slurmds.values(), self._slurmctld]:
            if process is not None:
                _end(process)
        self._kill_jobs()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_slurmctld(self) -> None:
        """Start the controller; it takes up the state that an earlier one left."""
        self._slurmctld = self._spawn("slurmctld", "-D")
        self.wait_until(self._answers, "the controller answers")

    def kill_slurmctld(self) -> None:
        """Kill the controller with SIGKILL: squeue, sbatch and the others fail from now on."""
        assert self._slurmctld is not None
        self._slurmctld.kill()
        self._slurmctld.wait()
        self._slurmctld = None

    def start_slurmd(self, node: str) -> None:
        """Start the daemon of a node, and return when it listens.

        What the controller tells a node before that, such as to end a job, is told again only
        minutes later.
        """
        self._slurmds[node] = self._spawn("slurmd", "-D", "-N", node)
        self.wait_until(lambda: _listens(self._node_ports[node]), f"{node} listens")

    def kill_slurmd(self, node: str) -> None:
        """Kill the daemon of a node with SIGKILL; its jobs go on and nobody hears of them."""
        process = self._slurmds.pop(node)
        process.kill()
        process.wait()

    def set_node(self, node: str, state: str) -> None:
        """Set the state of a node: DOWN requeues what runs on it, RESUME brings it back."""
        self.run("scontrol", "update", f"NodeName={node}", f"State={state}", "Reason=test")

    def node_states(self) -> dict[str, str]:
        """Return what sinfo says of every node."""
        words = self.run("sinfo", "-h", "-N", "-p", "work", "-o", "%N %T").split()
        return dict(zip(words[::2], words[1::2], strict=True))

    def sbatch(self, *arguments: str) -> str:
        """Submit a job and return its id."""
        return self.run("sbatch", "--parsable", *arguments).strip()

    def scancel(self, *arguments: str) -> None:
        """Run scancel."""
        self.run("scancel", *arguments)

    def requeue(self, job_id: str) -> None:
        """Put a job back into the queue."""
        self.run("scontrol", "requeue", job_id)

    def job_states(self) -> dict[str, str]:
        """Return the state of every job that squeue still knows, by job id such as `12_3`."""
        words = self.run("squeue", "-h", "-r", "-t", "all", "-o", "%i %T").split()
        return dict(zip(words[::2], words[1::2], strict=True))

    def wait_idle(self) -> None:
        """Cancel every job, bring every node back, and return when nothing runs any more.

        Steps that do not end, such as one whose controller was gone when it had to report, are
        killed after a few seconds.
        """
        if self._slurmctld is None:
            self.start_slurmctld()
        for node in self.nodes:
            if node not in self._slurmds:
                self.start_slurmd(node)
        self.run("scancel", "-u", _user_name())
        grace_until = time.monotonic() + 5

        def is_idle() -> bool:
            if time.monotonic() > grace_until:
                self._kill_jobs()
            self._resume_nodes()
            return (
                set(self.node_states().values()) == {"idle"}
                and not self.run("squeue", "-h").strip()
                and not self.find_steps()
            )

        self.wait_until(is_idle, "all is idle", within_s=90)

    def _kill_jobs(self) -> None:
        for pid in [*self.find_steps(), *self.find_tasks()]:
            _kill(pid)

    def _resume_nodes(self) -> None:
        for node, state in self.node_states().items():
            if state.startswith(("down", "drain")):
                # A node also comes back by itself, as soon as its daemon registers.
                resume = ("scontrol", "update", f"NodeName={node}", "State=RESUME")
                self.run(*resume, check=False)

    def find_steps(self, job_id: str | None = None) -> list[int]:
        """Return the process ids of this cluster's slurmstepds, or of one job's (its raw id)."""
        sockets = self._step_sockets(job_id)
        return [
            pid
            for pid in _processes()
            if _read(f"/proc/{pid}/cmdline").startswith(b"slurmstepd")
            and sockets & _open_sockets(pid)
        ]

    def find_tasks(self, job_id: str | None = None) -> list[int]:
        """Return the process ids of what jobs of this cluster run, or one job (its raw id)."""
        conf = f"SLURM_CONF={self.env['SLURM_CONF']}".encode()
        found = []
        for pid in _processes():
            variables = _read(f"/proc/{pid}/environ").split(b"\0")
            jobs = {item for item in variables if item.startswith(b"SLURM_JOB_ID=")}
            wanted = {f"SLURM_JOB_ID={job_id}".encode()} if job_id else jobs
            if conf in variables and jobs & wanted and pid != os.getpid():
                found.append(pid)
        return found

    def _step_sockets(self, job_id: str | None) -> set[str]:
        """Inodes of the sockets on which slurmstepds listen, named SPOOL/NODE_JOB.STEP."""
        inodes = set()
        for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
            fields = line.split()
            path = Path(fields[-1])
            if path.parent.parent == self.folder and re.fullmatch(
                rf"\w+_{job_id or r'[0-9]+'}\.\S+", path.name
            ):
                inodes.add(fields[6])
        return inodes

    def run(self, *command: str, check: bool = True) -> str:
        """Run one of SLURM's commands and return what it prints."""
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def wait_until(
        self, condition: Callable[[], bool], what: str, within_s: float = 30, poll_s: float = 0.05
    ) -> None:
        """Return as soon as a condition holds; fail with the daemons' logs if it never does."""
        deadline = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {within_s} s not true: {what}\n{self._logs()}")
            time.sleep(poll_s)

    def _answers(self) -> bool:
        if self._slurmctld is not None and self._slurmctld.poll() is not None:
            raise RuntimeError(f"slurmctld has ended\n{self._logs()}")
        return _listens(self._port) and " UP" in self.run("scontrol", "ping", check=False)

    def _logs(self) -> str:
        tails = []
        for log in sorted(self.folder.glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()[-15:]
            tails.append("\n".join([f"--- {log.name}", *lines]))
        return "\n".join(tails)

    def _spawn(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        found = shutil.which(program, path=SEARCH)
        assert found is not None, program
        # Should the tests be killed, the daemons end with them.
        guard = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
        with (self.folder / f"{program}.out").open("ab") as out:
            return subprocess.Popen(
                [*guard, found, *arguments],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )


@contextlib.contextmanager
def running_cluster() -> Iterator[SlurmCluster]:
    """Run a cluster of one's own; SLURM's commands in this process find it as well."""
    cluster = SlurmCluster()
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = cluster.env["SLURM_CONF"]
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        if before is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = before


def _user_name() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def _free_ports(n: int) -> list[int]:
    """Ports below the range that the system hands out for outgoing connections."""
    ports: list[int] = []
    for port in random.SystemRandom().sample(range(20000, 32000), 500):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            ports.append(port)
        if len(ports) == n:
            break
    return ports


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:  # it has ended, or it is another user's
        return b""


def _open_sockets(pid: int) -> set[str]:
    inodes = set()
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                inodes.update(re.findall(r"socket:\[(\d+)\]", str(link.readlink())))
    return inodes


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
