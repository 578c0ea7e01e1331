"""What `hpo doctor` finds in folders, on machines and of programs that answer or do not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hpo.cli import main
from hpo.doctor import checks
from hpo.doctor.result import CheckResult, ask, examine
from hpo.estimators import trees
from hpo.estimators.suitability import SUITABLE, declined
from hpo.system import resources
from tests.support.folders import listing
from tests.support.requirements import unavailable

NAMES = [
    *("storage", "database latency", "clocks"),
    *("working folder", "logs folder", "tables folder", "reports folder"),
    *("slurm", "cores", "memory", "limits", "imports", "threads", "packages", "openmp"),
    *("trees", "git"),
    "weights & biases",
]


@pytest.mark.slow
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
    monkeypatch.setattr(trees, "installed", lambda: SUITABLE)
    assert [(f.name, f.verdict) for f in checks.check_trees()] == [("trees", "ok")]
    monkeypatch.setattr(trees, "installed", lambda: declined("compiled trees: they are gone"))
    (found,) = checks.check_trees()
    assert (found.verdict, found.found) == ("warning", "compiled trees: they are gone")
    assert "4 to 5 times as long" in found.remedy


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


@pytest.mark.slow
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


@pytest.mark.slow
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
