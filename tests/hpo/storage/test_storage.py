"""The storage that workers share: Optuna's own contract, and what Optuna does not promise."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sqlite3
import time
import warnings

import optuna
import pytest
from optuna.testing.pytest_storages import StorageTestCase
from optuna.trial import TrialState

from hpo.errors import StorageError
from hpo.records import Access
from hpo.storage.backends import open_storage
from tests.support.databases import fresh_database


class TestOptunaContract(StorageTestCase):
    """Optuna's tests of any storage, over what we open."""


@pytest.fixture(scope="module")
def on_postgresql(postgres_server):
    """One storage for many tests: a database for each of them takes long to make."""
    with fresh_database(postgres_server) as url:
        opened = open_storage(url, Access.CREATE)
        yield opened
        opened.engine.dispose()


class TestOptunaContractOnPostgresql(StorageTestCase):
    """The same over PostgreSQL."""

    @pytest.fixture
    def storage(self, on_postgresql, request):
        with on_postgresql.write() as c:
            c.exec_driver_sql("TRUNCATE studies RESTART IDENTITY CASCADE")
        yield on_postgresql
        on_postgresql.remove_session()
        if "pickle" in request.node.name:
            # The copy's connection is left open.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                gc.collect()


def pop_waiting(url: str, study_name: str, start, results) -> None:
    study = optuna.load_study(study_name=study_name, storage=open_storage(url, Access.WORK))
    start.wait()
    for _ in range(20):
        trial = study.ask()
        if trial.number < 30:
            results.put(trial.number)


@pytest.mark.slow
def test_no_enqueued_trial_is_run_twice(url):
    # Plain Optuna on SQLite hands 27 to 42 of 120 enqueued trials to two workers.
    storage = open_storage(url, Access.CREATE)
    study = optuna.create_study(study_name="s", storage=storage)
    for x in range(30):
        study.enqueue_trial({"x": x})
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(4), context.Queue()
    workers = [
        context.Process(target=pop_waiting, args=(url, "s", start, results)) for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    popped = [results.get(timeout=60) for _ in range(30)]
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    assert sorted(popped) == list(range(30))
    assert results.empty()
    storage.remove_session()
    storage.engine.dispose()


def test_the_file_is_in_write_ahead_mode(storage):
    with storage.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 1


def open_at_once(url: str, start) -> None:
    start.wait()
    open_storage(url, Access.CREATE)


@pytest.mark.slow
def test_first_runs_at_once_all_succeed(url):
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(5)
    workers = [context.Process(target=open_at_once, args=(url, start)) for _ in range(5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert [worker.exitcode for worker in workers] == [0] * 5


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("hpo.db", "not a database URL; expected e.g. sqlite:///hpo.db"),
        ("sqlite://", "need a file to share"),
        ("sqlite:///no/such/folder/hpo.db", "the folder no/such/folder does not exist"),
        ("nosuchdb://u:secret@h/d", "cannot be opened"),
    ],
)
def test_what_cannot_be_opened_is_said(url, message, tmp_path, monkeypatch):
    # A file of that name in the working directory would be taken for one with a URL in it.
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match=message) as caught:
        open_storage(url, Access.CREATE)
    assert "secret" not in str(caught.value)


def test_a_missing_file_is_not_created_by_those_who_only_look(tmp_path):
    path = tmp_path / "hpo.db"
    with pytest.raises(StorageError, match="no such file"):
        open_storage(f"sqlite:///{path}", Access.WORK)
    assert not path.exists()


@pytest.mark.parametrize("access", [Access.READ, Access.WORK])
def test_a_database_without_studies_is_none_of_ours(url, access, tmp_path):
    if url.startswith("sqlite"):
        sqlite3.connect(tmp_path / "hpo.db").close()
        (tmp_path / "hpo.db").touch()
    with pytest.raises(StorageError, match="no study was ever begun in this database"):
        open_storage(url, access)


@pytest.mark.parametrize("access", [Access.READ, Access.WORK])
def test_a_database_of_another_optuna_is_left_alone(url, access):
    plain = optuna.storages.RDBStorage(url.replace("postgresql:", "postgresql+psycopg:"))
    with plain.engine.begin() as c:
        c.exec_driver_sql("UPDATE alembic_version SET version_num = 'v3.0.0.d'")
    plain.engine.dispose()
    with pytest.raises(StorageError, match=r"schema v3\.0\.0\.d, here v3.*optuna storage upgrade"):
        open_storage(url, access)


@pytest.mark.parametrize("access", [Access.READ, Access.WORK])
def test_a_database_whose_tables_are_being_made_is_waited_for(url, access, monkeypatch):
    # Optuna writes the version last, after all tables.
    open_storage(url, Access.CREATE).engine.dispose()
    storage = optuna.storages.RDBStorage(url.replace("postgresql:", "postgresql+psycopg:"))
    with storage.engine.begin() as c:
        version = c.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one()
        c.exec_driver_sql("DELETE FROM alembic_version")

    def finish(_seconds: float) -> None:
        with storage.engine.begin() as c:
            c.exec_driver_sql(f"INSERT INTO alembic_version VALUES ('{version}')")

    monkeypatch.setattr("hpo.storage.backends.time.sleep", finish)
    open_storage(url, access).engine.dispose()
    storage.engine.dispose()


def test_a_file_that_is_no_database_is_said_and_kept(tmp_path):
    path = tmp_path / "hpo.db"
    path.write_text("precious notes, not a database\n" * 50)
    with pytest.raises(StorageError, match="file is not a database"):
        open_storage(f"sqlite:///{path}", Access.CREATE)
    assert path.read_text().startswith("precious notes")


def test_optuna_opens_the_study_without_us(tmp_path, begin_study):
    record = begin_study()
    url = f"sqlite:///{tmp_path / 'hpo.db'}"
    study = optuna.load_study(study_name=record.name, storage=url)
    study.optimize(lambda trial: trial.suggest_float("alpha", 1e-3, 10.0, log=True), n_trials=2)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2
    assert study.metric_names == ["penalised rmse"]


def test_the_schema_is_optunas_own_and_ours_stands_beside_it(tmp_path, storage):
    plain = tmp_path / "plain.db"
    optuna.storages.RDBStorage(f"sqlite:///{plain}")

    def schema(path) -> dict[str, str]:
        connection = sqlite3.connect(path)
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        found = dict(rows.fetchall())
        connection.close()
        return found

    ours, theirs = schema(tmp_path / "hpo.db"), schema(plain)
    assert {name: ours[name] for name in theirs} == theirs
    assert {name for name in ours if name not in theirs if not name.startswith("ix_")} == {
        "hpo_studies",
        "hpo_claims",
        "hpo_workers",
        "hpo_events",
        "hpo_deleted",
        "hpo_trial_deleted",
        "hpo_study_deleted",
    }


def test_a_fork_that_opens_the_file_anew_locks_it(tmp_path):
    url = f"sqlite:///{tmp_path / 'hpo.db'}"
    opened = open_storage(url, Access.CREATE)
    assert opened.get_all_studies() == []
    reader, writer = os.pipe()
    fork = os.fork()
    if fork == 0:
        # As what forks workers: nothing of its parent's is open, and the numbers are others'.
        os.closerange(3, writer)
        os.closerange(writer + 1, 1024)
        for number in range(30):
            os.open(tmp_path / f"other-{number}", os.O_RDWR | os.O_CREAT)
        with open_storage(url, Access.WORK).write():
            os.write(writer, b"locked")
            time.sleep(60.0)
        os._exit(0)
    try:
        assert os.read(reader, 6) == b"locked"
        connection = sqlite3.connect(tmp_path / "hpo.db", timeout=0.0, isolation_level=None)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            connection.execute("BEGIN IMMEDIATE")
        connection.close()
    finally:
        os.kill(fork, signal.SIGKILL)
        os.waitpid(fork, 0)
        opened.engine.dispose()
