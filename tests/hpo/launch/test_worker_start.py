"""How workers begin: what they import, what they share, and who looks after them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from hpo.launch.processes import worker_modules
from hpo.records import Access, Claim
from hpo.report.freshness import drawn_from, is_current
from hpo.storage.backends import open_storage
from hpo.storage.events import EventKind
from hpo.storage.schema import SCHEMA_REVISION
from hpo.study.record import find
from hpo.study.snapshot import take_snapshot
from tests.support.studies import ROOT, WORKER, command, make_spec, wait_until, write_study

CHEMISTRY = {"pymatgen", "matminer", "smact", "elementembeddings", "obelix"}
DRAWING = {"matplotlib", "plotly", "PIL", "jinja2"}
HISTOGRAMS = {"estimator": {"name": "hist_gradient_boosting"}, "space": {}, "trials": 1}

# A Parabola that writes down who computes it: its process, session, files and random numbers.
PROBE = """
import json, os, random
from pathlib import Path
import numpy as np
from tests.support.objectives import Parabola

class Probe(Parabola):
    def score_part(self, params, part):
        files = {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
        line = {
            "pid": os.getpid(),
            "session": os.getsid(0),
            "python": random.random(),
            "numpy": np.random.random(),
            "files": sorted(files),
        }
        with Path("probe.jsonl").open("a") as stream:
            stream.write(json.dumps(line) + "\\n")
        return super().score_part(params, part)
"""


def modules_after(code: str, *arguments: str) -> set[str]:
    """Top-level names of what a Python has imported when it ends, whatever it prints."""
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: open('modules.txt', 'w').write('\\n'.join(sys.modules)))\n"
        f"{code}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {line.partition(".")[0] for line in Path("modules.txt").read_text().splitlines()}


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


RUN = "from hpo.cli import main; sys.exit(main(sys.argv[1:]))"


def test_help_imports_nothing_heavy():
    imported = modules_after(RUN, "--help")
    assert "hpo" in imported
    assert not imported & {"optuna", "numpy", "sqlalchemy", "pydantic", "sklearn", "pandas"}


@pytest.mark.slow
def test_a_worker_of_a_table_imports_no_chemistry_and_draws_nothing(begin_study, tmp_path):
    record = begin_study(**HISTOGRAMS)
    imported = modules_after(WORKER, f"sqlite:///{tmp_path}/hpo.db", "small")
    assert record.ledger.counts().done
    assert {"optuna", "sklearn"} <= imported
    assert not imported & (CHEMISTRY | DRAWING | {"alembic"})


@pytest.mark.slow
def test_a_launcher_computes_nothing_and_imports_nothing_to_compute_with(begin_study, tmp_path):
    record = begin_study(**HISTOGRAMS)
    imported = modules_after(RUN, "worker", "small", "--storage", f"sqlite:///{tmp_path}/hpo.db")
    assert record.ledger.counts().done
    assert not imported & (
        CHEMISTRY | DRAWING | {"alembic", "sklearn", "scipy", "pandas", "pyarrow"}
    )


def test_reading_a_table_needs_no_pandas(hand_table):
    code = "import features.table, pathlib; features.table.read(pathlib.Path(sys.argv[1]))"
    imported = modules_after(code, str(hand_table))
    assert "pyarrow" in imported
    assert not imported & (CHEMISTRY | DRAWING | {"pandas", "sklearn"})


@pytest.mark.slow
def test_the_warm_process_has_all_that_a_worker_needs_and_one_thread():
    code = (
        "from hpo.launch.forkserver import load; import os\n"
        "load(sys.argv[1:], 1)\n"
        "assert set(sys.argv[1:]) <= set(sys.modules), set(sys.argv[1:]) - set(sys.modules)\n"
        "assert len(os.listdir('/proc/self/task')) == 1\n"
    )
    imported = modules_after(code, *worker_modules(make_spec(**HISTOGRAMS)))
    assert {"optuna", "sklearn", "pyarrow"} <= imported
    assert not imported & (CHEMISTRY | DRAWING)


def test_modules_of_the_studys_own_are_left_to_each_worker():
    modules = worker_modules(make_spec(estimator={"name": "mine:Model"}, space={}, trials=1))
    assert not [name for name in modules if "mine" in name]


def test_the_schema_revision_is_that_of_optuna(storage):
    assert storage.get_head_version() == storage.get_current_version() == SCHEMA_REVISION
    assert storage.get_all_versions()


def test_all_packages_are_compiled_when_they_are_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    makefile = (ROOT / "Makefile").read_text()
    assert "python -m compileall -q $(PACKAGES)" in makefile
    found = re.search(r"^PACKAGES := (.*)$", makefile, re.MULTILINE)
    assert found is not None
    assert set(found[1].split()) == {name.removesuffix("*") for name in packages}


class Launched:
    """`hpo run` on a study that is never finished, and the processes below it."""

    def __init__(self, workers: int) -> None:
        Path("probe.py").write_text(PROBE)
        path = write_study(trials=1000, delay_s=0.2)
        text = Path(path).read_text().replace("tests.support.objectives:Parabola", "probe:Probe")
        Path(path).write_text(text)
        run = command("run", path, "--workers", str(workers))
        self.process = subprocess.Popen(run, stderr=subprocess.PIPE, text=True)
        self.parent = psutil.Process(self.process.pid)

    def workers(self) -> set[int]:
        return {child.pid for child in self.parent.children() if child.name() == "hpo-worker"}

    def warm(self) -> list[psutil.Process]:
        return [child for child in self.parent.children() if child.name() == "hpo-forkserver"]

    def lines(self) -> list[dict[str, Any]]:
        if not Path("probe.jsonl").exists():
            return []
        # The last line may be in the making.
        lines = Path("probe.jsonl").read_text().split("\n")[:-1]
        return [json.loads(line) for line in lines]

    def at_work(self) -> set[int]:
        return {line["pid"] for line in self.lines()}


@pytest.fixture
def launch():
    launched = []

    def start(workers: int) -> Launched:
        launched.append(Launched(workers))
        return launched[-1]

    yield start
    for one in launched:
        if one.process.poll() is None:
            one.process.send_signal(signal.SIGINT)
        one.process.communicate(timeout=60)


needs_forks = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux")


@pytest.mark.slow
@needs_forks
def test_forked_workers_have_ids_logs_random_numbers_and_connections_of_their_own(launch):
    run = launch(3)
    wait_until(lambda: len(run.at_work()) == 3)
    (warm,) = run.warm()
    database = str(Path("hpo.db").resolve())
    assert warm.num_threads() == 1
    assert not [file for file in warm.open_files() if database in file.path]
    first: dict[int, dict[str, Any]] = {}
    for line in run.lines():
        first.setdefault(line["pid"], line)
    assert set(first) == run.workers()
    for pid, line in first.items():
        # A session each: Ctrl-C in the terminal does not reach it.
        assert line["session"] == pid
        assert database in line["files"]
        logs = [file for file in line["files"] if file.endswith(".log")]
        assert len(logs) == 1
    for what in ("python", "numpy"):
        assert len({line[what] for line in first.values()}) == 3
    assert len({file for line in first.values() for file in line["files"] if ".log" in file}) == 3
    run.process.send_signal(signal.SIGINT)
    _, said = run.process.communicate(timeout=60)
    assert run.process.returncode == 130
    assert "nothing is lost" in said
    assert not any(psutil.pid_exists(pid) for pid in (*first, warm.pid))


@pytest.mark.slow
@needs_forks
def test_who_is_killed_is_replaced_and_nobody_outlives_the_launcher(launch):
    run = launch(2)
    wait_until(lambda: len(run.at_work()) == 2)
    before = run.at_work()
    killed = min(before)
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: len(run.at_work()) == 3)
    assert killed not in run.workers()
    # Workers do not need the process that they were forked from; without it the next is started.
    (warm,) = run.warm()
    warm.kill()
    (survivor, replaced) = run.workers()
    os.kill(replaced, signal.SIGKILL)
    wait_until(lambda: len(run.at_work()) == 4)
    assert survivor in run.workers()
    everybody = [*map(psutil.Process, run.workers())]
    run.process.kill()
    run.process.wait()
    assert not psutil.wait_procs(everybody, timeout=30)[1]
    attempts: dict[int, int] = defaultdict(int)
    for line in run.lines():
        attempts[line["pid"]] += 1
    assert attempts[survivor] > attempts[killed]


def cheap_study(trials: int = 2) -> str:
    """A study over a table with folds, in the working directory."""
    lines = [f"Li{n}{element}O{n},{n}" for element in ("Na", "K", "Mg", "Ca") for n in (1, 2, 3)]
    Path("mine.csv").write_text("\n".join(["formula,target", *lines]) + "\n")
    Path("t.toml").write_text(
        f"""
        trials = {trials}
        [table]
        dataset = "csv"
        path = "mine.csv"
        families = ["ratios"]
        [cv]
        scheme = "kfold"
        folds = 2
        [estimator]
        name = "ridge"
        [space]
        alpha = {{ type = "float", low = 0.001, high = 10.0, log = true }}
        """
    )
    return "t.toml"


# A model whose first worker takes the table away and dies, and whose second one brings it back.
VANISHING = """
import os, signal
from pathlib import Path
from sklearn.linear_model import Ridge

class Model(Ridge):
    def fit(self, X, y):
        (manifest,) = Path("tables").glob("*/manifest.json")
        table, away = manifest.with_name("table.parquet"), Path("away.parquet")
        if table.exists() and not Path("died").exists():
            Path("died").touch()
            table.rename(away)
            os.kill(os.getpid(), signal.SIGKILL)
        if away.exists():
            away.rename(table)
        return super().fit(X, y)
"""


@pytest.mark.slow
@needs_forks
def test_forked_workers_take_the_table_from_memory(hpo):
    path = Path(cheap_study(trials=1))
    Path("vanishing.py").write_text(VANISHING)
    path.write_text(path.read_text().replace('"ridge"', '"vanishing:Model"'))
    hpo("run", str(path), "--workers", "1")
    assert Path("died").exists()
    assert not Path("away.parquet").exists()


@pytest.mark.slow
def test_a_report_that_shows_all_is_not_drawn_again_and_any_other_is(hpo, tmp_path):
    path, page = cheap_study(), Path("reports/t/report.html")
    hpo("run", path, "--workers", "1")
    drawn = page.stat().st_mtime_ns
    imported = modules_after(RUN, "run", path)
    assert page.stat().st_mtime_ns == drawn
    assert not imported & (CHEMISTRY | DRAWING | {"sklearn", "alembic"})
    storage = open_storage("sqlite:///hpo.db", Access.WORK)
    record = find(storage, "t")
    assert is_current(take_snapshot(record), page.parent)
    figure = next(page.parent.glob("figures/*.svg"))
    figure.rename("elsewhere.svg")
    assert not is_current(take_snapshot(record), page.parent)
    Path("elsewhere.svg").rename(figure)
    with storage.write() as connection:
        storage.record_event(
            connection, record.study_id, EventKind.ACCEPTED, part="code", before="1", now="2"
        )
    assert not is_current(take_snapshot(record), page.parent)
    storage.engine.dispose()
    hpo("run", path)
    assert page.stat().st_mtime_ns > drawn


def test_whatever_changes_of_a_study_changes_what_its_report_is_drawn_from(begin_study):
    record = begin_study(trials=4)

    def claim_one() -> Claim:
        claim = record.ledger.claim("w")
        assert isinstance(claim, Claim)
        return claim

    changes: dict[str, Callable[[], object]] = {
        "a trial begins": claim_one,
        "it is told": lambda: record.ledger.finish(claim_one(), {"score": 1.0}),
        "another is pruned": lambda: record.ledger.finish(
            claim_one(), {"score": 2.0}, pruned="no better"
        ),
        "one fails": lambda: record.ledger.fail(claim_one(), "why"),
        "the budget": lambda: record.ledger.set_budget(9),
        "a stop": lambda: record.ledger.stop("gently"),
        "a look": lambda: record.ledger.record(EventKind.TEST_EVALUATION, {"trial": 0}),
    }
    seen = [drawn_from(take_snapshot(record))]
    for what, change in changes.items():
        change()
        now = drawn_from(take_snapshot(record))
        assert now not in seen, what
        assert now == drawn_from(take_snapshot(record))
        seen.append(now)


@pytest.mark.slow
def test_a_finished_study_that_changed_is_still_refused(hpo):
    path = write_study(trials=1, delay_s=0.0)
    hpo("run", path, "--workers", "1")
    Path(path).write_text(Path(path).read_text().replace("high = 10.0", "high = 5.0"))
    assert "space: the search space changed" in hpo("run", path, code=3).stderr
