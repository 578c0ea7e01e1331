"""Comparisons, families of studies, and the refusal of columns made from the target."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from hpo.analysis.comparison.reported import read_reported_file
from hpo.analysis.comparison.studies import as_dicts, compare_study
from hpo.errors import SpecError
from hpo.records import WorkerRun
from hpo.report.comparison_tables import lines
from hpo.report.study_page import write_report
from hpo.spec.variants import study_files
from hpo.storage.events import EventKind
from hpo.storage.schema import EVENTS
from hpo.study.creation import begin
from hpo.study.record import Source
from hpo.worker.worker import Worker
from tests.support.pages import leaky_table
from tests.support.studies import make_spec

REPORTED = """
[[experiment]]
name = "The one"
studies = ["one"]
source = "page 3"
n_features = 5
cv = { r2 = 0.5, spearman = 0.6 }
test = { r2 = 0.25 }
"""


def work(record):
    Worker(record, record.open_objective()[1], "w").run(WorkerRun("here", 1))


def looks(record):
    return [event for event in record.ledger.events() if event["kind"] == EventKind.TEST_EVALUATION]


@pytest.fixture
def reported(tmp_path):
    (tmp_path / "reported.toml").write_text(REPORTED)
    return read_reported_file(tmp_path / "reported.toml").by_study


@pytest.mark.slow
def test_a_comparison_shows_what_the_one_look_saw_and_looks_at_nothing(
    begin_study, tmp_path, reported
):
    finished = begin_study(name="one", trials=2)
    work(finished)
    before = compare_study(finished)
    assert looks(finished) == []
    assert before.test == {}
    assert "not evaluated" in before.remark
    assert before.cv["r2"] > 0.3

    write_report(finished, tmp_path)
    (look,) = looks(finished)
    after = compare_study(finished)
    assert looks(finished) == [look]
    assert after.cv == pytest.approx(before.cv, rel=1e-12)
    assert after.test == look["scores"]
    assert (after.n_features, after.n_cv, after.n_test) == (4, 80, 20)
    for kind in ("row", "group"):
        low, high = after.test_intervals[kind]["r2"]
        assert low < after.test["r2"] < high
    assert after.remark == ""

    (row,) = as_dicts([after], reported)
    assert row["reported"]["source"] == "page 3"
    assert row["difference"]["cv"]["r2"] == pytest.approx(after.cv["r2"] - 0.5)
    assert row["difference"]["test"]["r2"] == pytest.approx(after.test["r2"] - 0.25)
    assert row["difference"]["test"]["mae"] is None


@pytest.mark.slow
def test_a_look_of_an_earlier_version_is_read_too(begin_study, tmp_path):
    record = begin_study(name="one", trials=1)
    work(record)
    write_report(record, tmp_path)
    whole = compare_study(record)
    (look,) = looks(record)
    short = {key: look[key] for key in ("trial", "finished", "scores")}
    with record.storage.write() as c:
        is_look = EVENTS.c.kind == EventKind.TEST_EVALUATION
        c.execute(sa.update(EVENTS).where(is_look).values(detail=json.dumps(short)))
    again = compare_study(record)
    assert again == whole
    assert len(looks(record)) == 1


@pytest.mark.slow
def test_unfinished_and_empty_studies_say_so(begin_study, tmp_path):
    empty = begin_study(name="empty")
    going_on = begin_study(name="going-on", trials=2)
    work(going_on)
    write_report(going_on, tmp_path)
    going_on.ledger.set_budget(5)
    rows = [compare_study(empty), compare_study(going_on)]
    assert rows[0].remark == "no trial has finished"
    assert rows[1].test == {}
    assert rows[1].cv
    text = lines(rows, {})
    assert "going-on: 2 of 5 trials; unfinished: the held-out rows wait" in text


@pytest.mark.slow
def test_the_text_is_aligned(begin_study, tmp_path, reported):
    record = begin_study(name="one", trials=1)
    work(record)
    write_report(record, tmp_path)
    head, ours, theirs, difference, note = lines([compare_study(record)], reported)
    end = head.index("CV R2") + len("CV R2")
    assert theirs[:end].endswith("0.500")
    assert float(difference[:end].split()[-1]) == pytest.approx(
        float(ours[:end].split()[-1]) - 0.5, abs=0.001
    )
    assert theirs.split()[:3] == ["reported", "5", "0.500"]
    assert note.startswith("95 %")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("name", "nmae"), r"experiment\.0\.nmae: unknown key; did you mean 'name'"),
        (("0.25", "'x'"), r"experiment\.0\.test\.r2: "),
        (("0.25 }", "0.25"), "not valid TOML"),
        (('["one"]', '["one", "one"]'), "study 'one' stands for 'The one' and for 'The one'"),
    ],
)
def test_a_wrong_file_of_reported_figures_is_named(tmp_path, change, message):
    path = tmp_path / "reported.toml"
    path.write_text(REPORTED.replace(change[0], change[1], 1))
    with pytest.raises(SpecError, match=message):
        read_reported_file(path)
    with pytest.raises(SpecError, match=r"no\.toml: cannot be read"):
        read_reported_file(tmp_path / "no.toml")


# A folder of studies ---------------------------------------------------------------------------

STUDY = """
trials = {trials}
allow_target_derived = {allowed}
[table]
dataset = "csv"
path = "{path}"
log10 = true
test_fraction = 0.25
families = ["ratios"{flag}]
[cv]
scheme = "interleaved"
folds = 3
[estimator]
name = "ridge"
{space}
"""
SPACE = '[space]\nalpha = { type = "float", low = 0.1, high = 10.0 }'


def write_family(flag="", allowed="[]"):
    formulas = [f"Li{i}O{j}" for i in range(1, 9) for j in (3, 5, 7, 11)]
    measured = [f"{'<' if i % 7 == 0 else ''}1e-{i % 5 + 2}" for i in range(len(formulas))]
    data = Path("data.csv").resolve()
    lines_ = [f"{formula},{value}" for formula, value in zip(formulas, measured, strict=True)]
    data.write_text("\n".join(["formula,target", *lines_]) + "\n")
    folder = Path("family")
    folder.mkdir(exist_ok=True)
    for name, trials, space in (("one", 1, ""), ("two", 2, SPACE)):
        text = STUDY.format(trials=trials, space=space, path=data, flag=flag, allowed=allowed)
        (folder / f"{name}.toml").write_text(text)
    (folder / "reported.toml").write_text(REPORTED)


@pytest.fixture
def run(hpo, warm):
    """Run a command in an empty folder; return its exit code and what it says."""

    def run_here(*arguments):
        done = warm.call(*arguments)
        return done.returncode, done.stdout, done.stderr

    return run_here


@pytest.mark.slow
def test_a_folder_runs_one_after_another_and_ends_with_the_comparison(run):
    write_family()
    code, out, _ = run("run", "family", "--workers", "1", "--trials", "3")
    assert code == 0
    assert "two: finished, 3 of 3 trials" in out
    table = out[out.index("\nstudy ") :].splitlines()[1:]
    assert [line.split()[0] for line in table[1:5]] == ["one", "reported", "difference", "two"]
    page = Path("reports/two/report.html")
    written = page.stat().st_mtime_ns

    # Finished ones cost nothing, and one that fails does not keep the others from running.
    gated = 'name = "gated"\ngate = ["n_elements"]\nbase.name = "ridge"\nsecond.name = "ridge"'
    one = Path("family/one.toml").read_text()
    Path("family/lost.toml").write_text(one.replace('name = "ridge"', gated))
    code, out, err = run("run", "family", "--workers", "1", "--trials", "3")
    assert code == 2
    assert "lost.toml: [estimator] gate: n_elements must be 1, which holds for none" in err
    assert "study 'two' is finished" in err
    assert page.stat().st_mtime_ns == written
    assert out.splitlines() == table

    rows = json.loads(run("compare", "--all", "--json")[1])
    assert [row["name"] for row in rows] == ["one", "two"]
    assert rows[0]["reported"]["name"] == "The one"
    assert rows[1]["reported"] is None
    assert rows[1]["n_test"] == 8
    assert run("compare", "one", "two")[1].splitlines() == table
    Path("other.toml").write_text(REPORTED.replace('"one"', '"two"'))
    rows = json.loads(run("compare", "--all", "--json", "--reported", "other.toml")[1])
    assert [bool(row["reported"]) for row in rows] == [False, True]
    code, _, err = run("compare")
    assert (code, "give the names of studies, or --all" in err) == (2, True)


def test_nothing_is_run_where_one_file_of_a_folder_is_wrong(run):
    write_family()
    path = Path("family/two.toml")
    text = path.read_text()
    for right, wrong, said in (
        ("data.csv", "lost.csv", "there is no file"),
        ("ridge", "rigde", "unknown 'rigde'"),
    ):
        path.write_text(text.replace(right, wrong))
        code, _, err = run("run", "family")
        assert code == 2
        assert said in err
        assert "1 study file not valid, none was run" in err
        assert not Path("hpo.db").exists()
    code, out, _ = run("check", "family")
    assert (code, "family/one.toml: ok" in out) == (2, True)
    code, _, err = run("run", "family", "--name", "x")
    assert (code, "have their files' names" in err) == (2, True)


def test_study_files_are_all_but_the_files_about_them(tmp_path):
    for name in ("b.toml", "a.toml", "reported.toml", "variants.toml", "c.csv"):
        (tmp_path / name).touch()
    assert [path.name for path in study_files(tmp_path)] == ["a.toml", "b.toml"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpecError, match="empty: holds no study file"):
        study_files(tmp_path / "empty")


VARIANTS = """
[fourfold]
description = "more folds"
set = ["cv.folds=4"]
[unflagged]
description = "without the column made from the target"
set = ["table.families-=sigma_is_coerced"]
"""


@pytest.mark.slow
def test_a_variant_of_a_folder_runs_what_it_concerns_under_names_of_its_own(run):
    write_family()
    knowing = 'allow_target_derived = ["sigma_is_coerced"]'
    two = Path("family/two.toml")
    text = two.read_text().replace("allow_target_derived = []", knowing)
    two.write_text(text.replace('["ratios"]', '["ratios", "sigma_is_coerced"]'))
    Path("family/variants.toml").write_text(VARIANTS)
    code, out, err = run("run", "family", "--workers", "1", "--variant", "unflagged")
    assert code == 0
    assert "one: variant unflagged does not concern it" in err
    assert "two.unflagged: finished, 2 of 2 trials" in out
    assert "study 'one" not in err
    assert run("run", "family", "--workers", "1", "--variant", "fourfold")[0] == 0
    rows = json.loads(run("compare", "--all", "--json")[1])
    assert [row["name"] for row in rows] == ["two.unflagged", "one.fourfold", "two.fourfold"]
    assert [row["n_features"] for row in rows] == [3, 3, 4]
    assert run("run", "family/two.toml", "--workers", "1")[0] == 0
    scores = {row["name"]: row for row in json.loads(run("compare", "--all", "--json")[1])}
    said = run("compare", "--all")[1]
    varied = said[said.index("variants side by side") :].splitlines()
    assert varied[1].split() == ["study", "figure", "as", "it", "is", "unflagged", "fourfold"]
    ours = [scores[name]["cv"]["r2"] for name in ("two", "two.unflagged", "two.fourfold")]
    assert varied[2].split() == ["two", "CV", "R2", *(f"{value:.3f}" for value in ours)]
    assert varied[5].split()[:2] == ["test", "rho"]
    assert "Scores by variant" in Path("reports/comparison.html").read_text(encoding="utf-8")
    # A study goes on as the variant that it is.
    assert "is finished" in run("resume", "two.unflagged", "--workers", "1")[2]

    code, _, err = run("run", "family/one.toml", "--variant", "fourfold", "--set", "cv.folds=4")
    assert (code, "--variant fourfold changes nothing in it" in err) == (2, True)
    code, _, err = run("run", "family/one.toml", "--variant", "unflagged")
    assert (code, "has no 'sigma_is_coerced'" in err) == (2, True)
    code, _, err = run("run", "family/one.toml", "--variant", "forefold")
    assert (code, "did you mean 'fourfold'" in err) == (2, True)
    Path("family/variants.toml").unlink()
    code, _, err = run("run", "family/one.toml", "--variant", "fourfold")
    assert (code, "variants.toml: cannot be read" in err) == (2, True)


# Columns made from the target ------------------------------------------------------------------


def test_a_column_made_from_the_target_must_be_named(run):
    write_family(flag=', "sigma_is_coerced"')
    for command in (("check", "family"), ("run", "family/one.toml"), ("run", "family")):
        code, _, err = run(*command)
        assert code == 2
        assert "made from the target: 'sigma_is_coerced' (family sigma_is_coerced)" in err
        assert 'allow_target_derived = ["sigma_is_coerced"]' in err
    assert not Path("tables").exists()
    knowingly = ("--set", 'allow_target_derived=["sigma_is_coerced"]')
    assert "study 'one'" in run("check", "family/one.toml", *knowingly)[1]
    # The permission is the study's: it makes no other table.
    first = json.loads(run("features", "build", "family/one.toml", "--json")[1])
    again = json.loads(run("features", "build", "family/one.toml", "--json", *knowingly)[1])
    assert again["reused"]
    assert first["hash"] == again["hash"]


def test_the_refusal_looks_at_the_table_itself(begin_study, storage, tmp_path):
    path = leaky_table(tmp_path / "tables", 0)
    source = Source("leaky.toml", (), None)
    with pytest.raises(SpecError, match=r"leaky\.toml: made from the target: 'is_high' \(family f"):
        begin(storage, make_spec(allow_target_derived=["is_hihg"]), source, path)
    begin(storage, make_spec(allow_target_derived=["is_high"]), source, path)
