"""Finished studies whose models rank candidates."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpo.records import Access
from hpo.spec.loading import load
from hpo.storage.backends import open_storage
from hpo.study.creation import begin
from hpo.study.record import Source, StudyRecord, find
from tests.support.pages import work
from tests.support.rankings import OBJECTIVES, STUDY, formulas, write_csv
from tests.support.studies import ROOT
from tests.support.warm import Warm


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, warm: Warm) -> Path:
    """A folder with two finished studies: `mine` with grouped folds, `mixed` with others."""
    folder = tmp_path_factory.mktemp("finished")
    rng = np.random.default_rng(1)
    rows = []
    for number, formula in enumerate(formulas(120, 0)):
        lithium = int(formula[2 : 2 + len(formula[2:]) - len(formula[2:].lstrip("0123456789"))])
        value = 10.0 ** (-8.0 + 0.5 * lithium + 0.3 * rng.normal())
        rows.append([formula, f"{value:.4g}", f"paper-{number // 4}"])
    write_csv(folder / "mine.csv", ["Material", "sigma", "paper"], rows)
    (folder / "mine.toml").write_text(STUDY.format(scheme="group_kfold"))
    (folder / "mixed.toml").write_text(STUDY.format(scheme="interleaved"))
    quick = '[estimator]\nname = "hist_gradient_boosting"\nparams.max_iter = 5\n'
    one = STUDY[: STUDY.index("[estimator]")].format(scheme="group_kfold") + quick
    one = one.replace("trials = 3", "trials = 1")
    for name, objective in OBJECTIVES.items():
        (folder / f"{name}.toml").write_text(f"{one}[objective]\n{objective}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", str(ROOT))
        warm.run("run", "mine.toml", "--workers", "1")
    storage = open_storage(f"sqlite:///{folder / 'hpo.db'}", Access.WORK)
    source = Source(str(folder / "mixed.toml"), (), None)
    table_path = find(storage, "mine").table_path
    numbers = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
    handlers = [signal.getsignal(number) for number in numbers]
    work(begin(storage, load(folder / "mixed.toml"), source, table_path))
    for name in OBJECTIVES:
        source = Source(str(folder / f"{name}.toml"), (), None)
        work(begin(storage, load(folder / f"{name}.toml"), source, table_path))
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)
    storage.remove_session()
    storage.engine.dispose()
    return folder


@pytest.fixture
def workplace(finished: Path, hpo: Callable[..., Any], tmp_path: Path) -> Path:
    """The working directory, with a storage of its own that holds the finished studies."""
    shutil.copy(finished / "hpo.db", tmp_path / "hpo.db")
    return tmp_path


@pytest.fixture
def record(workplace: Path) -> Iterator[StudyRecord]:
    storage = open_storage("sqlite:///hpo.db", Access.WORK)
    yield find(storage, "mine")
    storage.remove_session()
    storage.engine.dispose()
