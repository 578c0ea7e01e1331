"""What `hpo doctor` finds in real storages, folders and programs that answer or do not."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna
import psutil
import pytest

from hpo.cli import main
from hpo.doctor import checks, storage
from hpo.doctor.result import CheckResult, ask, examine
from hpo.doctor.storage import check_storage
from hpo.estimators import trees
from hpo.system import filesystem, resources
from hpo.system.filesystem import locate
from tests.support.requirements import unavailable

NAMES = [
    *("storage", "database latency", "clocks"),
    *("working folder", "logs folder", "tables folder", "reports folder"),
    *("slurm", "cores", "memory", "limits", "imports", "threads", "packages", "openmp"),
    *("trees", "git"),
    "weights & biases",
]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for variable in ("HPO_STORAGE", "HPO_TABLES", "HPO_REPORTS", "WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(variable, raising=False)
    # Nothing of a SLURM that this machine may have.
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    monkeypatch.setenv("PATH", str(bin_dir))


@pytest.fixture
def quick_imports(monkeypatch):
    """Do not load a worker where the test is about something else."""
    monkeypatch.setattr(checks, "_IMPORTS", "print(0.1)\nprint('[]')")


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# --- the command


def test_a_study_storage_is_well_and_left_as_it_was(begin_study, tmp_path, capsys):
    record = begin_study()
    record.storage.remove_session()
    record.storage.engine.dispose()
    before = listing(tmp_path)
    database = (tmp_path / "hpo.db").read_bytes()
    assert main(["doctor", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert [finding["name"] for finding in findings] == NAMES
    by_name = {finding["name"]: finding for finding in findings}
    for name in ("storage", "database latency", "clocks", "working folder", "threads"):
        assert by_name[name]["verdict"] in ("ok", "warning"), by_name[name]
    assert "mode wal, integrity ok" in by_name["storage"]["found"]
    assert by_name["storage"]["figures"]["free_bytes"] > 0
    assert 0 < by_name["database latency"]["figures"]["read_ms"] < 10_000
    assert abs(by_name["clocks"]["figures"]["skew_ms"]) < 1_000
    assert by_name["slurm"]["verdict"] == "not checked"
    assert set(by_name["threads"]["figures"].values()) == {1.0}
    assert listing(tmp_path) == before
    assert (tmp_path / "hpo.db").read_bytes() == database


def test_what_is_printed_is_aligned_and_remedies_stand_below(tmp_path, capsys, quick_imports):
    (tmp_path / "hpo.db").write_text("precious notes, not a database\n" * 50)
    assert main(["doctor"]) == 2
    lines = capsys.readouterr().out.splitlines()
    checks = [line for line in lines[:-1] if not line.startswith(" ")]
    assert [line[:18].strip() for line in checks] == NAMES
    assert checks[0][18:].startswith("problem      sqlite:///hpo.db: file is not a database")
    assert lines[1].startswith(" " * 31 + "→ if it was a study storage")
    assert lines[-1].startswith("18 checks: ")
    assert "1 problem" in lines[-1]
    assert (tmp_path / "hpo.db").read_text().startswith("precious notes")


def test_trees_that_are_not_compiled_are_a_warning(monkeypatch):
    monkeypatch.setattr(trees, "missing", lambda: "")
    assert [(f.name, f.verdict) for f in checks.check_trees()] == [("trees", "ok")]
    monkeypatch.setattr(trees, "missing", lambda: "compiled trees: they are gone")
    (found,) = checks.check_trees()
    assert (found.verdict, found.found) == ("warning", "compiled trees: they are gone")
    assert "several times as long" in found.remedy


# --- the storage


def test_a_storage_that_is_not_there_is_not_made(tmp_path):
    before = listing(tmp_path)
    for url in ("sqlite:///hpo.db", "sqlite:///no/such/folder/hpo.db"):
        findings = check_storage(url)
        assert [finding.verdict for finding in findings] == ["not checked"] * 3
        assert "does not exist yet" in findings[0].found
        assert "hpo run STUDY" in findings[0].remedy
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("hpo.db", "hpo.db: not a database URL"),
        ("sqlite://", "need a file to share"),
        ("nosuchdb://u:secret@h/d", "has not been tried"),
        ("postgresql+psycopg://u:secret@127.0.0.1:1/d", "onnection refused"),
        ("postgresql+nosuchdriver://u:secret@127.0.0.1:1/d", "nosuchdriver"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_a_problem(url, said):
    if "+psycopg:" in url:
        need_psycopg()
    findings = check_storage(url)
    assert [finding.verdict for finding in findings] == ["problem", "not checked", "not checked"]
    assert said in findings[0].found
    assert findings[0].remedy
    assert ("pip install" in findings[0].remedy) == ("nosuchdriver" in url)
    assert not any("secret" in str(finding) for finding in findings)


def test_a_damaged_page_is_found(begin_study, tmp_path):
    record = begin_study()
    record.storage.remove_session()
    record.storage.engine.dispose()
    path = tmp_path / "hpo.db"
    with sqlite3.connect(path) as connection:
        root = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'hpo_studies'"
        ).fetchone()[0]
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    connection.close()
    content = bytearray(path.read_bytes())
    content[(root - 1) * size : root * size] = b"\xff" * size
    path.write_bytes(content)
    findings = check_storage(f"sqlite:///{path}")
    assert findings[0].verdict == "problem"
    assert "restore a copy" in findings[0].remedy


def test_a_database_of_something_else_is_said_and_kept(tmp_path):
    path = tmp_path / "other.db"
    for mode in ("delete", "wal"):
        connection = sqlite3.connect(path)
        connection.execute(f"PRAGMA journal_mode={mode}")
        connection.execute("CREATE TABLE IF NOT EXISTS notes (text TEXT)")
        connection.close()
        before = path.read_bytes()
        finding = check_storage(f"sqlite:///{path}")[0]
        assert finding.verdict == "warning"
        assert f"mode {mode}" in finding.found
        assert "no studies in it" in finding.remedy
        assert path.read_bytes() == before


def test_a_storage_that_plain_optuna_made_keeps_its_mode(tmp_path):
    url = f"sqlite:///{tmp_path / 'plain.db'}"
    plain = optuna.storages.RDBStorage(url)
    plain.remove_session()
    plain.engine.dispose()
    before = (tmp_path / "plain.db").read_bytes()
    finding = check_storage(url)[0]
    assert finding.verdict == "warning"
    assert "mode delete" in finding.found
    assert "write-ahead mode" in finding.remedy
    assert (tmp_path / "plain.db").read_bytes() == before


def test_a_file_that_another_machine_may_be_working_on_is_not_opened(
    tmp_path, storage, monkeypatch
):
    mounts = tmp_path / "mounts"
    mounts.write_text("22 1 0:61 / / rw - nfs4 nas:/export rw\n")
    monkeypatch.setattr(filesystem, "MOUNTS", mounts)
    url = f"sqlite:///{tmp_path / 'hpo.db'}"
    with storage.read() as connection:
        storage.now(connection)
        findings = check_storage(url)
    assert [finding.verdict for finding in findings] == ["warning", "not checked", "not checked"]
    assert "nfs4 (network), and in use" in findings[0].found
    storage.remove_session()
    storage.engine.dispose()
    findings = check_storage(url)
    assert [finding.verdict for finding in findings] == ["warning", "ok", "ok"]
    assert "one machine alone" in findings[0].remedy


def test_a_file_that_another_program_holds_is_not_called_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "BUSY_S", 0.1)
    holder = sqlite3.connect(tmp_path / "hpo.db", isolation_level=None)
    holder.execute("CREATE TABLE notes (text TEXT)")
    holder.execute("BEGIN EXCLUSIVE")
    finding = check_storage(f"sqlite:///{tmp_path / 'hpo.db'}")[0]
    holder.close()
    assert finding.verdict == "problem"
    assert "locked" in finding.found
    assert "restore" not in finding.remedy


def test_a_storage_of_another_version_is_a_problem(tmp_path, storage):
    if locate(tmp_path).network is not False:
        unavailable("disk", "the temporary folder is not known to be on a local file system")
    with storage.write() as connection:
        connection.exec_driver_sql("UPDATE version_info SET schema_version = 7")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'v0.9.0.a'")
    finding = check_storage(f"sqlite:///{tmp_path / 'hpo.db'}")[0]
    assert finding.verdict == "problem"
    assert "cannot be opened" in finding.found


def test_slow_writes_and_clocks_apart_are_warned_of(monkeypatch):
    monkeypatch.setattr(storage, "SLOW_WRITE_MS", 1.0)
    slow = storage._latency(lambda: None, lambda: time.sleep(0.002))
    assert slow.verdict == "warning"
    assert slow.figures["write_ms"] >= 2.0
    assert storage._latency(lambda: time.sleep(0.002), lambda: None).verdict == "ok"
    behind = storage._clock(lambda: time.time() - 7.0, "the database's clock")
    assert behind.verdict == "warning"
    assert behind.figures["skew_ms"] == pytest.approx(-7000, abs=500)
    assert "harmless" in behind.remedy
    assert storage._clock(time.time, "the database's clock").verdict == "ok"


def need_psycopg() -> None:
    if importlib.util.find_spec("psycopg") is None:
        unavailable("psycopg", "install psycopg[binary]")


@pytest.fixture
def postgres_url():
    """The URL of a PostgreSQL server of its own, which listens on a socket in its folder."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = shutil.which("initdb", path=os.defpath) or (found[-1] if found else None)
    if initdb is None:
        unavailable("postgresql", "install the package postgresql")
    need_psycopg()
    programs = Path(initdb).resolve().parent
    # The server refuses to run as root, and its user must reach the folder.
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="hpo-test-"))
    if user:
        shutil.chown(folder, user)
    try:
        data = folder / "data"
        subprocess.run(
            [programs / "initdb", "-D", data, "-A", "trust", "-U", "me", "-N"],
            user=user,
            cwd="/",
            check=True,
            capture_output=True,
        )
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses="],
            user=user,
            cwd="/",
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 30
            ready = [str(programs / "pg_isready"), "-q", "-h", str(folder)]
            while subprocess.run(ready, check=False).returncode != 0:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield f"postgresql+psycopg://me@/postgres?host={folder}"
        finally:
            server.terminate()
            server.wait(timeout=30)
    finally:
        shutil.rmtree(folder)


def test_a_server_is_looked_at_and_left_as_it_was(postgres_url):
    import sqlalchemy as sa

    from hpo.records import Access
    from hpo.storage.backends import open_storage

    findings = check_storage(postgres_url)
    assert [finding.verdict for finding in findings] == ["ok", "ok", "ok"], findings
    assert "no studies yet" in findings[0].found
    storage = open_storage(postgres_url, Access.CREATE)
    tables = set(sa.inspect(storage.engine).get_table_names())
    storage.remove_session()
    storage.engine.dispose()
    findings = check_storage(postgres_url)
    assert [finding.verdict for finding in findings] == ["ok", "ok", "ok"], findings
    assert "of 100 connections used, fsync on, synchronous_commit on" in findings[0].found
    assert "no studies yet" not in findings[0].found
    assert findings[1].figures["write_ms"] > 0
    engine = sa.create_engine(postgres_url, poolclass=sa.NullPool)
    assert set(sa.inspect(engine).get_table_names()) == tables
    engine.dispose()


# --- folders


def test_a_folder_that_cannot_be_written_is_a_problem(tmp_path, capsys, quick_imports):
    for folder, said in (
        ("/proc/nowhere/reports", "cannot be written"),
        ("/dev/full", "is not a folder"),
        ("/dev/full/reports", "/dev/full is not a folder"),
    ):
        finding = checks.check_folder("reports folder", Path(folder))[0]
        assert finding.verdict == "problem"
        assert said in finding.found
    assert main(["doctor", "--reports", "/proc/reports", "--json"]) == 2
    findings = json.loads(capsys.readouterr().out)
    assert [f["name"] for f in findings if f["verdict"] == "problem"] == ["reports folder"]


def test_a_folder_that_is_not_made_yet_stays_so(tmp_path):
    finding = checks.check_folder("logs folder", Path("logs/deep"))[0]
    assert "(not made yet)" in finding.found
    assert finding.figures["free_bytes"] > 0
    assert listing(tmp_path) == ["bin"]


def test_little_room_is_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "FREE_BYTES", 1e18)
    finding = checks.check_folder("working folder", tmp_path)[0]
    assert finding.verdict == "warning"
    assert "little room" in finding.remedy


# --- SLURM


def program(folder: Path, name: str, script: str) -> None:
    path = folder / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_slurm_that_answers_is_described(slurm_cluster, monkeypatch):
    monkeypatch.setenv("PATH", slurm_cluster.env["PATH"])
    finding = checks.check_slurm()[0]
    assert finding.verdict == "ok"
    assert finding.found.startswith("cluster hpotest, version 2")
    assert finding.found.endswith(
        "the controller is up; arrays up to 101, preemption REQUEUE, 2 s from SIGTERM to SIGKILL, "
        "no sacct (not needed)"
    )


def test_slurm_that_refuses_or_hangs_is_said(tmp_path, monkeypatch):
    assert checks.check_slurm()[0].verdict == "not checked"
    monkeypatch.setattr(checks, "SLURM_LIMIT_S", 1.0)
    program(tmp_path, "sbatch", "exit 0")
    for script, said in (
        ("echo 'scontrol: error: no configuration' >&2; exit 1", "scontrol: no configuration"),
        ("exec /bin/sleep 1000", "scontrol gave no answer in 1 s"),
    ):
        program(tmp_path, "scontrol", script)
        finding = checks.check_slurm()[0]
        assert finding.verdict == "warning"
        assert said in finding.found


# --- the machine


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/job/step\n", {"job/cpu.max": "150000 100000", "job/step/cpu.max": "max 100000"}, 1.5),
        ("0::/job\n", {"job/cpu.max": "max 100000"}, None),
        ("0::/not/visible/here\n", {"cpu.max": "200000 100000"}, 2.0),
        (
            "4:cpuset:/\n3:cpu,cpuacct:/job\n0::/\n",
            {"cpu/job/cpu.cfs_quota_us": "50000", "cpu/job/cpu.cfs_period_us": "100000"},
            0.5,
        ),
        (
            "3:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            None,
        ),
        ("", {}, None),
    ],
)
def test_the_quota_of_cores_is_read_from_both_kinds_of_groups(
    tmp_path, membership, files, expected
):
    assert resources.cpu_quota(*groups(tmp_path, membership, files)) == expected


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        (
            "0::/job\n",
            {
                "job/memory.max": "1000",
                "job/memory.current": "700",
                "job/memory.stat": "anon 500\ninactive_file 200",
            },
            500,
        ),
        ("0::/job\n", {"job/memory.max": "max", "job/memory.current": "700"}, None),
        (
            "4:memory:/job\n",
            {
                "memory/job/memory.limit_in_bytes": "1000",
                "memory/job/memory.usage_in_bytes": "400",
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "memory/memory.usage_in_bytes": "5000",
            },
            600,
        ),
    ],
)
def test_memory_left_is_read_from_both_kinds_of_groups(tmp_path, membership, files, expected):
    assert resources.memory_left(*groups(tmp_path, membership, files)) == expected


def groups(folder: Path, membership: str, files: dict[str, str]) -> tuple[Path, Path]:
    for name, content in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (folder / "membership").write_text(membership)
    return folder / "cgroup", folder / "membership"


def test_few_cores_and_little_memory_name_the_number_of_workers(monkeypatch):
    monkeypatch.setattr(resources, "cores", lambda: resources.Cores(64, 16, 2.5))
    finding = checks.check_cores()[0]
    assert finding.verdict == "warning"
    assert finding.found == "16 of 64 usable, limited to the time of 2.5"
    assert "--workers 2" in finding.remedy
    monkeypatch.setattr(resources, "cores", lambda: resources.Cores(64, 64, None))
    monkeypatch.setattr(resources, "memory_available", lambda: 64_000_000_000)
    monkeypatch.setattr(resources, "memory_left", lambda: 4_000_000_000)
    finding = checks.check_memory()[0]
    assert finding.verdict == "warning"
    assert "--workers 8" in finding.remedy
    monkeypatch.setattr(resources, "memory_left", lambda: None)
    assert checks.check_memory()[0].verdict == "ok"


def test_the_memory_of_this_machine_is_what_psutil_says():
    available = resources.memory_available()
    assert available == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def test_low_limits_are_warned_of():
    code = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))\n"
        "from hpo.doctor.checks import check_limits\n"
        "print(check_limits()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "warning" in done.stdout
    assert "open files 200," in done.stdout
    assert "ulimit -n 1024" in done.stdout


# --- the installation


def test_packages_are_compared_with_the_lock_file(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "CHECKOUT", tmp_path)
    assert checks.check_packages()[0].verdict == "not checked"
    (tmp_path / "requirements.lock").write_text(
        "# made\n"
        "Optuna==0.0.1 \\\n    --hash=sha256:00\n"
        "no_such_package==1.0 \\\n    --hash=sha256:00\n"
        "colorama==9.9 ; sys_platform == 'win32' \\\n    --hash=sha256:00\n"
    )
    finding = checks.check_packages()[0]
    assert finding.verdict == "warning"
    assert finding.figures == {"locked": 2.0, "different": 2.0}
    assert "(locked: 0.0.1), no_such_package missing (locked: 1.0)" in finding.found
    assert "requirements.lock" in finding.remedy
    many = "".join(f"no-such-{i}==1\n" for i in range(9))
    (tmp_path / "requirements.lock").write_text(many)
    assert checks.check_packages()[0].found.endswith("no-such-4 missing (locked: 1) and 4 more")


def test_a_worker_that_does_not_load_is_a_problem(tmp_path, monkeypatch):
    broken = tmp_path / "broken" / "hpo"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('half installed')\n")
    monkeypatch.setenv("PYTHONPATH", str(broken.parent))
    monkeypatch.chdir(broken.parent)
    loading, threads = checks.check_imports()
    assert loading.verdict == "problem"
    assert "half installed" in loading.found
    assert threads.verdict == "not checked"
    (broken / "__init__.py").write_text("import time; time.sleep(1000)\n")
    monkeypatch.setattr(checks, "SLOW_IMPORT_S", 1.0)
    loading, threads = checks.check_imports()
    assert loading.verdict == "warning"
    assert "more than 1 s" in loading.found
    assert threads.verdict == "not checked"


def test_modules_that_cannot_be_compiled_once_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    assert checks._bytecode() == ("cached at first use", "")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    cached, remedy = checks._bytecode()
    assert "PYTHONDONTWRITEBYTECODE" in cached
    assert "python -m compileall -q" in remedy
    monkeypatch.setattr(sys, "pycache_prefix", "/proc/cache")
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith("/proc"))
    assert "cannot be written" in checks._bytecode()[0]


def test_a_key_is_never_shown(monkeypatch):
    assert "no WANDB_API_KEY" in checks.check_wandb()[0].found
    monkeypatch.setenv("WANDB_API_KEY", "very-secret")
    monkeypatch.setenv("WANDB_MODE", "offline")
    found = checks.check_wandb()[0].found
    assert found == "a key is set, mode offline (optional)"


def test_the_commit_is_named(tmp_path, monkeypatch):
    assert checks.check_git()[0].verdict == "not checked"
    monkeypatch.setenv("PATH", os.defpath)
    if shutil.which("git") is None:
        unavailable("git", "install git")
    monkeypatch.setattr(checks, "CHECKOUT", tmp_path)
    assert "not a checkout" in checks.check_git()[0].found
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@x"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "file").touch()
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "begin"], check=True)
    assert checks.check_git()[0].verdict == "ok"
    (tmp_path / "other").touch()
    assert checks.check_git()[0].verdict == "warning"


# --- the habits of all checks


def test_a_check_that_fails_itself_is_a_problem_and_stops_no_other(
    monkeypatch, capsys, quick_imports
):
    def fail() -> list[CheckResult]:
        raise ValueError("no such thing\nand more")

    finding = examine("thing", fail)[0]
    assert finding.verdict == "problem"
    assert finding.found == "this check failed itself: ValueError: no such thing"
    monkeypatch.setattr(checks, "check_cores", fail)
    assert main(["doctor", "--json"]) == 2
    findings = json.loads(capsys.readouterr().out)
    assert [f["name"] for f in findings] == NAMES
    assert [f["name"] for f in findings if f["verdict"] == "problem"] == ["cores"]


def test_a_program_is_asked_and_what_it_says_is_kept():
    reply = ask(["/bin/sh", "-c", "echo out; echo err >&2; exit 3"], 10.0)
    assert (reply.code, reply.out, reply.err) == (3, "out\n", "err\n")
    with pytest.raises(FileNotFoundError):
        ask(["no-such-program"], 1.0)


def test_a_server_that_never_answers_is_given_up(monkeypatch):
    need_psycopg()
    monkeypatch.setattr(storage, "CONNECT_S", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        findings = check_storage(f"postgresql+psycopg://u:secret@127.0.0.1:{port}/d")
    assert findings[0].verdict == "problem"
    assert "timeout" in findings[0].found
