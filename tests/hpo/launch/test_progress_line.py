"""What `hpo run` shows on the way and at the end, of trials that fail above all."""

from __future__ import annotations

import io
import math

import pytest

from hpo.launch.progress_line import MAX_FAILURES, MAX_KINDS, Progress
from hpo.records import Claim
from hpo.study.failures import group_failures
from hpo.study.status import take_status
from tests.support.ledgers import begin_without_table
from tests.support.trials import finish_trials


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def record(tmp_path):
    made = begin_without_table(f"sqlite:///{tmp_path / 'hpo.db'}", trials=50, max_failures=1000)
    yield made
    made.storage.remove_session()
    made.storage.engine.dispose()


def fail(record, *reasons):
    for reason in reasons:
        claim = record.ledger.claim("w")
        assert isinstance(claim, Claim)
        record.ledger.fail(claim, reason)


def lines_of_failures(stream):
    return [line for line in stream.getvalue().splitlines() if " failed: " in line]


def test_the_first_failures_are_shown_as_they_happen(record):
    fail(record, "from an earlier run")
    stream = io.StringIO()
    progress = Progress(record, stream)
    progress(take_status(record))
    assert not lines_of_failures(stream)
    fail(record, "a: ValueError: x\u001b[31m\n" + "y" * 5000, "b: sys.exit(1)")
    for _ in range(2):
        progress(take_status(record))
    first, second = lines_of_failures(stream)
    assert first.startswith(r"trial 1 failed: a: ValueError: x\u001b[31m yyy")
    assert len(first) < 230
    assert second == "trial 2 failed: b: sys.exit(1)"
    for _ in range(20):
        fail(record, "c")
        progress(take_status(record))
    assert len(lines_of_failures(stream)) == MAX_FAILURES
    assert stream.getvalue().count("further failures are counted") == 1


def test_the_time_left_is_known_once_a_trial_is_finished(record):
    progress = Progress(record, io.StringIO())
    progress(take_status(record))
    assert math.isinf(progress.left_s)
    finish_trials(record.ledger, [0.5])
    progress(take_status(record))
    assert 0.0 < progress.left_s < 600.0


def test_a_terminals_line_is_drawn_again_below_a_failure(record):
    stream = Terminal()
    progress = Progress(record, stream)
    progress(take_status(record))
    fail(record, "no")
    status = take_status(record)
    progress(status)
    clear = "\r\x1b[2K"
    assert stream.getvalue().endswith(
        f"{clear}0/50 trials{clear}trial 0 failed: no\n{clear}0/50 trials  1 failed"
    )
    progress(status)
    assert stream.getvalue().count(clear) == 3


def test_the_reasons_are_summed_up_at_the_end(record):
    fail(record, *(f"a: ValueError: alpha too small: {n / 7}" for n in range(9)))
    fail(record, *("b: KeyError: 'x0'", "b: KeyError: 'x1'"), *map(str.upper, "pqrst"))
    stream = io.StringIO()
    Progress(record, stream).close()
    said = stream.getvalue().splitlines()
    assert said[:3] == [
        "16 trials failed:",
        "  9  a: ValueError: alpha too small: 0.0 (trial 0 and others)",
        "  1  b: KeyError: 'x0' (trial 9)",
    ]
    assert said[MAX_KINDS + 1 :] == [
        "  and 3 for other reasons",
        "  more about one of them: hpo logs small --trial 0",
    ]


def test_nothing_is_said_of_failures_where_there_are_none(record):
    stream = io.StringIO()
    Progress(record, stream).close()
    assert not stream.getvalue()


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("x = 1.5", "x = -2e-07", True),
        ("killed by signal 9 after 3 s", "killed by signal 15 after 12 s", True),
        ("3 workers died", "2 workers died", True),
        ("x0 is bad", "x1 is bad", False),
        ("fold 1: no", "fold 2: no", True),
        ("a", "b", False),
    ],
)
def test_reasons_that_differ_in_numbers_alone_are_one_kind(one, other, alike):
    kinds = group_failures([(7, other), (3, one), (5, one)])
    assert kinds[0].reason == one
    assert [kind.numbers for kind in kinds] == ([(3, 5, 7)] if alike else [(3, 5), (7,)])


def test_what_workers_wait_for_is_told_once(record):
    stream = io.StringIO()
    progress = Progress(record, stream)
    for text in ("the disk is full", "the disk is full", "no answer"):
        progress.tell(text)
    assert stream.getvalue() == "the disk is full\nno answer\n"
