"""Whatever an objective hands over, it is stored or its trial fails, and the work goes on."""

from __future__ import annotations

import collections
import decimal
import fractions
import itertools
import logging
import math
import sys
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from hpo.errors import ObjectiveError
from hpo.objectives.scores import MAX_NAME, MAX_NAMES, MAX_TEXT
from hpo.records import ResolvedTrial, WorkerRun
from hpo.spec.objectives import Direction
from hpo.worker.checked_objective import CheckedObjective
from hpo.worker.worker import Worker
from tests.support.ledgers import begin_without_table

GOOD: Any = {"score": 1.0}


@pytest.fixture(autouse=True)
def _quiet():
    # Texts that no encoding knows would be kept with the report of a failed test.
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class Scripted:
    """Returns what it is told to, once; good scores before and after."""

    direction: Direction = "minimize"
    score_name = "scripted"
    parts: Sequence[str] = ("a", "b")
    splits_hash = ""

    def __init__(self) -> None:
        self.part = self.total = self.settled = None
        self.seen: list[dict[str, Any]] = []

    def score_part(self, params, part):
        params.clear()
        return GOOD if part == 0 else self._take("part", GOOD)

    def settle(self, parts, *, pruned):
        return self._take("settled", None)

    def combine(self, parts):
        self.seen = [dict(part) for part in parts]
        for part in parts:
            part["score"] = object()
        return self._take("total", GOOD)

    def _take(self, name, usual):
        told = getattr(self, name)
        setattr(self, name, None)
        if told is None:
            return usual
        return told() if callable(told) else told


class Bench:
    """A study that never ends, on a database of its own, and an objective with a script."""

    def __init__(self, url):
        # No sampler that learns: it would read and model all earlier trials for every new one.
        drawn = {"sampler": {"name": "random"}}
        limits = {"max_failures": 10**9, "max_deaths": 2}
        self.record = begin_without_table(url, trials=1, **limits, **drawn)
        self.objective = Scripted()
        self.n_trials = 0

    def run(self, **script):
        """Run a worker until one more trial is complete; return the new trials."""
        vars(self.objective).update(script)
        self.record.ledger.set_budget(self.record.ledger.counts().finished + 1)
        worker = Worker(self.record, self.objective, f"w{uuid.uuid4()}")
        outcome = worker.run(WorkerRun("here", 1))
        assert outcome == "the budget is finished"
        return [*self.new_trials()]

    def new_trials(self):
        """Read the trials that have come since the last call, and no others."""
        storage, counts = self.record.storage, self.record.ledger.counts()
        while self.n_trials < counts.finished + counts.failed:
            its = (self.record.study_id, self.n_trials)
            self.n_trials += 1
            yield storage.get_trial(storage.get_trial_id_from_study_id_trial_number(*its))

    def reason(self, **script):
        """Return why the first of the trials failed; the one after it must be complete."""
        failed, complete = self.run(**script)
        assert (failed.state, complete.state) == (TrialState.FAIL, TrialState.COMPLETE)
        reason = failed.user_attrs["failure"]
        assert 10 < len(reason) <= 1000
        assert reason.isprintable()
        return reason


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def bench(request, tmp_path_factory):
    if request.param == "postgresql":
        url = request.getfixturevalue("shared_postgres_url")
    else:
        url = f"sqlite:///{tmp_path_factory.mktemp('studies') / 'hpo.db'}"
    made = Bench(url)
    yield made
    made.record.storage.remove_session()
    made.record.storage.engine.dispose()


def raising(exc):
    def call():
        raise exc

    return call


class Weird:
    """A number that raises what it is told to, and cannot be printed either."""

    def __init__(self, exc):
        self.exc = exc

    def __float__(self):
        raise self.exc

    def __repr__(self):
        raise self.exc


class UnprintableError(Exception):
    def __str__(self):
        sys.exit(4)


class Liar(dict[str, float]):
    """Says that it is empty, and is endless."""

    def __len__(self):
        return 0

    def items(self):
        n = 0
        while True:
            n += 1
            yield f"x{n}", n


class Twice(dict[str, float]):
    def items(self):
        return [("score", 1.0), ("score", 2.0)]


class Name(str):
    """Equal to everything."""

    __slots__ = ()

    def __eq__(self, other):
        return True

    def __hash__(self):
        return 1


EXITS = {
    "sys.exit": (SystemExit(3), "sys.exit(3)"),
    "exit without a code": (SystemExit(), "sys.exit()"),
    "Ctrl-C of its own": (KeyboardInterrupt(), "KeyboardInterrupt"),
    "generator": (GeneratorExit(), "GeneratorExit"),
    "stop": (StopIteration(5), "StopIteration: 5"),
    "base": (BaseException("odd"), "BaseException: odd"),
    "memory": (MemoryError(), "MemoryError"),
    "own error": (ObjectiveError("no such solvent"), ": no such solvent"),
    "unprintable": (UnprintableError(), "UnprintableError that cannot be printed"),
    "control characters": (ValueError("\x1b[31mred\x00\n\ud800"), r"\u001b[31mred\u0000 \ud800"),
    "10 MB": (ValueError("x" * 10_000_000 + "end"), "end"),
}


# What a reason begins with, by what the objective was told to do it in.
PREFIXES = {"part": "b", "settled": "settle", "total": "combine"}


@pytest.mark.parametrize("where", [*PREFIXES])
@pytest.mark.parametrize("exc", EXITS)
def test_whatever_is_raised_fails_the_trial_alone(bench, where, exc):
    raised, said = EXITS[exc]
    reason = bench.reason(**{where: raising(raised)})
    assert reason.startswith(f"{PREFIXES[where]}: ")
    assert reason.endswith(said)


NOT_SCORES: dict[str, tuple[Any, str]] = {
    "no number": (0.5, "must return a mapping of names to numbers with the key 'score'"),
    "list": ([("score", 1.0)], "must return a mapping"),
    "generator": ((x for x in "ab"), "must return a mapping"),
    "text": ("score", "returned 'score'"),
    "class": (lambda: dict, "TypeError"),
    "empty": ({}, "lacks the key 'score'; is empty"),
    "no score": ({"rmse": 1.0}, "lacks the key 'score'; has ['rmse']"),
    "endless": (Liar(), "at most 1,000 scores"),
    "twice": (Twice(), "'score': there are two scores of this name"),
    "number as name": ({**GOOD, 3: 1.0}, "a name must be a text, is 3"),
    "empty name": ({**GOOD, "": 1.0}, "'': a name must not be empty"),
    "blank name": ({**GOOD, " x": 1.0}, "' x': a name must not be empty, nor begin"),
    "long name": ({**GOOD, "x" * 513: 1.0}, "a name must have at most 512 characters, has 513"),
    "NUL": ({**GOOD, "a\0b": 1.0}, r"'a\x00b': a name must be printable"),
    "surrogate": ({**GOOD, "\ud800": 1.0}, r"'\ud800': a name must be printable"),
    "escape": ({**GOOD, "\x1b[2J": 1.0}, "a name must be printable"),
    "ours": ({**GOOD, "wall_s": 1.0}, "'wall_s': hpo keeps something by this name"),
    "ours, lying": ({**GOOD, Name("wall_s"): 1.0}, "'wall_s': hpo keeps something"),
    "None": ({**GOOD, "x": None}, "'x': must be a number, is None"),
    "bytes": ({**GOOD, "x": b"1"}, "'x': must be a number, is b'1'"),
    "list as value": ({**GOOD, "x": [1.0]}, "'x': must be a number, is [1.0]"),
    "complex": ({**GOOD, "x": 1j}, "'x': must be a number, is 1j"),
    "numpy's complex": ({**GOOD, "x": np.complex128(1j)}, "'x': must be a number"),
    "array": ({**GOOD, "x": np.ones(1)}, "'x': must be a number, is array([1.])"),
    "0-d objects": ({**GOOD, "x": np.array(None)}, "'x': must be a number"),
    "time": ({**GOOD, "x": np.timedelta64(3, "s")}, "'x': must be a number"),
    "pandas": ({**GOOD, "x": pd.Series([1.0, 2.0])}, "'x': must be a number"),
    "missing": ({**GOOD, "x": pd.NA}, "'x': must be a number, is <NA>"),
    "beyond a float": ({**GOOD, "x": 10**400}, "'x': is too large for a float: 1"),
    "beyond printing": ({**GOOD, "x": 10**9999}, "'x': is too large for a float: something of"),
    "signalling": ({**GOOD, "x": decimal.Decimal("sNaN")}, "ValueError"),
    "raises": ({**GOOD, "x": Weird(KeyError("k"))}, "KeyError: 'k'"),
    "exits": ({**GOOD, "x": Weird(SystemExit(9))}, "sys.exit(9)"),
    "nan": ({"score": math.nan}, "'score': must be finite, is nan"),
    "infinite": ({"score": np.float32(-np.inf)}, "'score': must be finite, is -inf"),
    "overflown": ({"score": decimal.Decimal("1e999")}, "'score': must be finite, is inf"),
    "text as score": ({"score": "1.0"}, "'score': must be a number, is '1.0'"),
    "unprintable score": ({"score": {Weird(SystemExit(9)): 1}}, "is something of type dict"),
}
NO_PARTS = NOT_SCORES | {
    "long text": ({**GOOD, "x": "x" * 10_000_000}, "'x': the texts of a part have at most"),
    "texts": ({**GOOD, "x": "x" * MAX_TEXT, "y": "y"}, "'y': the texts of a part have at most"),
    "text with NUL": ({**GOOD, "x": "a\0b"}, "'x': a text must have no control characters"),
    "text with half a pair": ({**GOOD, "x": "\udc00"}, "'x': a text must have no control"),
}
NO_TOTALS = NOT_SCORES | {
    "text": ({**GOOD, "x": "a"}, "'x': must be a number, is 'a'"),
    "part": ({**GOOD, "part 0": 1.0}, "'part 0': hpo keeps something by this name"),
    "later part": ({**GOOD, "part 17": 1.0}, "'part 17': hpo keeps something by this name"),
    "worker": ({**GOOD, "worker": 1.0}, "'worker': hpo keeps something by this name"),
    "failure": ({**GOOD, "failure": 1.0}, "'failure': hpo keeps something by this name"),
    "pruned": ({**GOOD, "pruned": 1.0}, "'pruned': hpo keeps something by this name"),
}


@pytest.mark.parametrize(("told", "rule"), NO_PARTS.values(), ids=NO_PARTS)
def test_what_is_no_score_of_a_part_fails_the_trial(bench, told, rule):
    reason = bench.reason(part=told)
    assert reason.startswith("b: ")
    assert rule in reason


@pytest.mark.parametrize(("told", "rule"), NO_TOTALS.values(), ids=NO_TOTALS)
def test_what_is_no_score_of_a_trial_fails_it(bench, told, rule):
    reason = bench.reason(total=told)
    assert reason.startswith("combine: ")
    assert rule in reason


DEPTH = IntDistribution(1, 9)
ENDLESS: Any = itertools.repeat(GOOD)
NOT_SETTLED: dict[str, tuple[Any, str]] = {
    "no record": ([GOOD, GOOD], "must return a ResolvedTrial or None"),
    "too few": (ResolvedTrial({}, {}, [GOOD]), "as many parts as there are: 2"),
    "too many": (ResolvedTrial({}, {}, [GOOD] * 3), "as many parts as there are: 2"),
    "endless": (ResolvedTrial({}, {}, ENDLESS), "as many parts"),
    "no scores": (ResolvedTrial({}, {}, [GOOD, {}]), "lacks the key 'score'"),
    "drawn": (
        ResolvedTrial({"alpha": 1.0}, {"alpha": FloatDistribution(0, 2)}, [GOOD] * 2),
        "parameter 'alpha' is drawn and cannot be settled",
    ),
    "without a distribution": (ResolvedTrial({"n": 5}, {}, [GOOD] * 2), "ValueError"),
    "no distribution": (ResolvedTrial({"n": 5}, {"n": 5}, [GOOD] * 2), "Error"),  # type: ignore[dict-item]
    "out of it": (ResolvedTrial({"n": 11}, {"n": DEPTH}, [GOOD] * 2), "ValueError"),
    "no number": (ResolvedTrial({"n": "x"}, {"n": DEPTH}, [GOOD] * 2), "ValueError"),
    "name": (ResolvedTrial({"n\0": 5}, {"n\0": DEPTH}, [GOOD] * 2), "a name must be printable"),
    "long name": (
        ResolvedTrial({"n" * 513: 5}, {"n" * 513: DEPTH}, [GOOD] * 2),
        "a name must have at most 512 characters",
    ),
    "no JSON": (
        ResolvedTrial({"n": 1j}, {"n": CategoricalDistribution((1.0, 2.0))}, [GOOD] * 2),
        "ValueError",
    ),
}


@pytest.mark.parametrize(("told", "rule"), NOT_SETTLED.values(), ids=NOT_SETTLED)
def test_what_cannot_be_settled_fails_the_trial(bench, told, rule):
    reason = bench.reason(settled=told)
    assert reason.startswith("settle: ")
    assert rule in reason


def test_what_is_settled_is_stored(bench):
    parts: list[Any] = [{"score": 2.0}, {"score": 3.0, "note": "n"}]
    (trial,) = bench.run(settled=ResolvedTrial({"n": 5}, {"n": DEPTH}, parts))
    assert trial.params["n"] == 5
    assert trial.intermediate_values == {0: 2.0, 1: 3.0}
    assert trial.user_attrs["part 1"].keys() == {"score", "note", "wall_s"}
    assert bench.objective.seen == parts


def test_an_objective_cannot_change_what_is_kept(bench):
    (trial,) = bench.run()
    assert [trial.user_attrs[f"part {k}"]["score"] for k in range(2)] == [1.0, 1.0]
    assert "alpha" in trial.params
    assert bench.objective.seen == [GOOD, GOOD]


NUMBERS = (
    st.integers(-(2**60), 2**60)
    | st.booleans()
    | st.floats()
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.builds(np.float32, st.floats(width=32))
    | st.builds(np.int8, st.integers(-100, 100))
    | st.builds(np.bool_, st.booleans())
    | st.builds(np.array, st.floats())
)
NAMES = st.text(
    st.characters(exclude_categories=["C", "Z"], include_characters=" /.'\"\\%$"), min_size=1
).filter(lambda name: name == name.strip() and name.isprintable() and not is_ours(name))
TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs"], include_characters="\n\t\r"))
FINITE = st.floats(allow_nan=False, allow_infinity=False)
RESTARTED = settings(
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def is_ours(name):
    return name in ("score", "wall_s", "worker", "failure", "pruned") or name.startswith("part ")


def as_stored(scores):
    """What JSON holds of scores."""
    told = {name: v if isinstance(v, str) else float(v) for name, v in scores.items()}
    return {n: v if isinstance(v, str) or math.isfinite(v) else None for n, v in told.items()}


@pytest.mark.slow
@settings(RESTARTED, max_examples=40)
@given(
    st.dictionaries(NAMES, NUMBERS | TEXTS, max_size=4),
    st.dictionaries(NAMES, NUMBERS, max_size=4),
    FINITE,
    FINITE,
)
def test_scores_are_read_back_as_they_were_returned(bench, part, total, of_part, of_trial):
    part, total = part | {"score": of_part}, total | {"score": of_trial}
    (trial,) = bench.run(part=part, total=collections.UserDict(total))
    kept = dict(trial.user_attrs)
    stored = kept.pop("part 1")
    assert stored.pop("wall_s") >= 0.0
    assert stored == as_stored(part)
    assert kept.pop("worker").startswith("w")
    del kept["part 0"], kept["wall_s"]
    assert {**kept, "score": trial.value} == as_stored(total)
    assert trial.intermediate_values[1] == of_part
    resumed = {n: v if isinstance(v, str) else float(v) for n, v in part.items()}
    assert bench.objective.seen[1].keys() == resumed.keys()


ANYTHING = st.recursive(
    st.none()
    | NUMBERS
    | st.complex_numbers()
    | st.text(st.characters(codec=None))
    | st.binary()
    | st.integers()
    | st.just(10**400)
    | st.builds(object)
    | st.sampled_from([*EXITS]).map(lambda key: Weird(EXITS[key][0]))
    | st.builds(np.array, st.lists(st.floats(), max_size=2)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec=None)) | st.integers(), inner, max_size=3)
    ),
    max_leaves=5,
)
ODD_NAMES = st.text(st.characters(codec=None), max_size=3) | st.sampled_from(
    ["wall_s", "worker", "part 0", "part 00", "x" * MAX_NAME, "x" * (MAX_NAME + 1), "é", "\u202e"]
)
ODD_SCORES = st.builds(
    lambda odd, score: {**odd, "score": score},
    st.dictionaries(ODD_NAMES | st.integers(), ANYTHING, max_size=3),
    FINITE | ANYTHING,
)


@pytest.mark.slow
@settings(RESTARTED, max_examples=60)
@given(st.sampled_from([*PREFIXES]), ANYTHING | ODD_SCORES)
def test_anything_is_stored_or_refused_and_work_goes_on(bench, where, told):
    first, *more = bench.run(**{where: (lambda: told)})
    if first.state is TrialState.COMPLETE:
        assert not more
        if told is not None and where == "total":
            kept = {n: v for n, v in first.user_attrs.items() if not is_ours(n)}
            assert {**kept, "score": first.value} == as_stored(told)
        elif told is not None and where == "part":
            stored = dict(first.user_attrs["part 1"])
            del stored["wall_s"]
            assert stored == as_stored(told)
        else:
            assert told is None
    else:
        assert [trial.state for trial in more] == [TrialState.COMPLETE]
        reason = first.user_attrs["failure"]
        assert reason.startswith(
            {"part": "b: ", "total": "combine: ", "settled": "settle: "}[where]
        )
        assert len(reason) <= 1000
        assert reason.isprintable()


def test_a_thousand_scores_are_kept(bench):
    told = {f"x{n}": n for n in range(MAX_NAMES - 1)} | {"score": fractions.Fraction(1, 3)}
    (trial,) = bench.run(total=told)
    assert trial.value == 1 / 3
    assert trial.user_attrs["x998"] == 998.0


class Computed(Scripted):
    """Parts and direction are what they are told to be, or raise it."""

    def __init__(self, parts=("a",), direction="minimize") -> None:
        self.told = {"parts": parts, "direction": direction}

    def __getattribute__(self, name):
        if name in ("parts", "direction"):
            told = self.told[name]
            return told() if callable(told) else told
        return super().__getattribute__(name)


@pytest.mark.parametrize(
    ("told", "rule"),
    [
        ({"parts": raising(SystemExit(1))}, "sys.exit(1)"),
        ({"parts": raising(KeyError("x"))}, "KeyError: 'x'"),
        ({"parts": "abc"}, "parts must be a sequence of names, are 'abc'"),
        ({"parts": None}, "parts must be a sequence of names, are None"),
        ({"parts": ()}, "parts must be 1 to 100,000 names, are ()"),
        ({"parts": range(10**12)}, "a name must be a text, is 0"),
        ({"parts": ["x"] * 10**6}, "parts must be 1 to 100,000 names"),
        ({"parts": ("a", "b", "a")}, "two are 'a'"),
        ({"parts": ("a", 1)}, "a name must be a text, is 1"),
        ({"parts": ("a\nb",)}, "a name must be printable"),
        ({"parts": ("",)}, "must not be empty"),
        ({"direction": "up"}, "direction must be minimize or maximize, is 'up'"),
        ({"direction": raising(SystemExit(1))}, "sys.exit(1)"),
    ],
)
def test_parts_and_directions_are_checked_before_any_trial(told, rule):
    with pytest.raises(ObjectiveError) as refused:
        CheckedObjective(Computed(**told), ())
    assert str(refused.value).startswith("[objective]: ")
    assert rule in str(refused.value)


def test_parts_are_asked_for_once():
    calls = iter([("a", "b"), ("c",)])
    checked = CheckedObjective(Computed(parts=lambda: next(calls)), ())
    assert checked.parts == ("a", "b")
    assert checked.parts == ("a", "b")
