"""A module that fails or leaves when it is imported is one error, whichever command imports it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpo.cli import main
from tests.support.bad_input.broken_studies import (
    CSV,
    LOADER,
    MODEL,
    OBJECTIVE,
    OWN_ESTIMATOR,
    OWN_OBJECTIVE,
    OWN_TABLE,
)
from tests.support.studies import ROOT

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

NAMING = [
    *("worker", "resume", "report", "delete", "show", "stop", "logs", "status", "budget", "refill"),
    *("provenance", "export", "rank", "compare", "wandb"),
]
CASES = [("objective", way) for way in BROKEN] + [("estimator", "os._exit"), ("loader", "os._exit")]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "way"), CASES)
def test_a_module_that_breaks_later_is_told_by_every_command(hpo, kind, way):
    text, module = KINDS[kind]
    source, reason = BROKEN[way]
    Path("x.toml").write_text(text.replace("MODULE", "mine"))
    Path("mine.csv").write_text(CSV)
    Path("mine.py").write_text(module)
    hpo("run", "x.toml", "--workers", "1")
    Path("mine.py").write_text(source)
    resume = ("resume", "x", "--trials", "3")
    # That stored code changed is known without importing it.
    changed = hpo(*resume, "--workers", "1", code=3)
    assert "code: the code that computes a score changed" in changed.stderr
    for command in (("run", "x.toml"), (*resume, "--accept", "code")):
        done = hpo(*command, "--workers", "1", code=2)
        assert reason in done.stderr, command
        assert "mine.py" in done.stderr, command
        assert "finished" not in done.stdout
    # What is stored can still be read, and the page says what is missing.
    page = Path(hpo("report", "x").stdout.strip())
    if kind == "objective":
        assert "code: the code that computes a score" in page.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["sys.exit", "raise", "syntax", "input"])
def test_a_worker_imports_no_code_that_changed(hpo, way):
    source, _ = BROKEN[way]
    Path("x.toml").write_text(OWN_OBJECTIVE.replace("MODULE", "mine"))
    Path("mine.py").write_text(OBJECTIVE)
    hpo("run", "x.toml", "--workers", "1")
    hpo("budget", "x", "3")
    Path("mine.py").write_text(source)
    said = hpo("worker", "x", code=3).stderr
    assert "code: the code that computes a score changed" in said


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
@pytest.mark.parametrize("command", NAMING)
def test_a_name_is_looked_up_before_anything_is_made(
    begin_study, command, name, tmp_path, monkeypatch, capfd, warm
):
    begin_study()
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    more = {"rank": ["c.csv"], "budget": ["3"], "compare": ["small"]}.get(command, [])
    arguments = [command, name, *more, "--storage", f"sqlite:///{tmp_path / 'hpo.db'}"]
    if command == "worker":  # it prepares its process to be forked from
        said = warm.run(*arguments, code=2).stderr
    else:
        assert main(arguments) == 2
        said = capfd.readouterr().err
    assert f"holds no study '{name}'" in said
    made = [path for path in tmp_path.rglob("*") if not path.name.startswith("hpo.db")]
    assert made == [inner]
