"""What is done once for a study: who does it, how far it is, and what becomes of its failures."""

from __future__ import annotations

import json
import math
import signal
from typing import Any, cast

import pandas as pd
import pytest
import sqlalchemy as sa

from hpo.errors import FailedStudyError, LostLeaseError, ObjectiveError, SpecError
from hpo.objectives.told import Total, find_faults
from hpo.records import Answer, WorkerRun
from hpo.report.study_page import write_report
from hpo.storage.events import EventKind
from hpo.storage.schema import WORKERS
from hpo.study.creation import check_declared
from hpo.study.export import export
from hpo.study.preparation import SharedWork, progress_of
from hpo.study.record import Source, find
from hpo.study.status import take_status
from hpo.study.told import (
    BASELINE,
    BASELINE_NUMBER,
    BASELINE_RESULT,
    PREPARATION,
    PREPARED,
    key_of,
    read_prepared,
    store_once,
    take_told,
)
from hpo.worker.worker import Worker
from tests.support.ledgers import begin_without_table
from tests.support.prepared import N_UNITS, Prepared
from tests.support.studies import make_spec

HERE = WorkerRun("here", 1)
OF_PREPARED = {"name": "tests.support.prepared:Prepared"}


@pytest.fixture
def record(url):
    record = begin_without_table(url, trials=2, objective=OF_PREPARED, lease_s=10)
    yield record
    record.storage.engine.dispose()


def run(record, objective, folder, worker_id="w"):
    return Worker(record, objective, worker_id, trial_dirs=folder / "trials").run(HERE)


def status_of(record) -> Any:
    return take_status(record)


def silence(record, worker_id):
    """Let nothing have been heard of a worker for longer than a lease."""
    with record.storage.write() as c:
        its = WORKERS.c.worker_id == worker_id
        c.execute(WORKERS.update().where(its).values(seen_at=WORKERS.c.seen_at - 60.0))


def test_work_is_one_workers_until_it_is_gone(record):
    ledger = record.ledger
    for worker in ("a", "b", "c"):
        ledger.register(worker, HERE)
    a, b, c = (SharedWork(record, PREPARATION, worker) for worker in "abc")
    assert a.take()
    assert a.take()  # as after a lost answer
    assert not b.take()
    a.advance(1, 3)
    ledger.deregister("a", "stopped")
    assert b.take()
    assert not c.take()
    with pytest.raises(LostLeaseError):
        a.advance(2, 3)
    before = progress_of(record)
    b.advance(2, 3)
    assert progress_of(record) == before + 1
    silence(record, "b")
    # A server that was just started could not have heard it.
    record.storage.up_since_sql = record.storage.now_sql
    assert not c.take()
    record.storage.up_since_sql = sa.literal(0.0)
    assert c.take()
    with record.storage.read() as connection:
        query = sa.select(WORKERS.c.outcome).where(WORKERS.c.worker_id == "b")
        assert "another worker" in connection.execute(query).scalar_one()
    assert SharedWork(record, BASELINE, "b").take()


def test_one_result_counts_and_is_what_everybody_is_given(record):
    for worker in ("a", "b"):
        record.ledger.register(worker, HERE)
        SharedWork(record, PREPARATION, worker).finish(
            PREPARED, json.dumps(worker), EventKind.PREPARED
        )
    assert read_prepared(record.storage, key_of(record.study_id, record.fingerprint)) == '"a"'
    assert [event["worker"] for event in record.ledger.events(EventKind.PREPARED)] == ["a"]


def test_attempts_without_progress_are_counted_and_come_to_an_end(record):
    most = record.spec.limits.max_attempts
    for n in range(most):
        record.ledger.register(f"w{n}", HERE)
        work = SharedWork(record, PREPARATION, f"w{n}")
        assert work.take()
        if n == 0:
            work.advance(1, 3)
        record.ledger.deregister(f"w{n}", "killed")
    assert status_of(record).told.preparation.attempts == most - 1
    for n, error in ((most, None), (most + 1, "10 attempts in a row made no progress")):
        record.ledger.register(f"w{n}", HERE)
        work = SharedWork(record, PREPARATION, f"w{n}")
        if error is None:
            work.take()
            record.ledger.deregister(f"w{n}", "killed")
        else:
            with pytest.raises(ObjectiveError, match=error):
                work.take()
    work.forget_attempts()
    assert status_of(record).told.preparation.attempts == 0


def test_a_study_is_prepared_its_baseline_scored_and_the_next_worker_finds_both(record, tmp_path):
    journal = tmp_path / "journal"
    assert (
        run(record, Prepared(None, seed=1, journal=str(journal)), tmp_path)
        == "the budget is finished"
    )
    record.ledger.set_budget(3)
    again = Prepared(None, seed=1, journal=str(journal))
    assert run(record, again, tmp_path, "v") == "the budget is finished"
    lines = [line.rpartition(" ")[0] for line in journal.read_text().splitlines()]
    assert lines[: N_UNITS + 1] == ["prepare", *(f"unit {k}" for k in range(N_UNITS))]
    assert lines[N_UNITS + 1 : N_UNITS + 4] == [f"part {k} of 4.0" for k in range(3)]
    assert len(lines) == N_UNITS + 1 + 3 + 3 * 3
    status = status_of(record)
    assert status.told.baseline.scores["score"] == pytest.approx(10.0)
    assert status.told.preparation is None
    assert status.told.totals == {
        "mean": Total("mean distance", "m", ".2f"),
        "share": Total("share", "", ".0%"),
    }
    assert status.best_totals["mean"] == pytest.approx(math.sqrt(status.best_score))
    assert status.as_dict()["told"]["baseline"]["params"] == {"alpha": 4.0}
    assert [e["score"] for e in record.ledger.events(EventKind.BASELINE)] == [pytest.approx(10.0)]


def test_a_baseline_goes_on_with_the_part_that_is_missing(record, tmp_path):
    class Cut(Prepared):
        def score_part(self, params, part):
            if part == 2:
                signal.raise_signal(signal.SIGTERM)
            return super().score_part(params, part)

    assert run(record, Cut(None, seed=1), tmp_path) == "stopped: SIGTERM"
    assert status_of(record).told.baseline.n_parts == 2
    journal = tmp_path / "journal"
    run(record, Prepared(None, seed=1, journal=str(journal)), tmp_path, "v")
    lines = journal.read_text().splitlines()
    assert [line.rpartition(" ")[0] for line in lines if "of 4.0" in line] == ["part 2 of 4.0"]
    assert status_of(record).told.baseline.score == pytest.approx(10.0)


def test_a_preparation_is_interrupted_at_once_and_keeps_how_far_it_is(record, tmp_path):
    class Cut(Prepared):
        def prepare(self, folder, progress):
            progress(0, N_UNITS)
            progress(4, N_UNITS)
            signal.raise_signal(signal.SIGUSR2)
            raise AssertionError("went on")

    assert run(record, Cut(None, seed=1), tmp_path) == "stopped: SIGUSR2"
    status = status_of(record)
    assert (status.told.preparation.done, status.told.preparation.total) == (4, N_UNITS)
    assert ", preparing 4 of 6" in status.told.describe()
    assert run(record, Prepared(None, seed=1), tmp_path, "v") == "the budget is finished"


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda: 1 / 0, "prepare: ZeroDivisionError: division by zero"),
        (lambda: exec("raise SystemExit(3)"), "prepare: sys.exit(3)"),
        (lambda: {1j}, "prepare: must return what JSON holds"),
        (lambda: "x" * 2_000_000, "prepare: must return at most 1,000,000 characters"),
    ],
)
def test_a_preparation_that_fails_stops_the_study_which_can_go_on(storage, tmp_path, wrong, reason):
    record = begin_without_table(str(storage.engine.url), trials=1, objective=OF_PREPARED)

    class Wrong(Prepared):
        def prepare(self, folder, progress):
            return wrong()

    with pytest.raises(FailedStudyError, match="the preparation failed: prepare: "):
        run(record, Wrong(None, seed=1), tmp_path)
    status = status_of(record)
    assert status.state == "stopped"
    assert reason in status.unprepared
    assert status.limit is None
    assert run(record, Prepared(None, seed=1), tmp_path, "v") == Answer.STOPPED.value
    record.ledger.stop(None)
    assert run(record, Prepared(None, seed=1), tmp_path, "u") == "the budget is finished"
    assert status_of(find(record.storage, record.name)).unprepared is None


@pytest.mark.parametrize(
    "told",
    [(-1, 3), (1, "three"), (math.nan, 3), (None, None)],
)
def test_a_progress_that_is_none_is_refused(storage, tmp_path, told):
    record = begin_without_table(str(storage.engine.url), trials=1, objective=OF_PREPARED)

    class Wrong(Prepared):
        def prepare(self, folder, progress):
            progress(*told)

    with pytest.raises(FailedStudyError, match=r"progress: (done|total) must be 0 or more"):
        run(record, Wrong(None, seed=1), tmp_path)


def refuse(_):
    raise OSError("no file")


class Raising(Prepared):
    baseline = property(refuse)


class Failing(Prepared):
    def score_part(self, params, part):
        if params["alpha"] == 4.0 and part == 1:
            raise ValueError("no convergence")
        return super().score_part(params, part)


@pytest.mark.parametrize(
    ("made", "reason"),
    [(Raising, "baseline: OSError: no file"), (Failing, "at 1: ValueError: no convergence")],
)
def test_a_baseline_without_a_score_harms_no_trial(storage, tmp_path, made, reason):
    record = begin_without_table(str(storage.engine.url), trials=1, objective=OF_PREPARED)
    assert run(record, made(None, seed=1), tmp_path) == "the budget is finished"
    told = status_of(record).told
    assert told.baseline.failure == reason
    assert [*told.lines({})] == [f"the baseline has no score: {reason}"]
    # It is not tried again and again.
    record.ledger.set_budget(2)
    assert run(record, made(None, seed=1), tmp_path, "v") == "the budget is finished"
    assert len(record.ledger.events(EventKind.BASELINE)) == 1


@pytest.mark.parametrize(
    ("member", "value", "said"),
    [
        ("prepare", "soon", "prepare must be a method, is 'soon'"),
        ("set_prepared", None, "has prepare, but lacks set_prepared"),
        ("totals", 3, "totals: must be a mapping, is 3"),
        ("totals", {"a": "b"}, "totals: 'a': must be a Total, is 'b'"),
        ("totals", {"a": Total(" ")}, "totals: ' ': a name must not be empty"),
        ("totals", {"a": Total("b", format="d")}, "totals: 'a': format 'd' writes no number"),
        ("totals", {"a": Total("b", format=">999")}, "writes 999 characters"),
        ("totals", {"a": Total("b", format=cast("str", 3))}, "format must be a short text, is 3"),
        ("totals", {3: Total("b")}, "totals: a name must be a text, is 3"),
        ("baseline", [1.0], "baseline: must be a mapping, is [1.0]"),
        ("baseline", {"x": math.inf}, "baseline: 'x': must be a finite number"),
        ("baseline", {"x": object}, "baseline: 'x': must be a finite number"),
        ("predictions", [], "predictions must be a method, is []"),
        ("figures", {}, "figures must be a method, is {}"),
    ],
)
def test_what_an_objective_tells_is_checked_before_the_study_begins(member, value, said):
    objective = type("Wrong", (Prepared,), {member: value})(None, seed=1)
    assert said in "; ".join(find_faults(objective))
    assert not find_faults(Prepared(None, seed=1))


def test_another_division_is_prepared_anew(record):
    before = key_of(record.study_id, record.fingerprint)
    for part, same in (("splits", False), ("table", False), ("objective", False), ("code", True)):
        now = key_of(record.study_id, {**record.fingerprint, part: "other"})
        assert (now == before) is same, part


STAGED = {
    "estimator": {"name": "hist_gradient_boosting", "params": {"max_depth": 2}},
    "space": {"max_iter": {"type": "staged", "high": 20, "step": 10}},
    "trials": 1,
}


@pytest.mark.parametrize("changes", [{}, STAGED])
def test_a_table_has_the_baseline_that_its_study_file_names(begin_study, tmp_path, changes):
    record = begin_study(baseline={}, **changes)
    run(record, record.open_objective()[1], tmp_path)
    told = take_told(record.storage, record.study_id, record.fingerprint)
    baseline = told.baseline
    assert baseline is not None
    assert baseline.params == {}
    assert baseline.n_parts == len(baseline.parts) == 3
    # No curve of a staged parameter is left in what is compared.
    assert not any(isinstance(value, str) for part in baseline.parts for value in part.values())
    mean = sum(part["score"] for part in baseline.parts) / 3
    assert baseline.score == pytest.approx(mean)
    assert export(record, tmp_path / "x.csv", "csv") == record.ledger.counts().finished
    frame = pd.read_csv(tmp_path / "x.csv", float_precision="round_trip").set_index("number")
    assert frame["state"].tolist() == ["COMPLETE"] * (len(frame) - 1) + ["BASELINE"]
    row = frame.loc[BASELINE_NUMBER]
    assert row["score"] == baseline.score
    assert [row[f"part {k}.r2_val"] for k in range(3)] == [p["r2_val"] for p in baseline.parts]
    page = write_report(record, tmp_path / "reports").read_text()
    assert "all parameters at their defaults" in page
    assert "rmse val" in page
    assert "rmse train</" not in page


def test_a_baseline_is_exported_before_any_trial(begin_study, tmp_path):
    record = begin_study(baseline={"alpha": 1.0})
    key = key_of(record.study_id, record.fingerprint)
    with record.storage.write() as c:
        result = json.dumps({"scores": {"score": 0.5}})
        assert store_once(c, record.storage, key, BASELINE_RESULT, result)
    assert export(record, tmp_path / "x.csv", "csv") == 0
    (row,) = pd.read_csv(tmp_path / "x.csv").to_dict("records")
    assert (row["number"], row["state"], row["score"]) == (BASELINE_NUMBER, "BASELINE", 0.5)


def test_another_baseline_takes_the_place_of_the_first(begin_study, tmp_path):
    scores = []
    for alpha in (1.0, 100.0):
        record = begin_study(baseline={"alpha": alpha})
        record.ledger.set_budget(record.ledger.counts().budget + 1)
        run(record, record.open_objective()[1], tmp_path, f"w{alpha}")
        baseline = status_of(record).told.baseline
        assert (baseline.params, baseline.n_parts) == ({"alpha": alpha}, 3)
        scores.append(baseline.score)
    assert scores[0] < scores[1]


def test_a_baseline_that_is_none_is_refused():
    with pytest.raises(SpecError, match="alhpa"):
        check_declared(make_spec(baseline={"alhpa": 1.0}), Source("x.toml", (), None))
    whole: dict[str, Any] = {"table": None, "cv": None, "estimator": None, "space": {}}
    function = {"function": "train.py:objective"}
    with pytest.raises(SpecError, match="baseline is for objectives with parts: give the point"):
        make_spec(baseline={"alpha": 1.0}, objective=function, **whole)
