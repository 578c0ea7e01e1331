"""Reports of studies that end where nobody waits, and of equal names in several storages."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from hpo.cli import main
from hpo.records import Access, WorkerRun
from hpo.report import at_end
from hpo.report.at_end import write_when_finished
from hpo.report.study_page import write_report
from hpo.storage.backends import open_storage
from hpo.storage.events import EventKind
from hpo.study.creation import begin
from hpo.study.preparation import SharedWork
from hpo.study.record import Source, find
from hpo.study.report_folder import report_folder
from hpo.study.told import BASELINE, BASELINE_RESULT
from tests.support.studies import make_spec
from tests.support.trials import finish_trials

SLOPE = {
    "table": None, "cv": None, "estimator": None, "trials": 2,
    "objective": {"name": "tests.support.objectives:Slope"},
}  # fmt: skip


@pytest.fixture
def begin_in(tmp_path):
    """Begin a study in a SQLite file; all files are closed at the end."""
    storages = []

    def begin_one(file: str, **changes):
        storages.append(open_storage(f"sqlite:///{tmp_path / file}", Access.CREATE))
        spec = make_spec(**SLOPE | changes)
        return begin(storages[-1], spec, Source("x.toml", (), None), None)

    yield begin_one
    for storage in storages:
        storage.remove_session()
        storage.engine.dispose()


def finish(record, *scores: float) -> None:
    finish_trials(record.ledger, [*scores])


def test_a_report_waits_for_a_baseline_that_is_being_scored(begin_in, tmp_path):
    record = begin_in("a.db")
    said: list[str] = []
    record.ledger.register("w", WorkerRun("here", 1))
    work = SharedWork(record, BASELINE, "w")
    assert work.take()
    finish(record, 0.5, 0.25)
    assert write_when_finished(record, tmp_path, said.append) is None
    work.finish(BASELINE_RESULT, json.dumps({"failure": "no water"}), EventKind.BASELINE)
    page = write_when_finished(record, tmp_path, said.append)
    assert page is not None
    assert "the baseline has no score: no water" in page.read_text()
    assert not said


def test_of_many_that_see_the_end_one_writes_the_report(begin_in, tmp_path, monkeypatch):
    record = begin_in("a.db")
    reports = tmp_path / "reports"
    said: list[str] = []
    written: list[int] = []
    finish(record, 0.5)
    assert write_when_finished(record, reports, said.append) is None
    finish(record, 0.25)

    def count(*arguments):
        written.append(threading.get_ident())
        return write_report(*arguments)

    monkeypatch.setattr(at_end, "write_report", count)
    # Jobs that end at one moment are processes with storages of their own.
    url = f"sqlite:///{tmp_path / 'a.db'}"
    storages = [open_storage(url, Access.WORK) for _ in range(4)]
    each = [find(storage, "small") for storage in storages]
    threads = [
        threading.Thread(target=write_when_finished, args=(one, reports, said.append))
        for one in each
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for storage in storages:
        storage.remove_session()
        storage.engine.dispose()
    assert (len(written), said) == (1, [])
    assert (reports / "small" / "report.html").is_file()
    assert write_when_finished(record, reports, said.append) is None
    assert len(written) == 1
    record.ledger.set_budget(3)
    finish(record, 0.125)
    assert write_when_finished(record, reports, said.append) == reports / "small" / "report.html"


@pytest.mark.parametrize("harm", ["objective", "folder", "disk", "code"])
def test_a_report_that_cannot_be_written_fails_nothing(begin_in, tmp_path, harm, monkeypatch):
    record = begin_in("a.db")
    finish(record, 0.5, 0.25)
    reports = tmp_path / "reports"
    said: list[str] = []
    if harm == "folder":
        reports.write_text("no folder")
    elif harm != "objective":
        error = OSError(28, "No space left") if harm == "disk" else RecursionError("odd")
        monkeypatch.setattr(at_end, "write_report", lambda *_: (_ for _ in ()).throw(error))
    else:

        def leave(self, table, *, seed):
            raise SystemExit(0)

        monkeypatch.setattr("tests.support.objectives.Slope.__init__", leave)
    page = write_when_finished(record, reports, said.append)
    if harm == "objective":  # a page that says so is a report, and is not written twice
        assert page is not None
        assert "cannot be made" in page.read_text()
        assert write_when_finished(record, reports, said.append) is None
        assert not said
    else:
        assert page is None
        (line,) = said
        assert line.startswith("no report: ")
        assert line.endswith("write it with: hpo report small")


def test_status_says_whether_the_report_of_a_finished_study_is_there(
    begin_in, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    record = begin_in("a.db")
    arguments = ["status", "small", "--storage", "sqlite:///a.db"]
    finish(record, 0.5)
    assert main(arguments) == 0
    assert "report" not in capfd.readouterr().out
    finish(record, 0.25)
    assert main(arguments) == 0
    command = "hpo report small --storage sqlite:///a.db"
    assert f"report: none in reports/small; write it: {command}" in capfd.readouterr().out
    assert not Path("reports").exists()
    assert main(command.split()[1:]) == 0
    capfd.readouterr()
    assert main(arguments) == 0
    assert "  report: reports/small/report.html\n" in capfd.readouterr().out
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capfd.readouterr().out)["report"]
    assert told == {"page": "reports/small/report.html", "exists": True, "current": True}
    record.ledger.set_budget(1)
    assert main(arguments) == 0
    assert f"older than study or code; write it again: {command}" in capfd.readouterr().out


def test_equal_names_in_two_storages_have_two_reports(begin_in, tmp_path):
    reports = tmp_path / "reports"
    first, second = begin_in("a.db"), begin_in("b.db")
    for record, score in ((first, 0.5), (second, 0.25)):
        finish(record, score, score)
        assert report_folder(record, reports) == write_report(record, reports).parent
    pages = [report_folder(record, reports) / "report.html" for record in (first, second)]
    assert pages[0].parent == reports / "small"
    assert pages[1].parent == reports / f"small-{second.uid[:8]}"
    assert "0.5" in pages[0].read_text()
    before = pages[0].read_bytes()
    write_report(second, reports)
    assert pages[0].read_bytes() == before


def test_a_study_begun_anew_or_moved_has_the_report_of_its_name(begin_in, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reports = tmp_path / "reports"
    record = begin_in("a.db")
    finish(record, 0.5, 0.5)
    page = write_report(record, reports)
    # The same study, wherever its file is now.
    Path("moved").mkdir()
    assert main(["copy", "sqlite:///a.db", "sqlite:///moved/a.db"]) == 0
    moved = open_storage("sqlite:///moved/a.db", Access.READ)
    assert report_folder(find(moved, "small"), reports) == page.parent
    moved.engine.dispose()
    assert main(["delete", "small", "--storage", "sqlite:///a.db"]) == 0
    again = begin_in("a.db")
    assert again.uid != record.uid
    finish(again, 0.25, 0.25)
    assert write_report(again, reports) == page
    assert json.loads((page.parent / ".study").read_text())["uid"] == again.uid


def test_delete_prints_what_is_gone_and_what_stays(begin_in, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    record = begin_in("a.db")
    finish(record, 0.5, 0.5)
    write_report(record, Path("reports"))
    Path("logs/small").mkdir(parents=True)
    Path("models/small-0123456789ab").mkdir(parents=True)
    arguments = ["delete", "small", "--storage", "sqlite:///a.db"]
    assert main(arguments) == 0
    gone, kept = capfd.readouterr().out.splitlines()
    assert gone.startswith(
        "study 'small' deleted from sqlite:///a.db: 2 of 2 trials finished, 0 failed; "
    )
    assert kept == "its files stay: reports/small, logs/small, models/small-0123456789ab"
    assert main(arguments) == 2
    assert "holds no study 'small'" in capfd.readouterr().err
