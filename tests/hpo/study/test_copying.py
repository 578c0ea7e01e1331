"""Copies of studies between storages: all or nothing, identical, and fit to go on with."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from hpo.cli import main
from hpo.errors import HpoError, StorageError, StudyNotFoundError
from hpo.records import Access, Claim, WorkerRun
from hpo.spec.space import distributions
from hpo.storage.backends import open_storage
from hpo.storage.events import EventKind
from hpo.storage.schema import CLAIMS, DELETED, EVENTS, METADATA, STUDIES, TRIALS, study_tables
from hpo.study.lifecycle import copying
from hpo.study.lifecycle.copying import copy_studies, take_snapshot
from hpo.study.record import find
from tests.support.studies import ROOT


@pytest.fixture
def opened():
    """Open storages that are closed at the end."""
    storages = []

    def open_one(url: str, access=Access.CREATE):
        storages.append(open_storage(url, access))
        return storages[-1]

    yield open_one
    for storage in storages:
        storage.remove_session()
        storage.engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def target(request, tmp_path, opened):
    """A storage of each kind that holds a study already, so that no id can stay as it was."""
    url = f"sqlite:///{tmp_path / 'target.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
    storage = opened(url)
    study = optuna.create_study(study_name="before", storage=storage)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    return storage


def digests(storage, name="small") -> dict[str, str]:
    with storage.read() as c:
        snapshot = take_snapshot(c, name)
    assert snapshot is not None
    return snapshot.digests()


def study_names(storage) -> list[str]:
    return sorted(study.study_name for study in storage.get_all_studies())


def some_of_everything(begin_study):
    """A study with finished, failed, free and waiting trials, and every kind of number."""
    record = begin_study(trials=9)
    space = distributions(record.spec.space)
    ledger = record.ledger
    ledger.register("w1", WorkerRun("node é", 4))
    for score in (0.1, 1 / 3, math.inf, -math.inf):
        claim = ledger.claim("w1")
        assert isinstance(claim, Claim)
        ledger.save_params(claim, {"alpha": 0.1 + claim.number}, space)
        ledger.save(claim, {0: {"score": math.nan}})
        ledger.save(claim, {1: {"score": score}})
        ledger.finish(claim, {"score": score, "wall_s": 1e-300})
    claim = ledger.claim("w1")
    ledger.fail(claim, "a reason: 'ångström' \\ \n")
    claim = ledger.claim("w1")
    ledger.save_params(claim, {"alpha": 2.5}, space)
    ledger.release(claim)
    ledger.deregister("w1", "done")
    with record.storage.write() as c:
        record.storage.record_event(c, record.study_id, EventKind.TEST_EVALUATION, trial=1)
    study = record.optuna_study()
    study.set_user_attr("note", {"a": [1, None, "é"]})
    study.enqueue_trial({"alpha": 0.5})
    return record


def comparable(storage, name):
    trials = optuna.load_study(study_name=name, storage=storage).get_trials()
    shown = []
    for trial in trials:
        parts = {step: repr(value) for step, value in trial.intermediate_values.items()}
        state = {**vars(trial), "_trial_id": 0, "_intermediate_values": parts}
        state["intermediate_values"] = None
        shown.append({key: value for key, value in state.items() if key != "intermediate_values"})
    return shown


@pytest.mark.slow
def test_a_copy_is_the_same_study_and_points_to_its_own_trials(
    target, storage, begin_study, opened, tmp_path
):
    record = some_of_everything(begin_study)
    (copied,) = copy_studies(storage, target)
    assert copied.copied
    assert copied.trials == 7
    assert digests(target) == digests(storage)
    assert study_names(target) == ["before", "small"]
    assert comparable(target, "small") == comparable(storage, "small")
    there = find(target, "small")
    assert there.study_id != record.study_id
    assert there.ledger.counts() == record.ledger.counts()
    assert there.ledger.events() == record.ledger.events()
    assert there.created_at == record.created_at
    with target.read() as c:
        joined = sa.select(TRIALS.c.number, CLAIMS.c.number).join(
            CLAIMS, sa.and_(CLAIMS.c.trial_id == TRIALS.c.trial_id)
        )
        rows = c.execute(joined.where(TRIALS.c.study_id == there.study_id)).all()
        assert [row[0] for row in rows] == [row[1] for row in rows]
        assert len(rows) == 6
        assert set(c.execute(sa.select(EVENTS.c.study_id)).scalars()) == {there.study_id}
    # And back, into a file that has nothing: still the same.
    back = opened(f"sqlite:///{tmp_path / 'back.db'}")
    (returned,) = copy_studies(target, back, ["small"])
    assert returned == copied
    assert study_names(back) == ["small"]
    assert comparable(back, "small") == comparable(storage, "small")


@pytest.mark.slow
def test_the_copy_goes_on_where_the_study_was(target, storage, begin_study):
    some_of_everything(begin_study)
    copy_studies(storage, target)
    there = find(target, "small")
    claim = there.ledger.claim("w2")
    assert isinstance(claim, Claim)
    assert claim.number == 5
    assert claim.params == {"alpha": 2.5}
    there.ledger.finish(claim, {"score": 1.0})
    claim = there.ledger.claim("w2")
    assert isinstance(claim, Claim)
    assert claim.number == 7
    assert there.ledger.counts().finished == 5
    assert find(storage, "small").ledger.counts().finished == 4


@pytest.mark.slow
def test_what_is_there_already_is_left_alone_if_identical_and_refused_if_not(
    target, storage, begin_study
):
    record = some_of_everything(begin_study)
    copy_studies(storage, target)
    before = digests(target)
    (again,) = copy_studies(storage, target)
    assert not again.copied
    assert study_names(target) == ["before", "small"]
    with storage.write() as c:
        storage.record_event(c, record.study_id, EventKind.TEST_EVALUATION, trial=2)
    optuna.create_study(study_name="another", storage=storage)
    with pytest.raises(HpoError, match="holds another study 'small', or another state of it"):
        copy_studies(storage, target, ["another", "small"])
    assert digests(target) == before
    assert study_names(target) == ["before", "small"]


def test_the_last_bit_of_a_float_counts(storage, begin_study):
    some_of_everything(begin_study)
    before = digests(storage)
    with storage.write() as c:
        value = c.execute(sa.select(STUDIES.c.created_at)).scalar_one()
        c.execute(STUDIES.update().values(created_at=math.nextafter(value, math.inf)))
    after = digests(storage)
    assert {name for name in before if before[name] != after[name]} == {"hpo_studies"}


def test_a_study_that_is_worked_on_is_not_copied(target, storage, begin_study):
    record = begin_study(trials=2)
    record.ledger.register("w1", WorkerRun("node", 1))
    assert isinstance(record.ledger.claim("w1"), Claim)
    with pytest.raises(HpoError, match=r"1 of its trials are being worked .* \(hpo stop small\)"):
        copy_studies(storage, target)
    assert study_names(target) == ["before"]
    with storage.write() as c:
        c.execute(CLAIMS.update().values(lease_until=storage.now(c) - 1.0))
    copy_studies(storage, target)
    # The dead worker's trial is taken over in the copy as it would be here; said to be dead, since
    # no lease is over within one lease of a server's start.
    ledger = find(target, "small").ledger
    ledger.reap("w1", "killed")
    claim = ledger.claim("w2")
    assert isinstance(claim, Claim)
    assert (claim.number, claim.attempt) == (0, 2)


def test_names_that_are_not_there_and_copies_onto_itself_are_refused(
    storage, begin_study, opened, tmp_path
):
    empty = opened(f"sqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(StudyNotFoundError, match="holds no study"):
        copy_studies(empty, storage)
    begin_study()
    with pytest.raises(StudyNotFoundError, match="holds no study 'smal'; did you mean 'small'"):
        copy_studies(storage, empty, ["smal"])
    (tmp_path / "link.db").symlink_to(tmp_path / "hpo.db")
    with pytest.raises(HpoError, match="is where the studies are already"):
        copy_studies(storage, opened(f"sqlite:///{tmp_path / 'link.db'}"))


def test_one_database_under_two_names_is_one(postgres_url, opened):
    other = postgres_url.replace("127.0.0.1", "localhost")
    assert other != postgres_url
    with pytest.raises(HpoError, match="is where the studies are already"):
        copy_studies(opened(postgres_url), opened(f"{postgres_url}?application_name=x"))


def test_a_copy_that_came_out_different_is_taken_back(target, storage, begin_study, monkeypatch):
    some_of_everything(begin_study)
    whole = copying._insert

    def lose_one(c, snapshot):
        whole(c, snapshot)
        last = sa.select(sa.func.max(EVENTS.c.event_id)).scalar_subquery()
        c.execute(EVENTS.delete().where(EVENTS.c.event_id == last))

    monkeypatch.setattr(copying, "_insert", lose_one)
    with pytest.raises(StorageError, match="table hpo_events came out different"):
        copy_studies(storage, target)
    assert study_names(target) == ["before"]


def test_what_the_target_cannot_hold_is_said_and_nothing_copied(
    storage, begin_study, postgres_url, opened
):
    some_of_everything(begin_study)
    with storage.write() as c:
        c.execute(EVENTS.update().values(kind="longer than the column " * 10))
    target = opened(postgres_url)
    with pytest.raises(StorageError, match="nothing was copied, the target refused it: value too"):
        copy_studies(storage, target)
    assert study_names(target) == []


def copy_and_die(source: str, target: str) -> None:
    def die(*arguments) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(copying, "_verify", die)  # noqa: B010
    copy_studies(open_storage(source, Access.WORK), open_storage(target, Access.CREATE))


@pytest.mark.slow
def test_a_copy_that_is_killed_leaves_nothing(target, storage, begin_study):
    some_of_everything(begin_study)
    urls = [one.engine.url.render_as_string(hide_password=False) for one in (storage, target)]
    process = multiprocessing.get_context("spawn").Process(target=copy_and_die, args=urls)
    process.start()
    process.join(timeout=60)
    assert process.exitcode == -signal.SIGKILL
    assert study_names(target) == ["before"]
    (copied,) = copy_studies(storage, target)
    assert copied.copied


def test_no_table_of_ours_can_be_forgotten():
    tables = study_tables()
    assert {*METADATA.tables.values()} - {DELETED} <= {*tables}
    for table in tables:
        for key in table.foreign_keys:
            assert key.parent.name == key.column.name
            assert key.column.name in ("study_id", "trial_id")


STUDY = """
trials = 8
lease_s = 5.0
[objective]
name = "tests.support.objectives:Parabola"
params = { delay_s = 0.1, journal = "journal.txt" }
[space]
alpha = { type = "float", low = 0.0, high = 10.0 }
"""


def finished(url: str) -> int:
    storage = open_storage(url, Access.WORK)
    try:
        return find(storage, "x").ledger.counts().finished
    finally:
        storage.remove_session()
        storage.engine.dispose()


def interrupt_after(trials: int, url: str, *arguments: str) -> None:
    """Run a command until so many trials are finished, then press Ctrl-C."""
    process = subprocess.Popen(
        [sys.executable, "-m", "hpo", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HPO_STORAGE": url},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if finished(url) >= trials:
                break
        except HpoError:
            pass
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error


@pytest.mark.slow
def test_a_study_goes_on_from_a_file_to_a_server_and_back(
    tmp_path, monkeypatch, postgres_url, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("x.toml").write_text(STUDY)
    first, last = "sqlite:///first.db", "sqlite:///last.db"
    interrupt_after(2, first, "run", "x.toml", "--workers", "1")
    assert main(["copy", first, postgres_url]) == 0
    capsys.readouterr()
    interrupt_after(4, postgres_url, "resume", "x", "--workers", "2")
    assert main(["copy", postgres_url, last, "--study", "x", "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert shown["study"] == "x"
    assert shown["copied"]
    done = subprocess.run(
        [sys.executable, "-m", "hpo", "resume", "x", "--workers", "2", "--storage", last],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    study = optuna.load_study(study_name="x", storage=last)
    states = Counter(trial.state for trial in study.trials)
    assert states == {TrialState.COMPLETE: 8}
    # Three parts a trial; a part that Ctrl-C interrupted left no line or is computed once more.
    parts = Counter(Path("journal.txt").read_text().splitlines())
    assert len(parts) == 24
    assert sum(parts.values()) <= 24 + 3
