"""Points of a user's own: read, checked, enqueued, and tried first."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from hpo.errors import SpecError
from hpo.records import WorkerRun
from hpo.spec.loading import validate
from hpo.study.creation import begin, check_declared
from hpo.study.points.checking import check_points, read_points
from hpo.study.record import Source
from hpo.worker.worker import Worker
from tests.support.ledgers import begin_without_table
from tests.support.studies import make_spec, write_study
from tests.support.trials import finish_trials

SPACE = {
    "alpha": {"type": "float", "low": 0.0, "high": 10.0},
    "depth": {"type": "int", "low": 2, "high": 10, "step": 4},
    "kind": {"type": "categorical", "choices": ["a", 1, True]},
}
SOURCE = Source("x.toml", (), None)
SPEC = make_spec(
    space=SPACE,
    **dict.fromkeys(("table", "cv", "estimator")),
    objective={"name": "tests.support.objectives:Parabola"},
)


def test_points_are_as_their_dimensions_have_them():
    points: list[dict[str, object]] = [
        {"alpha": 3, "depth": 6.0, "kind": "1"},
        {"kind": True},
        {"alpha": 0.5},
    ]
    found = check_points(SPEC, points)
    assert found == [{"alpha": 3.0, "depth": 6, "kind": 1}, {"kind": True}, {"alpha": 0.5}]
    assert [type(value) for value in found[0].values()] == [float, int, int]


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ({}, "the point: has no parameter"),
        ({"alfa": 1.0}, "unknown parameter 'alfa'; did you mean 'alpha'?"),
        ({"alpha": 10.5}, "alpha must be a number from 0.0 to 10.0, is 10.5"),
        ({"alpha": "x"}, "alpha must be a number, is 'x'"),
        ({"alpha": float("nan")}, "alpha must be a number from 0.0 to 10.0, is nan"),
        ({"depth": 3}, "depth must be an integer from 2 to 10 in steps of 4, is 3"),
        ({"depth": 2.5}, "depth must be an integer from 2 to 10 in steps of 4, is 2.5"),
        ({"depth": True}, "depth must be a number, is True"),
        ({"kind": "b"}, "kind must be one of a, 1, True, is b"),
    ],
)
def test_what_is_not_within_the_space_is_refused(point, said):
    with pytest.raises(SpecError) as caught:
        check_points(SPEC, [point])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([{"alpha": 1.0}, {"alfa": 1.0}], "[[enqueue]] 2: unknown parameter 'alfa'"),
        ([{"alpha": 10.5}], "[[enqueue]] 1: alpha must be a number from 0.0 to 10.0, is 10.5"),
        ([{"alpha": 1.0}, {"depth": [2]}], "[[enqueue]] 2: depth must be a number, a text, true"),
        ([{}], "[[enqueue]] 1: has no parameter"),
    ],
)
def test_a_study_file_is_refused_whose_points_are_not_within_its_space(points, said):
    with pytest.raises(SpecError) as caught:
        check_declared(make_spec(**{**SPEC.model_dump(mode="json"), "enqueue": points}), SOURCE)
    assert f"x.toml: {said}" in str(caught.value)


def test_points_of_a_function_are_taken_by_any_name_but_not_of_any_kind():
    parts = dict.fromkeys(("table", "cv", "estimator", "space"))
    spec = make_spec(**parts, objective={"function": "tests.support.functions.plain:quadratic"})
    assert check_points(spec, [{"anything": 3, "else": "a"}]) == [{"anything": 3, "else": "a"}]
    with pytest.raises(SpecError, match="must be a number, a text, true or false"):
        check_points(spec, [{"anything": {"a": 1}}])


def test_points_name_parameters_of_parts_as_sections_do():
    raw = {**SPEC.model_dump(mode="json"), "enqueue": [{"second": {"depth": 3}, "alpha": 1.0}]}
    assert validate(raw, "x").enqueue == ({"second.depth": 3, "alpha": 1.0},)


def test_points_are_read_from_csv(tmp_path):
    file = tmp_path / "points.csv"
    file.write_text("\ufeffalpha, kind\n0.5,a\n,b c\n")
    assert read_points(file) == [{"alpha": 0.5, "kind": "a"}, {"kind": "b c"}]
    file.write_bytes('"";"alpha";"kind"\n"1";0,5;"a"\n"2";1,25;"b c"\n'.encode("utf-16"))
    assert read_points(file) == [{"alpha": 0.5, "kind": "a"}, {"alpha": 1.25, "kind": "b c"}]
    for text, said in (
        ("alpha\n", "no row below the header"),
        ("alpha,kind\n1,a\n1,2,3\n", "line 3: 3 fields where the header has 2"),
        ("alpha;kind\n2.500;a\n", "may be 2.5 or 2500"),
    ):
        file.write_text(text)
        with pytest.raises(SpecError, match=said):
            read_points(file)
    with pytest.raises(SpecError, match="there is no file"):
        read_points(tmp_path / "none.csv")


@pytest.fixture(params=["sqlite", "postgresql"])
def record(request, tmp_path):
    url = f"sqlite:///{tmp_path / 'hpo.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
    made = begin_without_table(url, trials=6, space={"alpha": SPACE["alpha"]})
    yield made
    made.storage.remove_session()
    made.storage.engine.dispose()


def work(record):
    _, objective = record.open_objective()
    Worker(record, objective, "w").run(WorkerRun("here", 1))
    return record.storage.get_all_trials(record.study_id)


def test_enqueued_points_are_tried_before_anything_is_drawn(record):
    record.ledger.register("w1", WorkerRun("here", 1))
    finish_trials(record.ledger, [1.0])
    assert record.ledger.enqueue([{"alpha": 3.5}, {"alpha": 4.5}]) == [1, 2]
    assert record.ledger.counts().free == 2
    waiting = record.storage.get_all_trials(record.study_id)[1]
    assert (waiting.state, waiting.datetime_start) == (TrialState.WAITING, None)
    found = work(record)
    assert [trial.state for trial in found] == [TrialState.COMPLETE] * 6
    assert [trial.params["alpha"] for trial in found[1:3]] == [3.5, 4.5]
    assert all(trial.datetime_start is not None for trial in found)
    assert record.ledger.counts().finished == 6


def test_a_point_whose_worker_died_is_kept(record):
    record.ledger.enqueue([{"alpha": 3.5}])
    record.ledger.register("w1", WorkerRun("here", 1))
    claim = record.ledger.claim("w1")
    assert claim.point == {"alpha": 3.5}
    record.ledger.reap("w1", "dead")
    assert work(record)[0].params == {"alpha": 3.5}


def test_what_optuna_enqueues_is_adopted_once(record):
    study = optuna.load_study(study_name=record.name, storage=record.storage)
    for alpha in (3.5, 4.5):
        study.enqueue_trial({"alpha": alpha})
    assert record.ledger.counts().free == 0
    assert record.ledger.adopt_enqueued() == [0, 1]
    assert record.ledger.adopt_enqueued() == []
    found = work(record)
    assert [trial.params["alpha"] for trial in found[:2]] == [3.5, 4.5]
    assert record.ledger.counts().finished == len(found) == 6


def test_points_of_a_study_file_are_enqueued_once_and_new_ones_with_the_file(record):
    def go_on(*points):
        raw = {**record.spec.model_dump(mode="json"), "enqueue": points}
        said: list[str] = []
        begin(record.storage, validate(raw, "x"), record.source, None, log=said.append)
        return said

    assert go_on({"alpha": 3.5}, {"alpha": 4}) == ["2 points enqueued, to be tried first"]
    assert go_on({"alpha": 3.5}, {"alpha": 4.0}) == []
    assert go_on({"alpha": 3.5}) == []
    said = go_on({"alpha": 5.0}, {"alpha": 5.0}, {"alpha": 4.0}, {"alpha": 3.5})
    assert said == ["1 point enqueued, to be tried first"]
    found = work(record)
    assert [trial.params["alpha"] for trial in found[:3]] == [3.5, 4.0, 5.0]
    assert record.ledger.counts().finished == len(found) == 6
    assert go_on({"alpha": 3.5}) == []
    assert "has no room for all of them; raise it: hpo budget small 7" in go_on({"alpha": 6.0})[1]


@pytest.mark.slow
def test_a_function_and_a_program_try_the_points_of_their_study_files_first(hpo):
    point = "\n[[enqueue]]\nx = 2.0\n\n[[enqueue]]\nx = 1.5\ny = 1\n"
    Path("f.toml").write_text(
        f'trials = 3\n{point}[objective]\nfunction = "tests.support.functions.plain:quadratic"'
    )
    Path("p.toml").write_text(
        'trials = 3\n[objective]\ncommand = ["echo", "{x} {y}"]\nscore = {regex = "^(.*) "}'
        '\n[space]\nx = {type = "float", low = 0.0, high = 9.0}'
        f'\ny = {{type = "int", low = 0, high = 5}}\n{point}'
    )
    for name in ("f", "p"):
        assert "2 points enqueued" in hpo("run", f"{name}.toml", "--workers", "2").stderr
        assert "enqueued" not in hpo("run", f"{name}.toml", "--trials", "4").stderr
        trials = optuna.load_study(study_name=name, storage="sqlite:///hpo.db").trials
        assert [trial.params["x"] for trial in trials[:2]] == [2.0, 1.5]
        assert trials[1].params["y"] == 1
        assert len(trials) == 4


@pytest.mark.slow
def test_the_command_enqueues_and_says_where_there_is_no_room(hpo):
    hpo("run", write_study(trials=2), "--workers", "1")
    said = hpo("enqueue", "x", "alpha=2.5").stdout
    assert "1 point enqueued, trial 2" in said
    assert "the budget of 2 has no room for all of them; raise it: hpo budget x 3" in said
    Path("more.csv").write_text("alpha\n3.5\n4.5\n")
    assert "2 points enqueued, trials 3 to 4" in hpo("enqueue", "x", "more.csv").stdout
    study = optuna.load_study(study_name="x", storage="sqlite:///hpo.db")
    study.enqueue_trial({"alpha": 5.5})
    hpo("resume", "x", "--trials", "6", "--workers", "2")
    trials = optuna.load_study(study_name="x", storage="sqlite:///hpo.db").trials
    assert sorted(trial.params["alpha"] for trial in trials[2:]) == [2.5, 3.5, 4.5, 5.5]
    assert "'beta': must be PARAMETER=VALUE" in hpo("enqueue", "x", "a=1", "beta", code=2).stderr
    assert "unknown parameter 'beta'" in hpo("enqueue", "x", "beta=1", code=2).stderr
    assert len(optuna.load_study(study_name="x", storage="sqlite:///hpo.db").trials) == 6
