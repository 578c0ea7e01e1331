"""worker.sbatch, as a person submits it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.studies import ROOT


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A program hpo that writes its arguments and the first signal that it gets."""
    programs = tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    program = programs / "hpo"
    program.write_text(
        f"#!{sys.executable}\n"
        "import signal, sys, time\n"
        "caught = []\n"
        "signal.signal(signal.SIGUSR2, lambda number, frame: caught.append('USR2'))\n"
        "signal.signal(signal.SIGTERM, lambda number, frame: caught.append('TERM'))\n"
        "print(*sys.argv[1:], flush=True)\n"
        "while not caught:\n"
        "    time.sleep(0.02)\n"
        "print(caught[0], flush=True)\n"
    )
    program.chmod(0o755)
    return program


@pytest.mark.slow
@pytest.mark.parametrize("found_by", ["folder", "variable", "path"])
def test_a_worker_submitted_by_hand_gets_the_warning(
    slurm_cluster, tmp_path, monkeypatch, stand_in, found_by
):
    folder = tmp_path / "studies"
    folder.mkdir()
    if found_by == "folder":
        (folder / ".venv").symlink_to(stand_in.parents[1])
    elif found_by == "variable":
        monkeypatch.setitem(slurm_cluster.env, "HPO_VENV", "../venv")
    else:
        path = f"{stand_in.parent}{os.pathsep}{os.environ['PATH']}"
        monkeypatch.setitem(slurm_cluster.env, "PATH", path)
    out = tmp_path / "out.txt"
    monkeypatch.chdir(folder)
    script = str(ROOT / "slurm" / "worker.sbatch")
    job = slurm_cluster.sbatch("--mem=100M", "-o", str(out), script, "small", "--storage", "a b")
    slurm_cluster.wait_until(lambda: out.exists() and out.read_text() != "", "it began")
    assert out.read_text() == "worker small --storage a b\n"
    shown = slurm_cluster.run("scontrol", "show", "job", job)
    assert "JobName=hpo-worker" in shown
    assert "Requeue=1" in shown
    assert "TimeLimit=01:00:00" in shown
    slurm_cluster.scancel("--batch", "--signal=USR2", job)
    slurm_cluster.wait_until(lambda: slurm_cluster.job_states()[job] == "COMPLETED", "it left")
    assert out.read_text().splitlines()[1:] == ["USR2"]


@pytest.mark.parametrize(
    ("arguments", "venv", "message"),
    [
        ([], None, "which study? sbatch slurm/worker.sbatch NAME"),
        (["small"], None, "no program hpo in {folder}/.venv/bin or on PATH"),
        (["small"], "mine", "no program hpo in {folder}/mine/bin (HPO_VENV) or on PATH"),
    ],
)
def test_a_worker_by_hand_says_what_is_missing(tmp_path, arguments, venv, message):
    env = {"PATH": "/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(tmp_path)}
    if venv:
        env["HPO_VENV"] = venv
    script = ROOT / "slurm" / "worker.sbatch"
    done = subprocess.run(
        ["bash", script, *arguments], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert message.format(folder=tmp_path) in done.stderr
    assert len(done.stderr.splitlines()) == 1
