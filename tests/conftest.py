"""What the tests share: real data, small tables and studies of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import features.table
from features.table import Column, Target
from hpo.errors import HpoError
from hpo.records import Access
from hpo.storage.backends import open_storage
from hpo.storage.postgres.server import Server
from hpo.storage.storage import StudyStorage
from hpo.study.creation import begin
from hpo.study.record import Source, StudyRecord
from hpo.system.threads import use_threads
from tests.support.databases import fresh_database
from tests.support.pages import draw_in_one_format
from tests.support.requirements import SHARED_DATA, unavailable
from tests.support.slurm.cluster import PACKAGES, SlurmCluster, find_missing, running_cluster
from tests.support.studies import ROOT, make_spec
from tests.support.warm import Warm

# What a fixture needs is a marker of the tests that ask for it.
NEEDS = {
    "slurm_cluster": "slurm",
    "postgres_server": "postgresql",
    "browser": "chromium",
    # Tables and studies that a whole file shares.
    "build_obelix": "slow",
    "finished": "slow",
    "finished_study": "slow",
    "physics": "slow",
}


def pytest_configure() -> None:
    """Fit with one thread, as every command does."""
    use_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by what they ask for and where they are, so that some can be left out."""
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if fixture in NEEDS:
                item.add_marker(NEEDS[fixture])
        # A parameter may ask for a server, too.
        callspec = getattr(item, "callspec", None)
        if callspec is not None and "postgresql" in callspec.params.values():
            item.add_marker("postgresql")
        if "end_to_end" in item.path.parts:
            item.add_marker("slow")


@pytest.fixture(scope="session")
def obelix_dir() -> Path:
    """The OBELiX data set, read from where it lies."""
    folder = SHARED_DATA / "obelix"
    if not (folder / "train.csv").is_file():
        unavailable("data", f"no OBELiX in {folder}; set HPO_TEST_DATA to the folder above it")
    return folder


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[SlurmCluster]:
    """A real SLURM of four virtual nodes, which every command of this process finds."""
    missing = find_missing()
    if missing:
        unavailable("slurm", f"no {', '.join(missing)}; Debian's packages are {PACKAGES}")
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def hand_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 80 training and 20 held-out rows in 25 groups, with a learnable target."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 4))
    y = X[:, 0] * 2.0 + np.sin(3.0 * X[:, 1]) + 0.1 * rng.normal(size=100)
    return features.table.write(
        tmp_path_factory.mktemp("tables"),
        dataset="hand",
        ids=[f"row-{i}" for i in range(100)],
        formulas=["Li2O"] * 100,
        X=X,
        y=y,
        groups=[f"group-{i % 25}" for i in range(100)],
        is_train=np.arange(100) < 80,
        columns=[Column(f"x{i}", "made") for i in range(4)],
        target=Target("y", "eV"),
    )


@pytest.fixture
def hpo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm: Warm) -> Callable[..., Any]:
    """Run `hpo ARGUMENTS` in an empty folder, as a user does: see `tests.support.warm`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for variable in [name for name in os.environ if name.startswith(("HPO_", "WANDB_"))]:
        if not variable.startswith("HPO_TEST_"):
            monkeypatch.delenv(variable)
    return warm.run


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """What commands are forked from."""
    running = Warm()
    yield running
    running.end()


@pytest.fixture(autouse=True)
def figures_in_one_format() -> Iterator[None]:
    """Draw the figures of reports once: see `tests.support.pages`."""
    # Of its own: what a test itself patches is undone before its other fixtures end.
    with pytest.MonkeyPatch.context() as patch:
        draw_in_one_format(patch)
        yield


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A PostgreSQL server of the tests' own, made as `hpo db start` does."""
    server = Server(tmp_path_factory.mktemp("postgresql") / "server")
    try:
        server.start("127.0.0.1", settings={"fsync": "off"})
    except HpoError as exc:
        unavailable("postgresql", str(exc))
    yield server
    server.stop()


@pytest.fixture
def postgres_url(postgres_server: Server) -> Iterator[str]:
    """The URL of an empty database on PostgreSQL."""
    with fresh_database(postgres_server) as url:
        yield url


@pytest.fixture(scope="module")
def shared_postgres_url(postgres_server: Server) -> Iterator[str]:
    """The URL of a database on PostgreSQL for all tests of a file."""
    with fresh_database(postgres_server) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty storage, of each kind."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path / 'hpo.db'}"


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[StudyStorage]:
    """An empty storage in a SQLite file of its own."""
    opened = open_storage(f"sqlite:///{tmp_path / 'hpo.db'}", Access.CREATE)
    yield opened
    opened.remove_session()
    opened.engine.dispose()


@pytest.fixture
def begin_study(
    storage: StudyStorage, hand_table: Path, tmp_path: Path
) -> Callable[..., StudyRecord]:
    """Begin a study over the hand-made table; keyword arguments replace fields of its file."""

    def begin_with(
        accept: tuple[str, ...] = (), strict: bool = False, **changes: Any
    ) -> StudyRecord:
        spec = make_spec(**changes)
        source = Source(str(tmp_path / "small.toml"), (), None)
        table = hand_table if spec.table else None
        return begin(storage, spec, source, table, accept, strict=strict)

    return begin_with
