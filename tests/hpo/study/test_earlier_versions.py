"""Studies of an earlier version, whose code was hashed otherwise: asked once, then as ever."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path

import pytest

from tests.support.studies import write_study


def make_older(name):
    """Store the fingerprint of a study as the version did that hashed code as text."""
    with contextlib.closing(sqlite3.connect("hpo.db")) as connection, connection:
        tables = "hpo_studies JOIN studies USING (study_id)"
        query = f"SELECT study_id, fingerprint FROM {tables} WHERE study_name = ?"
        study_id, text = connection.execute(query, (name,)).fetchone()
        stored = json.loads(text)
        assert stored.pop("code_format") == "2"
        stored["code"] = "0" * 64
        update = "UPDATE hpo_studies SET fingerprint = ? WHERE study_id = ?"
        connection.execute(update, (json.dumps(stored), study_id))


def page():
    return " ".join(Path("reports/x/report.html").read_text(encoding="utf-8").split())


@pytest.mark.slow
def test_a_study_of_an_earlier_version_is_asked_once(hpo):
    path = write_study(trials=2)
    hpo("run", path, "--workers", "1")
    make_older("x")
    for command in (("run", path), ("resume", "x", "--trust"), ("run", path, "--accept", "space")):
        refused = hpo(*command, code=3).stderr
        assert "study 'x': whether its code changed cannot be told" in refused
        assert "hashed it as text (code_format 1, here 2). If you only upgraded hpo" in refused
        assert "--accept code   (written down in the study)" in refused
        assert "begun with something else" not in refused
    # Nor can that its own code is what it was, which nobody imports unasked.
    hpo("budget", "x", "3")
    assert "--trust" in hpo("worker", "x", code=2).stderr
    hpo("worker", "x", "--trust", code=3)
    hpo("budget", "x", "2")
    hpo("report", "x", "--trust")
    assert "accept it: hpo resume x --accept code" in page()
    hpo("resume", "x", "--accept", "code", "--trust")
    assert "Of the code that computes a score, whether it changed cannot be told" in page()
    hpo("run", path, "--trials", "3", "--workers", "1")
    hpo("resume", "x", "--trials", "4", "--workers", "1")
    told = json.loads(hpo("provenance", "x", "--json").stdout)
    assert told["fingerprint"]["code_format"] == "2"
    (accepted,) = [event for event in told["events"] if event["kind"] == "accepted"]
    assert (accepted["part"], accepted["comparable"]) == ("code", False)


@pytest.mark.slow
def test_a_study_of_an_earlier_version_is_compared_in_all_else(hpo):
    path = write_study(trials=2)
    hpo("run", path, "--workers", "1")
    make_older("x")
    Path(path).write_text(Path(path).read_text().replace("high = 10.0", "high = 5.0"))
    refused = hpo("run", path, "--accept", "code", code=3).stderr
    assert "space: the search space changed" in refused
    assert "cannot be told" not in refused
    refused = hpo("run", path, code=3).stderr
    assert "whether its code changed cannot be told" in refused
    assert "--accept space,code   (written down in the study)" in refused
