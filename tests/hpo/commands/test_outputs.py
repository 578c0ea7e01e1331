"""Outputs where the user says, and texts of a study that a terminal or spreadsheet would obey."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import os
import re
import stat
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hpo.analysis.best_model import Evaluation, Predictions
from hpo.analysis.predictions_csv import predictions_csv, read_predictions
from hpo.cli import main, make_parser
from hpo.study.export import export
from hpo.worker.log import PlainFormatter
from tests.support.folders import listing
from tests.support.studies import make_spec, run_hpo

# Every command with an output of the user's choice that can be tried on one finished study.
WRITING = {
    "export": ("export", "t"),
    "export parquet": ("export", "t", "--format", "parquet"),
    "compare": ("compare", "t"),
    "rank": ("rank", "t", "mine.csv"),
    "init": ("init", "mine.csv"),
}
STARTS = {
    "export": b"number,",
    "export parquet": b"par1",
    "compare": b"<!doctype",
    "rank": b"rank,",
    "init": b"# mine.csv as hpo init understood it",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITING)
@pytest.mark.parametrize("to", ["-", "/dev/stdout", "/dev/null", "/dev/full", "pipe"])
def test_a_stream_is_written_to_and_nothing_beside_it(name, to, finished, tmp_path, capfdbinary):
    os.mkfifo(tmp_path / "pipe")
    piped: list[bytes] = []
    pipe = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(pipe, True)
    ours = os.open(tmp_path / "pipe", os.O_WRONLY)

    def read() -> None:
        with os.fdopen(pipe, "rb") as stream:
            piped.append(stream.read())

    reader = threading.Thread(target=read)
    reader.start()
    output = str(tmp_path / "pipe") if to == "pipe" else to
    here = listing(finished)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(finished)
        code = main([*WRITING[name], "--output", output])
    out, err = capfdbinary.readouterr()
    os.close(ours)
    reader.join(timeout=30)
    given = piped[0] if to == "pipe" else out
    if to == "/dev/full":
        assert code == 2
        assert err.endswith(b"error: /dev/full: cannot be written: No space left on device\n"), err
    else:
        assert code == 0, err
        if to != "/dev/null":
            assert given.lower().startswith(STARTS[name]), given[:100]
    if to != "pipe":
        assert b"/dev/" not in out
    assert listing(finished) == here
    assert (tmp_path / "pipe").is_fifo()
    assert all(stat.S_ISCHR(Path(path).stat().st_mode) for path in ("/dev/null", "/dev/full"))


@pytest.mark.parametrize(
    "arguments",
    [
        (command, *words, "--output", folder)
        for command, words in {
            "export": ("t",),
            "compare": ("t",),
            "rank": ("t", "x.csv"),
            "init": ("x.csv",),
            "intervals": ("a", "b", "c"),
            "db": ("backup", "x"),
        }.items()
        for folder in ("/", ".", "", "..")
    ],
)
def test_a_folder_is_no_output(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert f"--output: must be a file, and '{arguments[-1]}' is a folder" in capsys.readouterr().err


def test_every_command_takes_its_output_alike():
    """One function adds `--output`; the folder test above has to know all of them."""
    from hpo.cli import COMMANDS

    def with_output(parser, prefix=()):
        found = set()
        for action in parser._actions:
            if "--output" in action.option_strings:
                assert action.type is not Path, prefix
                found.add(prefix[0])
            for word, sub in (action.choices or {}).items() if action.nargs == "A..." else ():
                found |= with_output(sub, (*prefix, word))
        return found

    known = {"export", "compare", "rank", "init", "intervals", "db"}
    assert with_output(make_parser(COMMANDS)) == known


HOSTILE = [
    "=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "'=1", "''=1", "=", "-", "-5", "+.5e3", "'",
    "plain", "a\nb", '"', "\x1b[31mred\x1b[0m", "\x9b31m", "\x07", "\u202eabc",
]  # fmt: skip
OBEYED = re.compile(r"^'*[=+\-@\t\r]")
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_no_exported_cell_is_a_formula_or_steers_a_terminal(begin_study, tmp_path):
    record = begin_study(trials=len(HOSTILE), max_failures=99)
    for text in HOSTILE:
        claim = record.ledger.claim("w")
        record.storage.set_trial_user_attr(claim.trial_id, "note", text)
        record.storage.set_trial_user_attr(claim.trial_id, "=head", -0.5)
        record.ledger.fail(claim, text)
    path = tmp_path / "x.csv"
    export(record, path, "csv")
    rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
    for cell in (cell for row in rows for cell in row):
        assert not CONTROL.search(cell), cell
        assert len(cell) == 1 or is_number(cell) or not OBEYED.match(cell) or cell[0] == "'", cell
    frame = pd.read_csv(path)
    assert list(frame["note"][:4]) == ["'=1+1", "'+1+1", "'-1+1", "'@SUM(A1)"]
    assert list(frame["note"][9:12]) == ["-", "-5", "+.5e3"]
    assert list(frame["'=head"]) == [-0.5] * len(HOSTILE)


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_halves_of_surrogate_pairs_are_exported_as_escapes(begin_study, tmp_path, form):
    record = begin_study(trials=1, max_failures=9)
    claim = record.ledger.claim("w")
    record.storage.set_trial_user_attr(claim.trial_id, "note", "a \ud800 b")
    record.ledger.fail(claim, "why")
    assert export(record, tmp_path / "x", form) == 1
    readers: Any = {"csv": pd.read_csv, "json": pd.read_json, "parquet": pd.read_parquet}
    assert readers[form](tmp_path / "x")["note"].tolist() == ["a \\ud800 b"]


def test_predictions_come_back_as_they_were(tmp_path):
    # A table refuses ids and groups with control characters.
    kept = [text for text in HOSTILE if not re.search("[\x00-\x1f\x7f-\x9f]", text)]
    texts = np.array(kept)
    y = np.arange(len(texts), dtype=float)
    rows = Predictions(texts, y, -y, texts[::-1].copy(), np.zeros(len(texts), int), {}, {}, {})
    nothing: Any = dict.fromkeys(Evaluation.__dataclass_fields__)
    evaluation = Evaluation(**{**nothing, "cv": rows})
    path = tmp_path / "predictions.csv"
    path.write_text(predictions_csv(evaluation), encoding="utf-8", newline="")
    with path.open(newline="", encoding="utf-8") as stream:
        ids = [row[1] for row in csv.reader(stream)][1:]
    assert not [cell for cell in ids if re.match(r"[=@\t\r].|[+-][^.\d]|[+-]\d.*[^\d.e]", cell)]
    found = read_predictions(path)["cv"]
    assert list(found.ids) == kept
    assert list(found.groups) == kept[::-1]
    assert list(found.predicted) == list(-y)


def test_texts_of_a_study_do_not_steer_the_terminal(begin_study, tmp_path, capsys, monkeypatch):
    evil = "\x1b]0;title\x07\x1b[31mred\r\x9b2J\x7f\u202e"
    record = begin_study(description=evil, max_failures=9)
    record.ledger.fail(record.ledger.claim(f"w{evil}"), f"ValueError: {evil}")
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ["status", "small"], ["status", "small", "--json"], ["logs", "small"], ["status", evil],
        ["provenance", "small"], ["provenance", "small", "--json"], ["compare", "small"],
        ["export", evil], ["run", evil], ["check", "x.toml", "--set", f"name={evil}"],
        ["run", "x.toml", "--trials", evil], [evil],
    ):  # fmt: skip
        with contextlib.suppress(SystemExit):
            main(arguments)
        said = capsys.readouterr()
        assert not CONTROL.search(said.out + said.err), arguments
    main(["status", "small"])
    assert "trial 0 failed: ValueError: \\u001b]0;title" in capsys.readouterr().out


def test_logs_show_what_a_terminal_would_obey():
    record = logging.LogRecord("x", logging.INFO, "x.py", 1, "a\x1b[31m %s", ("b\x07",), None)
    assert PlainFormatter("%(message)s").format(record) == "a\\u001b[31m b\\u0007"


@pytest.mark.slow
def test_a_spec_may_hold_them_and_is_still_shown(tmp_path, monkeypatch):
    assert make_spec(description="\x1b[31m").description == "\x1b[31m"
    monkeypatch.chdir(tmp_path)
    assert "\x1b" not in run_hpo("status", "\x1b[31m", code=2).stderr
