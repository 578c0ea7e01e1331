"""Code that a stored study names: imported by whoever began it, and by others only if they ask."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from hpo.plugins import find_module
from hpo.records import TRUST, Access
from hpo.spec.loading import load
from hpo.storage.backends import open_storage
from hpo.storage.schema import STUDIES
from hpo.study.identity.fingerprint import hash_own_code
from hpo.study.identity.provenance import user_name

MODULE = '''"""Says that it was imported."""

from pathlib import Path

from helper import double
from sklearn.linear_model import Ridge

Path("imported").touch()


class Objective:
    direction = "minimize"
    score_name = "x"
    parts = ("all",)
    splits_hash = ""

    def __init__(self, table, *, seed):
        pass

    def score_part(self, params, part):
        return {"score": double(params["x"])}

    def combine(self, parts):
        return {"score": parts[0]["score"]}


class Model(Ridge):
    pass
'''
HELPER = "def double(x):\n    return 2 * x\n"
STUDY = """
trials = 2
[objective]
name = "mine:Objective"
[space]
x = { type = "float", low = 0.0, high = 1.0 }
"""
RANKED = """
trials = 2
[table]
dataset = "csv"
path = "mine.csv"
target = "gap"
formula = "formula"
families = ["stoichiometry"]
[cv]
scheme = "kfold"
folds = 2
[estimator]
name = "mine:Model"
[space]
alpha = { type = "float", low = 0.001, high = 10.0, log = true }
"""
# Commands that need the code of a study, and those that do without.
NEED = {
    "report": ("report", "x"),
    "worker": ("worker", "x"),
    "resume": ("resume", "x", "--trials", "4", "--workers", "1"),
}
DO_WITHOUT = {
    "compare": ("compare", "x"),
    "status": ("status", "x"),
    "provenance": ("provenance", "x"),
    "logs": ("logs", "x"),
    "export": ("export", "x"),
    "simulate": ("simulate", "--study", "x", "--workers", "2", "--trials", "4"),
    "budget": ("budget", "x", "3"),
}


@pytest.fixture
def finished(hpo, monkeypatch):
    """A finished study of a module of its own, in the working directory."""
    Path("mine.py").write_text(MODULE)
    Path("helper.py").write_text(HELPER)
    Path("x.toml").write_text(STUDY)
    monkeypatch.delenv(TRUST, raising=False)
    hpo("run", "x.toml", "--workers", "1")
    Path("imported").unlink()
    return hpo


def begun_by(user: str | None) -> None:
    """Let another user have begun the study, or a version that did not say who."""
    storage = open_storage("sqlite:///hpo.db", Access.WORK)
    with storage.write() as c:
        origin = json.loads(c.execute(STUDIES.select()).one().provenance)
        if user is None:
            del origin["user"], origin["code"]
        else:
            assert origin["user"] == user_name()
            origin["user"] = user
        c.execute(STUDIES.update().values(provenance=json.dumps(origin)))
    storage.engine.dispose()


def told(done):
    """What a command said; a worker says it in its log."""
    return done.stderr + "".join(path.read_text() for path in Path("logs/x").glob("*.log"))


@pytest.mark.slow
@pytest.mark.parametrize("user", ["alice", None])
def test_code_of_another_users_study_is_imported_only_if_that_is_said(finished, user):
    begun_by(user)
    finished("budget", "x", "3")
    for command in NEED.values():
        said = told(finished(*command, code=2))
        for word in (user or "did not record", "'mine'", str(Path("mine.py").resolve()), TRUST):
            assert word in said, command
    for command in DO_WITHOUT.values():
        finished(*command)
    assert not Path("imported").exists()
    for command in NEED.values():
        done = finished(*command, "--trust")
        assert Path("imported").exists(), (command, done)
        Path("imported").unlink()


def went_on_by(user):
    """Let a study look as if another user had gone on with it."""
    storage = open_storage("sqlite:///hpo.db", Access.WORK)
    with storage.write() as c:
        c.exec_driver_sql(
            "UPDATE hpo_events SET detail = replace(detail, ?, ?)",
            (f'"user": "{user_name()}"', f'"user": "{user}"'),
        )
    storage.engine.dispose()


@pytest.mark.slow
def test_a_callback_that_another_user_added_is_imported_only_if_that_is_said(finished):
    Path("after.py").write_text(
        "from pathlib import Path\nPath('called').touch()\ndef note(study, trial):\n    pass\n"
    )
    callback = ("--set", "callbacks=['after:note']")
    finished("run", "x.toml", "--trials", "3", "--workers", "1", *callback)
    went_on_by("alice")
    Path("called").unlink()
    assert "--trust" in finished(*NEED["report"], code=2).stderr
    assert not Path("called").exists()
    finished(*NEED["report"], "--trust")


@pytest.mark.slow
def test_whoever_went_on_with_a_study_is_not_asked_again(finished):
    begun_by("alice")
    finished(*NEED["resume"], "--trust")
    finished("report", "x")
    # Alice accepts other code: what was trusted is no longer what would run.
    Path("helper.py").write_text(HELPER.replace("2 *", "3 *"))
    finished("run", "x.toml", "--trials", "5", "--accept", "code", "--workers", "1")
    went_on_by("alice")
    assert "--trust" in finished("report", "x", code=2).stderr


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["mine.py", "helper.py"])
def test_changed_code_is_not_imported_to_find_out_that_it_changed(finished, changed):
    finished("budget", "x", "3")
    text = Path(changed).read_text()
    Path(changed).write_text(f"# a comment alone changes nothing\n{text}")
    finished("worker", "x")
    Path("imported").unlink()
    finished("budget", "x", "4")
    Path(changed).write_text(f"{text}\nprint('changed')\n")
    for name in ("worker", "resume"):
        said = told(finished(*NEED[name], code=3))
        assert "code: the code that computes a score changed" in said
    finished(*NEED["report"])
    assert "code: the code that computes a score" in Path("reports/x/report.html").read_text()
    assert not Path("imported").exists()


@pytest.mark.slow
def test_a_model_of_another_users_estimator_is_neither_fitted_nor_loaded(finished):
    rows = "\n".join(f"Li{i}O,{i / 3}" for i in range(1, 30))
    Path("mine.csv").write_text(f"formula,gap\n{rows}\n")
    Path("y.toml").write_text(RANKED)
    finished("run", "y.toml", "--workers", "1")
    rank = ("rank", "y", "mine.csv")
    finished(*rank)
    Path("imported").unlink()
    storage = open_storage("sqlite:///hpo.db", Access.WORK)
    with storage.write() as c:
        c.exec_driver_sql(
            "UPDATE hpo_studies SET provenance = replace(provenance, ?, ?)",
            (f'"user": "{user_name()}"', '"user": "alice"'),
        )
    storage.engine.dispose()
    # The scores that the report of its owner has evaluated are read, not computed.
    finished("compare", "y")
    for refused in (rank, (*rank, "--refit"), ("report", "y")):
        assert "[estimator] name names code" in finished(*refused, code=2).stderr
        assert not Path("imported").exists()
    finished(*rank, "--trust")


def test_modules_are_found_and_hashed_without_importing_anything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("pack", "pack/inner"):
        Path(name).mkdir()
        Path(name, "__init__.py").write_text("raise SystemExit('imported')\n")
    Path("pack/inner/mine.py").write_text("from pack.inner import beside\n1 / 0\n")
    Path("pack/inner/beside.py").write_text("x = 1\n")
    Path("x.toml").write_text(STUDY.replace("mine:", "pack.inner.mine:"))
    spec, folders = load(Path("x.toml"), ()), (tmp_path,)
    before = set(sys.modules)
    found = find_module("pack.inner.mine", folders)
    assert found is not None
    assert found.origin == str(tmp_path / "pack/inner/mine.py")
    assert find_module("pack.inner.none", folders) is None
    assert find_module("none.inner", folders) is None
    hashes = {hash_own_code(spec, folders)}
    for name in ("pack/__init__.py", "pack/inner/__init__.py", "pack/inner/beside.py"):
        with Path(name).open("a") as stream:
            stream.write("y = 2\n")
        hashes.add(hash_own_code(spec, folders))
    assert len(hashes) == 4
    assert not {name for name in set(sys.modules) - before if name.startswith("pack")}
