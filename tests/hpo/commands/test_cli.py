"""The command line as a newcomer meets it: wrong words, empty folders, exports, the dashboard."""

from __future__ import annotations

import io
import json
import re
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState

from hpo import cli
from hpo.cli import main
from hpo.commands.common import Parser
from hpo.launch.progress_line import Progress, describe
from hpo.records import WorkerRun
from hpo.spec.space import distributions
from hpo.study.export import export, trials_frame
from hpo.study.status import Status, take_status
from hpo.worker.sampler import draw, trial_seed
from hpo.worker.trial_cache import TrialHistory
from tests.support.trials import finish_trials

STUDY = """
trials = 1
[table]
dataset = "csv"
path = "mine.csv"
families = ["ratios"]
[cv]
scheme = "kfold"
folds = 2
[estimator]
name = "ridge"
"""


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for variable in ("HPO_STORAGE", "HPO_DATA", "HPO_TABLES", "HPO_REPORTS"):
        monkeypatch.delenv(variable, raising=False)


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    try:
        code = main(arguments)
    except SystemExit as exc:
        code = int(exc.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("rnu",), "invalid choice: 'rnu'"),
        (("run",), "the following arguments are required: STUDY"),
        (("run", "no.toml"), "no.toml: cannot be read: No such file or directory"),
        (("run", "x.toml", "--workers", "0"), "must be a whole number of at least 1, got '0'"),
        (("run", "x.toml", "--trials", "9" * 20), "must be at most 2147483647, got '999"),
        (("run", "x.toml", "--trials", "9" * 5000), "must be at most 2147483647, got '999"),
        (("run", "x.toml", "--set", "trials"), "--set trials: must be key=value"),
        (("db", "start", 'a"b'), "takes no folder with '\"'"),
        (("db", "start", "a$b"), "takes no folder with '$'"),
        (("db", "start", "a\nb"), "takes no folder with '\\n'"),
        (("status",), "sqlite:///hpo.db: no such file; give the storage that the study is in"),
        (("resume", "x"), "sqlite:///hpo.db: no such file"),
        (("report", "x", "--storage", "x"), "--storage x: not a database URL"),
        (("export", "x", "--format", "xls"), "invalid choice: 'xls'"),
        (("check", "x.toml", "no.toml"), "no.toml: cannot be read"),
        (("features", "build"), "give a study file, or --dataset and --families"),
        (("features", "build", "--dataset", "obelx", "--families", "ratios"), "unknown 'obelx'"),
        (("features", "show", "nowhere"), "nowhere"),
        (("run", "x.toml"), "mine.csv"),
    ],
)
def test_a_users_mistake_is_one_clear_message(capsys, arguments, said):
    Path("x.toml").write_text(STUDY)
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert said in err
    assert [line for line in err.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in out + err


def test_check_says_what_is_right_and_what_is_wrong_and_runs_nothing(capsys):
    Path("mine.csv").write_text("formula,target\nLi2O,1\nNa2O,2\nK2O,3\nMgO,4\n")
    Path("right.toml").write_text(STUDY)
    Path("wrong.toml").write_text(STUDY.replace("folds", "foldz"))
    code, out, err = run(capsys, "check", "right.toml", "wrong.toml")
    assert code == 2
    said, put_in = out.splitlines()
    assert said == "right.toml: ok, study 'right', 0 dimensions"
    assert put_in.startswith("  SimpleImputer and StandardScaler are put before ridge; ")
    assert "wrong.toml: cv.foldz: unknown key; did you mean 'folds'?" in err
    assert sorted(path.name for path in Path().iterdir()) == [
        "mine.csv",
        "right.toml",
        "wrong.toml",
    ]


def test_status_and_best_are_right_in_both_directions(begin_study, capsys):
    low, high = begin_study(), begin_study(name="up", objective={"metric": "r2"})
    for record in (low, high):
        finish_trials(record.ledger, [0.5, 0.25, 4.0])
    assert take_status(low).best_score == 0.25
    assert take_status(high).best_score == 4.0
    assert take_status(low).state == "stopped"
    code, out, _ = run(capsys, "status")
    assert code == 0
    assert out == (
        "small: stopped, 3 of 6 trials, best 0.25 (trial 1)\n"
        "up: stopped, 3 of 6 trials, best 4 (trial 2)\n"
    )
    code, out, _ = run(capsys, "status", "small", "--json")
    assert json.loads(out)["counts"] == {
        "budget": 6, "finished": 3, "failed": 0, "held": 0, "free": 0, "pruned": 0, "outside": 0,
    }  # fmt: skip
    code, _, err = run(capsys, "status", "smal")
    assert code == 2
    assert "holds no study 'smal'; did you mean 'small'?" in err


def test_status_shows_who_holds_what(begin_study, capsys):
    record = begin_study()
    record.ledger.register("node7-w1", WorkerRun("node7", 4242))
    record.ledger.claim("node7-w1")
    code, out, _ = run(capsys, "status", "small")
    assert code == 0
    assert "small: running, 0 of 6 trials" in out
    assert re.search(r"node7-w1 +node7 +- +0 +0 +0 s ago", out)


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_an_export_reads_back_as_it_was(begin_study, tmp_path, form):
    record = begin_study()
    finish_trials(record.ledger, [0.5, 1 / 3])
    record.ledger.fail(record.ledger.claim("w1"), "ValueError: 'quoted', with comma")
    path = tmp_path / f"trials.{form}"
    assert export(record, path, form) == 3
    readers: dict[str, Any] = {
        "csv": pd.read_csv, "json": pd.read_json, "parquet": pd.read_parquet,
    }  # fmt: skip
    frame = readers[form](path)
    assert list(frame["number"]) == [0, 1, 2]
    assert list(frame["state"]) == ["COMPLETE", "COMPLETE", "FAIL"]
    assert frame["score"][1] == pytest.approx(1 / 3, abs=1e-9)
    assert frame["param.alpha"][0] == 0.5
    assert frame["part 0.r2_val"][1] == 0.5
    assert frame["failure"][2] == "ValueError: 'quoted', with comma"
    assert list(tmp_path.glob(".*part")) == []


def test_exported_times_are_utc_wherever_the_machine_is(begin_study, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        record = begin_study()
        finish_trials(record.ledger, [0.5])
        frame = trials_frame(record)
    finally:
        monkeypatch.undo()
        time.tzset()
    age = datetime.now(UTC) - frame["completed"][0]
    assert str(frame["completed"][0].tzinfo) == "UTC"
    assert abs(age.total_seconds()) < 60


def test_an_export_of_nothing_has_its_columns(begin_study):
    assert list(trials_frame(begin_study()).columns[:3]) == ["number", "state", "score"]


def test_an_export_that_cannot_be_written_says_so(begin_study, capsys):
    begin_study()
    code, _, err = run(capsys, "export", "small", "--output", "no/folder/x.csv")
    assert code == 2
    assert "no/folder/x.csv: cannot be written" in err


def test_the_dashboard_and_optunas_figures_read_the_study(begin_study, tmp_path):
    from optuna_dashboard import wsgi

    record = begin_study()
    finish_trials(record.ledger, [0.5, 0.25])
    record.ledger.claim("w2")
    url = f"sqlite:///{tmp_path / 'hpo.db'}"
    answer = io.BytesIO()
    app = wsgi(url)
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": f"/api/studies/{record.study_id}",
        "QUERY_STRING": "after=0",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "wsgi.url_scheme": "http",
    }
    for chunk in app(environ, lambda status, *_: answer.write(status.encode())):
        answer.write(chunk)
    assert answer.getvalue().startswith(b"200")
    shown = json.loads(answer.getvalue()[answer.getvalue().index(b"{") :])
    assert [trial["state"] for trial in shown["trials"]] == ["Complete", "Complete", "Running"]
    study = optuna.load_study(study_name="small", storage=url)
    assert study.best_trial.number == 1
    figure = optuna.visualization.plot_optimization_history(study)
    assert list(figure.data[0].y) == [0.5, 0.25]


def test_a_trials_stream_depends_on_study_and_trial_alone(begin_study):
    record = begin_study(space={"alpha": {"type": "float", "low": 0.1, "high": 1.0}})
    space = distributions(record.spec.space)
    claims = [record.ledger.claim(f"w{i}") for i in range(2)]

    def drawn(claim, seed=1):
        history = TrialHistory(record.storage, record.study_id, 500)
        return draw(history, claim.number, space, record.spec.sampler, seed)["alpha"]

    assert drawn(claims[0]) == drawn(claims[0])
    assert drawn(claims[0]) != drawn(claims[1])
    assert drawn(claims[0], seed=2) != drawn(claims[0])
    assert len({trial_seed(s, n) for s in range(50) for n in range(50)}) == 2500


def test_every_kind_of_dimension_is_drawn_within_its_bounds(begin_study):
    space = {
        "alpha": {"type": "float", "low": 1e-6, "high": 1.0, "log": True},
        "tol": {"type": "float", "low": 0.0, "high": 1.0, "step": 0.25},
        "max_iter": {"type": "int", "low": 10, "high": 50, "step": 10},
        "solver": {"type": "categorical", "choices": ["auto", "svd"]},
        "fit_intercept": {"type": "categorical", "choices": [True, False]},
    }
    record = begin_study(space=space, trials=30)
    seen: dict[str, set[Any]] = {name: set() for name in space}
    history = TrialHistory(record.storage, record.study_id, 500)
    for _ in range(30):
        claim = record.ledger.claim("w1")
        dists = distributions(record.spec.space)
        params = draw(history, claim.number, dists, record.spec.sampler, 0)
        record.ledger.save_params(claim, params, dists)
        record.ledger.finish(claim, {"score": params["alpha"]})
        for name, value in params.items():
            seen[name].add(value)
    assert all(1e-6 <= value <= 1.0 for value in seen["alpha"])
    assert seen["tol"] <= {0.0, 0.25, 0.5, 0.75, 1.0}
    assert seen["max_iter"] <= {10, 20, 30, 40, 50}
    assert seen["solver"] == {"auto", "svd"}
    assert seen["fit_intercept"] == {True, False}
    trials = record.optuna_study().get_trials(deepcopy=False)
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}


def test_progress_says_what_is_left(begin_study):
    record = begin_study(trials=10)
    finish_trials(record.ledger, [0.5, 0.25])
    line = describe(take_status(record), elapsed_s=20.0, done=2)
    assert line == "2/10 trials  best 0.25 (trial 1)  10 s/trial  1:20 left"


def test_progress_rewrites_a_terminal_and_spares_a_log(begin_study):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    record = begin_study(trials=100)
    terminal, log = Terminal(), io.StringIO()
    shown = [Progress(record, stream) for stream in (terminal, log)]
    for _ in range(12):
        finish_trials(record.ledger, [0.5])
        status: Status = take_status(record)
        for progress in shown:
            progress(status)
        time.sleep(0.01)
    for progress in shown:
        progress.close()
    assert terminal.getvalue().count("\r") == 12
    assert log.getvalue().count("\n") == 2  # the first, and the one that completes a tenth


def test_a_target_that_is_the_same_in_all_rows_is_refused(capsys):
    rows = "".join(f"Li{n + 1}F,5\n" for n in range(30))
    Path("same.csv").write_text(f"formula,target\n{rows}")
    study = 'trials = 1\n[table]\ndataset = "csv"\npath = "same.csv"\nfamilies = ["ratios"]\n'
    study += '[cv]\nscheme = "kfold"\nfolds = 3\n[estimator]\nname = "ridge"\n'
    Path("same.toml").write_text(study)
    code, _, err = run(capsys, "check", "same.toml")
    assert code == 2
    assert "the target is 5 in all 24 training rows" in err


def test_a_librarys_warning_is_shown_once(recwarn):
    def command(_options):
        for fold in range(3):
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                warnings.warn(f"fold {fold} did not converge", UserWarning, stacklevel=1)
        return 0

    parser = Parser(prog="hpo")
    parser.set_defaults(command=command)
    assert cli.run(parser, []) == 0
    assert [str(one.message) for one in recwarn] == ["fold 0 did not converge"]
