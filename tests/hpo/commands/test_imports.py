"""A module that fails or leaves when it is imported is one error, whichever command imports it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.broken_studies import (
    CSV,
    LOADER,
    MODEL,
    OBJECTIVE,
    OWN_ESTIMATOR,
    OWN_OBJECTIVE,
    OWN_TABLE,
)

KINDS = {
    "objective": (OWN_OBJECTIVE, OBJECTIVE),
    "estimator": (OWN_ESTIMATOR, MODEL),
    "loader": (OWN_TABLE, LOADER),
}
BROKEN = {
    "sys.exit": ("import sys\nsys.exit(0)\n", "sys.exit(0)"),
    "os._exit": ("import os\nos._exit(0)\n", "it ends the process"),
    "signal": ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n", "killed by SIGKILL"),
    "raise": ("raise ValueError('odd')\n", "ValueError: odd"),
    "syntax": ("def f(:\n", "not valid Python"),
    "input": ("input()\n", "EOFError"),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", BROKEN)
@pytest.mark.parametrize("kind", KINDS)
def test_a_module_that_breaks_later_is_told_by_every_command(hpo, kind, way):
    text, module = KINDS[kind]
    source, reason = BROKEN[way]
    Path("x.toml").write_text(text.replace("MODULE", "mine"))
    Path("mine.csv").write_text(CSV)
    Path("mine.py").write_text(module)
    hpo("run", "x.toml", "--workers", "1")
    Path("mine.py").write_text(source)
    commands = [
        ("check", "x.toml"),
        ("run", "x.toml", "--workers", "1"),
        ("run", "x.toml", "--workers", "1", "--trials", "3"),
        ("resume", "x", "--workers", "1"),
        ("submit", "x.toml", "--workers", "0"),
    ]
    Path("clusters.toml").write_text('[here]\npartition = "p"\n')
    for command in commands:
        done = hpo(*command, code=2)
        assert "cannot import 'mine'" in done.stderr or "mine.py" in done.stderr, command
        assert reason in done.stderr, command
        assert "finished" not in done.stdout
    # What is stored can still be read, and the page says what is missing.
    assert json.loads(hpo("status", "x", "--json").stdout)["counts"]["finished"] == 2
    page = Path(hpo("report", "x").stdout.strip())
    if kind != "loader":  # a loader is not needed any more where its table is stored
        assert "cannot import" in page.read_text() or "not valid Python" in page.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["sys.exit", "raise", "syntax", "input"])
def test_a_worker_tells_it_too(hpo, way):
    source, reason = BROKEN[way]
    Path("x.toml").write_text(OWN_OBJECTIVE.replace("MODULE", "mine"))
    Path("mine.py").write_text(OBJECTIVE)
    hpo("run", "x.toml", "--workers", "1")
    hpo("budget", "x", "3")
    Path("mine.py").write_text(source)
    said = hpo("worker", "x", code=2).stderr
    log = "".join(path.read_text() for path in Path("logs/x").glob("*.log"))
    assert reason in said + log


@pytest.mark.slow
def test_what_a_module_does_at_import_leaves_the_command_as_it_was(hpo, tmp_path):
    noisy = (
        "import os, sys\nprint('loaded')\nassert sys.stdin.read() == ''\n"
        f"os.chdir({str(tmp_path.parent)!r})\n{OBJECTIVE}"
    )
    Path("x.toml").write_text(OWN_OBJECTIVE.replace("MODULE", "mine"))
    Path("mine.py").write_text(noisy)
    checked = hpo("check", "x.toml")
    assert checked.stdout == "x.toml: ok, study 'x', 1 dimension\n"
    assert "x: finished, 2 of 2 trials" in hpo("run", "x.toml", "--workers", "1").stdout
    assert Path("reports/x/report.html").is_file()
    json.loads(hpo("compare", "x", "--json").stdout)


@pytest.mark.parametrize("name", ["../../x", "nosuch", "/tmp/x", "a/b"])
@pytest.mark.parametrize(
    "command", ["worker", "resume", "report", "delete", "show", "stop", "logs"]
)
def test_a_name_is_looked_up_before_anything_is_made(hpo, command, name):
    Path("inner").mkdir()
    Path("x.toml").write_text(OWN_OBJECTIVE.replace("MODULE:Objective", "mine:Objective"))
    Path("mine.py").write_text(OBJECTIVE)
    Path("clusters.toml").write_text('[here]\npartition = "p"\n')
    hpo("submit", "x.toml", "--workers", "0")
    before = sorted(map(str, Path().rglob("*")))
    said = hpo(command, name, code=2).stderr
    assert f"holds no study '{name}'" in said
    after = sorted(map(str, Path().rglob("*")))
    assert [path for path in after if "hpo.db-" not in path] == [
        path for path in before if "hpo.db-" not in path
    ]
