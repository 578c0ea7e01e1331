"""Tests of how a command begins: threads, standard streams, Ctrl-C before there is a command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpo import cli
from hpo.system.threads import VARIABLES

STUDY = """
trials = 2
[objective]
name = "tests.support.objectives:Parabola"
[space]
alpha = { type = "float", low = 0, high = 10 }
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_no_command_begins_threads_before_it_forks_workers():
    code = (
        "import contextlib, sys\n"
        "from hpo import cli\n"
        "from hpo.system.processes import count_threads\n"
        "with contextlib.suppress(SystemExit):\n"
        "    cli.main([sys.argv[1], '--help'])\n"
        "sys.stderr.write(f'{count_threads()}')\n"
    )
    environment = {key: text for key, text in os.environ.items() if key not in VARIABLES}
    for command in ("run", "resume", "worker", "nested"):
        done = subprocess.run(
            [sys.executable, "-c", code, command],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == "1", command


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_study_runs_whatever_streams_the_caller_has_closed(closed, tmp_path):
    (tmp_path / "mine.toml").write_text(STUDY)
    root = Path(__file__).resolve().parents[3]
    command = f'"{sys.executable}" -m hpo run mine.toml --workers 1 {closed}'
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0
    assert (tmp_path / "reports" / "mine" / "report.html").is_file()


def test_ctrl_c_while_a_command_is_imported_is_no_stack_trace(monkeypatch, capsys):
    def interrupt(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hpo.cli.importlib.import_module", interrupt)
    assert cli.main(["status"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


IN_A_THREAD = """
import threading
from hpo import cli
codes = []
for given in (["run", "mine.toml", "--workers", "1"], ["worker", "mine"]):
    thread = threading.Thread(target=lambda given=given: codes.append(cli.main(given)))
    thread.start()
    thread.join()
assert codes == [0, 0], codes
"""


@pytest.mark.slow
def test_a_study_runs_in_a_thread_of_a_notebook_and_a_worker_says_why_it_left(tmp_path):
    (tmp_path / "mine.toml").write_text(STUDY)
    root = Path(__file__).resolve().parents[3]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", IN_A_THREAD],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        timeout=120,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "left study 'mine': the budget is finished" in done.stderr
