"""A snapshot is of one moment, and what is exported is every trial as Optuna reads it."""

from __future__ import annotations

import json
import math
import uuid
from datetime import UTC
from typing import Any

import optuna
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.errors import HpoError
from hpo.records import Access, Claim, WorkerRun, part_key
from hpo.storage.backends import open_storage
from hpo.storage.events import EventKind
from hpo.study.export import FORMATS, export, trials_frame
from hpo.study.record import find
from hpo.study.snapshot import best_trial, take_snapshot, trials_of
from hpo.study.status import take_status
from hpo.wording import shown_cell
from tests.support.ledgers import begin_without_table
from tests.support.trials import finish_trials


@pytest.fixture
def record(url):
    made = begin_without_table(url, name="s", trials=5)
    yield made
    made.storage.remove_session()
    made.storage.engine.dispose()


def test_a_snapshot_holds_what_there_is(record):
    record.ledger.register("w1", WorkerRun("here", 1))
    finish_trials(record.ledger, [0.5, 0.25, 0.25])
    record.ledger.fail(record.ledger.claim("w1"), "why")
    record.ledger.record(EventKind.MODEL_SAVED, {"trial": 1})
    held = record.ledger.claim("w1")
    snapshot = take_snapshot(record, trials=True)
    assert snapshot.counts == record.ledger.counts()
    assert list(snapshot.events) == record.ledger.events()
    assert snapshot.status.failures == tuple(record.ledger.failures())
    assert [worker.trial for worker in snapshot.status.workers] == [held.number]
    # Of equal scores the first is the best.
    assert snapshot.best is not None
    assert snapshot.best.number == 1
    assert best_trial(record).params == snapshot.best.params == {"alpha": 0.25}
    assert list(snapshot.trials or ()) == record.storage.get_all_trials(record.study_id)
    assert trials_of(record, TrialState.FAIL) == list((snapshot.trials or ())[3:4])
    assert [*snapshot.directions] == record.optuna_study().directions
    assert [*snapshot.value_names] == record.optuna_study().metric_names


def test_a_snapshot_of_an_empty_study(record):
    snapshot = take_snapshot(record, trials=True)
    assert (snapshot.best, snapshot.trials, snapshot.events) == (None, (), ())
    with pytest.raises(HpoError, match="no trial has finished"):
        best_trial(record)


def test_a_snapshot_is_of_one_moment(record, monkeypatch):
    finish_trials(record.ledger, [0.5])
    url = record.storage.engine.url.render_as_string(hide_password=False)
    reader = find(open_storage(url, Access.READ), "s")

    def and_meanwhile(c: Any, study_id: int) -> Any:
        monkeypatch.undo()
        # Another trial comes between two of its statements.
        finish_trials(record.ledger, [0.25])
        return read_best(c, study_id)

    from hpo.study.status import read_best

    monkeypatch.setattr("hpo.study.status.read_best", and_meanwhile)
    # On SQLite, what a writer leaves open keeps the reader from an older state.
    snapshot = take_snapshot(reader, trials=True)
    assert snapshot.counts.finished == len(snapshot.trials or ()) == 1
    assert snapshot.status.best_trial == 0
    assert take_snapshot(reader).counts.finished == 2
    assert take_snapshot(reader).best is not None


@pytest.mark.slow
@pytest.mark.parametrize(("direction", "best"), [("minimize", -math.inf), ("maximize", math.inf)])
def test_infinite_scores_are_judged_as_optuna_judges_them(record, direction, best):
    study = optuna.create_study(
        storage=record.storage, study_name=f"{direction}", direction=direction
    )
    for value in (1.0, math.inf, -math.inf, 2.0):
        study.add_trial(create_trial(value=value))
    from hpo.study.status import read_best

    with record.storage.read() as c:
        found = read_best(c, study._study_id)
    assert found is not None
    assert found.score == study.best_value == best


@pytest.mark.slow
def test_the_status_of_a_study_is_that_of_the_ledger(record):
    finish_trials(record.ledger, [0.5])
    record.ledger.finish(record.ledger.claim("w1"), {"score": 1.0}, pruned="slow")
    record.ledger.fail(record.ledger.claim("w1"), "why")
    record.ledger.release(record.ledger.claim("w1"))
    assert take_status(record).counts == record.ledger.counts()
    record.ledger.claim("w2")
    record.ledger.stop("gently")
    status = take_status(record)
    assert status.counts == record.ledger.counts()
    assert (status.stop, status.counts.held) == ("gently", 1)


# Exports ------------------------------------------------------------------------------------------


def frame_by_rows(trials: list[FrozenTrial]) -> pd.DataFrame:
    """Return trials as a frame made of one object per trial, which is how it has always looked."""
    rows = []
    for trial in trials:
        row: dict[str, Any] = {
            "number": trial.number,
            "state": trial.state.name,
            "score": trial.values[0] if trial.values else None,
            "started": trial.datetime_start and trial.datetime_start.astimezone(UTC),
            "completed": trial.datetime_complete and trial.datetime_complete.astimezone(UTC),
        }
        row |= {f"param.{name}": value for name, value in trial.params.items()}
        parts = {part_key(step) for step in trial.intermediate_values}
        for key, value in sorted(trial.user_attrs.items()):
            if key in parts:
                row |= {f"{key}.{name}": score for name, score in value.items()}
            else:
                row[key] = value if isinstance(value, str | int | float) else json.dumps(value)
        rows.append(row)
    return pd.DataFrame(rows)


SPACE = {
    "x": (FloatDistribution(-1.0, 1.0), st.floats(-1, 1)),
    "n": (IntDistribution(0, 9), st.integers(0, 9)),
    "kind": (CategoricalDistribution(["a", None, 3, True]), st.sampled_from(["a", None, 3, True])),
    "flag": (CategoricalDistribution([True, False]), st.booleans()),
}
PART = st.dictionaries(st.sampled_from(["r2", "wall_s", "note"]), st.floats(-1, 1) | st.none())
VALUE = st.one_of(
    st.text(max_size=3), st.integers(-9, 2**60), st.floats(-1, 1), st.none(), st.booleans(),
    st.lists(st.integers(0, 3), max_size=2),
)  # fmt: skip


@st.composite
def trials(draw: Any) -> FrozenTrial:
    names = draw(st.sets(st.sampled_from(sorted(SPACE))))
    state = draw(st.sampled_from([TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED]))
    parts = draw(st.lists(PART, max_size=3))
    attributes = {part_key(k): {"score": 1.0, **part} for k, part in enumerate(parts)}
    keys = st.sampled_from(["worker", "wall_s", "failure", "score_of_mine"])
    return create_trial(
        state=state,
        value=draw(st.floats(-9, 9)) if state is TrialState.COMPLETE else None,
        params={name: draw(SPACE[name][1]) for name in sorted(names)},
        distributions={name: SPACE[name][0] for name in sorted(names)},
        user_attrs=attributes | draw(st.dictionaries(keys, VALUE)),
        intermediate_values=dict.fromkeys(range(len(parts)), 1.0),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("export")


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(added=st.lists(trials(), min_size=1, max_size=6))
def test_an_export_is_what_optuna_reads(added, folder):
    record = begin_without_table(f"sqlite:///{folder / 'hpo.db'}", name=uuid.uuid4().hex)
    study = record.optuna_study()
    for trial in added:
        study.add_trial(trial)
    expected = frame_by_rows(study.get_trials(deepcopy=False))
    pd.testing.assert_frame_equal(trials_frame(record), expected)
    for form in FORMATS:
        found, wanted = folder / f"found.{form}", folder / f"wanted.{form}"
        try:
            if form == "csv":
                names = map(str, expected.select_dtypes("object").columns)
                texts = {name: expected[name].map(shown_cell) for name in names}
                expected.assign(**texts).rename(columns=shown_cell).to_csv(wanted, index=False)
            elif form == "json":
                expected.to_json(wanted, orient="records", date_format="iso", indent=1)
            else:
                expected.to_parquet(wanted, index=False)
        except (ValueError, TypeError, OverflowError):
            continue  # a column of several types is none of Parquet's
        assert export(record, found, form) == len(added)
        assert found.read_bytes() == wanted.read_bytes()
    record.storage.remove_session()
    record.storage.engine.dispose()


def test_scores_that_are_named_like_columns_are_exported_beside_them(tmp_path):
    record = begin_without_table(f"sqlite:///{tmp_path / 'hpo.db'}")
    claim = record.ledger.claim("w")
    assert isinstance(claim, Claim)
    space = {"alpha": FloatDistribution(0.0, 1.0)}
    record.ledger.save_params(claim, {"alpha": 0.5}, space)
    names = ("number", "state", "started", "completed", "param.alpha", "rmse")
    scores = {name: float(n) for n, name in enumerate(names, start=10)}
    record.ledger.finish(claim, {"score": 1.0, **scores})
    (row,) = trials_frame(record).to_dict("records")
    assert (row["number"], row["state"], row["score"]) == (0, "COMPLETE", 1.0)
    assert row["param.alpha"] == 0.5
    assert {name: row[name if name == "rmse" else f"{name}_"] for name in names} == scores
    record.storage.remove_session()
    record.storage.engine.dispose()
