"""Deleted studies leave nothing behind, whoever deletes them, and no later study is harmed."""

from __future__ import annotations

import io
import random
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState
from optuna_dashboard import wsgi

from hpo.errors import ConflictError, LostLeaseError, PlainStudyError, StudyNotFoundError
from hpo.records import Access, Claim, WorkerRun
from hpo.storage.backends import open_storage
from hpo.storage.deletion import delete_study
from hpo.storage.events import EventKind
from hpo.storage.schema import OPTUNA_STUDIES, TRIALS, study_tables
from hpo.study.creation import begin
from hpo.study.lifecycle.deletion import delete
from hpo.study.record import Source, find, names, read_plain_names
from tests.support.studies import make_spec

NAMES = ("a", "b", "c")
SPACE = {"alpha": {"type": "float", "low": 0.0, "high": 1.0}}
SLOPE = {"name": "tests.support.objectives:Slope"}
STUDY: dict[str, Any] = {
    "table": None, "cv": None, "estimator": None, "objective": SLOPE, "space": SPACE, "trials": 4,
}  # fmt: skip


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'hpo.db'}"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def opened(url):
    """Open the storage, as often as is wanted; all are closed at the end."""
    storages = []

    def open_one(access=Access.CREATE):
        storages.append(open_storage(url, access))
        return storages[-1]

    yield open_one
    for storage in storages:
        close(storage)


def close(storage) -> None:
    storage.remove_session()
    storage.engine.dispose()


def begin_one(storage, name="a", **changes: Any):
    spec = make_spec(name=name, **STUDY | changes)
    return begin(storage, spec, Source("x.toml", (), None), None)


def by_optuna(storage, name: str) -> None:
    plain = optuna.storages.RDBStorage(storage.url)
    optuna.delete_study(study_name=name, storage=plain)
    close(plain)


def by_dashboard(storage, name: str) -> None:
    with storage.read() as c:
        query = sa.select(OPTUNA_STUDIES.c.study_id).where(OPTUNA_STUDIES.c.study_name == name)
        study_id = c.execute(query).scalar_one()
    plain = optuna.storages.RDBStorage(storage.url)
    environ = {
        "REQUEST_METHOD": "DELETE",
        "PATH_INFO": f"/api/studies/{study_id}",
        "QUERY_STRING": "",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "wsgi.url_scheme": "http",
    }
    answers: list[str] = []
    list(wsgi(plain)(environ, lambda status, *_: answers.append(status)))
    assert answers == ["204 No Content"]
    close(plain)


def by_us(storage, name: str) -> None:
    opened = open_storage(storage.url, Access.WORK)
    with opened.write() as c:
        query = sa.select(OPTUNA_STUDIES.c.study_id).where(OPTUNA_STUDIES.c.study_name == name)
        delete_study(c, c.execute(query).scalar_one())
    close(opened)


WAYS = [by_optuna, by_dashboard, by_us]


def lose_triggers(storage) -> None:
    """Make it a database without triggers, as older versions made it, and migrations leave it."""
    with storage.write() as c:
        for trigger, table in (("hpo_trial_deleted", "trials"), ("hpo_study_deleted", "studies")):
            on = "" if c.dialect.name == "sqlite" else f" ON {table}"
            c.exec_driver_sql(f"DROP TRIGGER {trigger}{on}")


def rows_of(storage, study_ids: set[int]) -> dict[str, int]:
    """How many rows of each table belong to other studies or trials than those of these studies."""
    strangers = {}
    with storage.read() as c:
        trials = sa.select(TRIALS.c.trial_id).where(TRIALS.c.study_id.in_(study_ids))
        for table in study_tables():
            belongs = (
                table.c.study_id.in_(study_ids)
                if "study_id" in table.c
                else table.c.trial_id.in_(trials)
            )
            query = sa.select(sa.func.count()).select_from(table).where(~belongs)
            strangers[table.name] = c.execute(query).scalar_one()
    return {name: n for name, n in strangers.items() if n}


def work(record, n: int) -> None:
    """Finish some trials, and leave one in the hands of a worker."""
    worker = f"w{record.uid}{random.randrange(10**9)}"
    record.ledger.register(worker, WorkerRun("here", 1))
    for _ in range(n):
        claim = record.ledger.claim(worker)
        if not isinstance(claim, Claim):
            return
        record.ledger.finish(claim, {"score": 0.5}, {0: {"score": 0.5}})
    record.ledger.claim(worker)


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
@pytest.mark.parametrize("way", WAYS)
def test_a_deleted_study_leaves_nothing_behind_and_its_id_is_not_given_out_again(opened, way, old):
    storage = opened()
    first, second = begin_one(storage, "a"), begin_one(storage, "b")
    work(first, 2)
    work(second, 2)
    if old:
        lose_triggers(storage)
        with storage.write() as c:
            c.exec_driver_sql("DROP TABLE hpo_deleted")
    way(storage, "b")
    storage = opened()
    assert names(storage) == ["a"]
    assert not rows_of(storage, {first.study_id})
    third = begin_one(storage, "b")
    assert third.study_id > second.study_id
    assert third.ledger.counts().finished == 0
    work(third, 2)
    assert (first.ledger.counts().finished, third.ledger.counts().finished) == (2, 2)
    with pytest.raises(StudyNotFoundError, match="the study was deleted"):
        second.ledger.claim("late")


@pytest.mark.parametrize("way", WAYS)
def test_who_works_on_a_study_that_is_deleted_is_told_and_stores_nothing(opened, way):
    storage = opened()
    record = begin_one(storage)
    claim = record.ledger.claim("w1")
    assert isinstance(claim, Claim)
    way(storage, "a")
    optuna.create_study(study_name="a", storage=storage).ask()
    ledger = record.ledger
    for tell in (
        lambda: ledger.finish(claim, {"score": 1.0}),
        lambda: ledger.save(claim, {0: {"score": 1.0}}),
        lambda: ledger.fail(claim, "odd"),
        lambda: ledger.release(claim),
    ):
        with pytest.raises(LostLeaseError):
            tell()
    for ask in (
        lambda: ledger.claim("w1"),
        ledger.counts,
        ledger.stopped,
        lambda: ledger.set_budget(3),
        lambda: ledger.stop("now"),
    ):
        with pytest.raises(StudyNotFoundError, match="the study was deleted"):
            ask()
    assert ledger.beat(["w1"]).dismissed == {"w1"}
    (trial,) = optuna.load_study(study_name="a", storage=storage).trials
    assert trial.state is TrialState.RUNNING


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("successor", ["a", "other"])
def test_a_study_of_optunas_is_never_taken_for_the_deleted_one_whose_id_it_has(opened, successor):
    storage = opened()
    record = begin_one(storage, "a")
    work(record, 2)
    lose_triggers(storage)
    by_optuna(storage, "a")
    plain = optuna.create_study(study_name=successor, storage=storage)
    assert plain._study_id == record.study_id
    for _ in range(2):  # seen by an old database, and by one that was brought up to date
        assert names(storage) == []
        with pytest.raises(PlainStudyError):
            find(storage, successor)
        with pytest.raises(PlainStudyError):
            begin_one(storage, successor)
        storage = opened(Access.WORK)
    assert not rows_of(storage, {plain._study_id})


def test_a_study_is_deleted_when_nobody_works_on_it(storage):
    record = begin_one(storage, lease_s=1.0)
    record.ledger.register("w1", WorkerRun("node7", 1))
    with pytest.raises(ConflictError, match=r"1 worker on node7 gave a sign.*hpo stop a"):
        delete(record)
    record.ledger.deregister("w1", "left")
    claim = record.ledger.claim("w2")
    with pytest.raises(ConflictError, match="workers have 1 trial in hand"):
        delete(record)
    record.ledger.release(claim)
    record.ledger.record(EventKind.SUBMITTING, {"id": "one"})
    with pytest.raises(ConflictError, match="another process is submitting"):
        delete(record)
    record.ledger.record(EventKind.SUBMITTED, {"id": "one"})
    with pytest.raises(ConflictError, match="may still wait in the queue; end them first"):
        delete(record)
    assert names(storage) == ["a"]
    record.ledger.stop("now")
    assert delete(record) > 5
    assert names(storage) == []
    assert not rows_of(storage, set())
    with pytest.raises(StudyNotFoundError):
        delete(record)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_studies_that_come_and_go_in_any_order_never_meet(opened, seed):
    source = random.Random(seed)
    storage = opened()
    ours: dict[str, Any] = {}
    finished: dict[str, int] = {}
    plain: set[str] = set()
    given_out: set[int] = set()
    is_old = False
    for _ in range(40):
        name, step = source.choice(NAMES), source.randrange(7)
        if step <= 1 and name not in plain:
            storage, is_old = opened(), False
            record = begin_one(storage, name)
            if name not in ours:
                assert record.study_id not in given_out
                given_out.add(record.study_id)
                ours[name], finished[name] = record, 0
        elif step == 2 and name in ours:
            n = source.randrange(3)
            work(ours[name], n)
            finished[name] = min(4, finished[name] + n)
        elif step <= 4 and name in {*ours, *plain}:
            source.choice(WAYS)(storage, name)
            ours.pop(name, None)
            plain.discard(name)
        elif step == 5 and name not in {*ours, *plain}:
            study = optuna.create_study(study_name=name, storage=storage)
            study.tell(study.ask(), 1.0)
            plain.add(name)
        elif step == 6 and not is_old:
            lose_triggers(storage)
            is_old = True
        assert {*names(storage)} == {*ours}
        with storage.read() as c:
            assert {*read_plain_names(c)} == plain
        for known, record in ours.items():
            assert find(storage, known).uid == record.uid
            # A trial that stays in hand when its worker takes no more waits for its lease.
            assert record.ledger.counts().finished <= finished[known]
            assert len(optuna.load_study(study_name=known, storage=storage).trials) >= (
                record.ledger.counts().finished
            )
    storage = opened()
    begin_one(storage, "last")
    with storage.read() as c:
        there = {*c.execute(sa.select(OPTUNA_STUDIES.c.study_id)).scalars()}
    assert not rows_of(storage, there)
    counted = sum(record.ledger.counts().finished for record in ours.values())
    assert counted > 0 or not any(finished[name] for name in ours)
