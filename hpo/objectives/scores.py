"""What an objective may hand to the engine: names of parts, scores and their names, and the rules.

Whatever breaks a rule would otherwise end the worker that stores it, and the next one after it.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import numbers
import re
import reprlib
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, get_args

import numpy as np

from hpo.errors import HpoError, LostLeaseError, ObjectiveError, StopRequested, StorageError
from hpo.records import FAILURE_KEY, PRUNED_KEY, WALL_KEY, WORKER_KEY
from hpo.spec.objectives import Direction
from hpo.wording import one_line

# As many characters as Optuna's tables have for a key.
MAX_NAME = 512
MAX_NAMES = 1000
MAX_PARTS = 100_000
# Characters of all texts of a part together.
MAX_TEXT = 1_000_000
SCORE = "score"
# What the engine keeps beside the scores of a trial; the times of parts are among them.
_OF_TRIAL = re.compile("|".join([WALL_KEY, WORKER_KEY, FAILURE_KEY, PRUNED_KEY, "part [0-9]+"]))
_OF_PART = re.compile(WALL_KEY)
# PostgreSQL or UTF-8 refuse NUL and halves of surrogate pairs, terminals obey the others.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60
_Value = TypeVar("_Value")


def check_parts(parts: Any) -> tuple[str, ...]:
    """Return the names of an objective's parts.

    Raises
    ------
    ObjectiveError
        If they are not one name or more, no two alike.
    """
    if not isinstance(parts, Sequence) or isinstance(parts, str | bytes):
        raise ObjectiveError(f"parts must be a sequence of names, are {shown(parts)}")
    names = tuple(map(check_name, itertools.islice(iter(parts), MAX_PARTS + 1)))
    if not 0 < len(names) <= MAX_PARTS:
        raise ObjectiveError(f"parts must be 1 to {MAX_PARTS:,} names, are {shown(parts)}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ObjectiveError(f"parts must have names of their own, two are {shown(twice)}")
    return names


def check_direction(direction: Any) -> Direction:
    """Return the direction of an objective.

    Raises
    ------
    ObjectiveError
        If it is not one.
    """
    for known in get_args(Direction):
        if direction == known:
            found: Direction = known
            return found
    valid = " or ".join(get_args(Direction))
    raise ObjectiveError(f"direction must be {valid}, is {shown(direction)}")


def check_part(scored: Any) -> dict[str, float | str]:
    """Return what is stored of a part: floats, nan where they are not finite, and texts.

    Raises
    ------
    ObjectiveError
        Naming the key, the rule and the value, if something cannot be stored or `score` is not a
        finite number.
    """
    scores: dict[str, float | str] = {}
    length = 0
    for name, value in _items(scored, _OF_PART):
        if isinstance(value, str) and name != SCORE:
            scores[name] = text = str.__str__(value)
            length += len(text)
            if length > MAX_TEXT:
                raise ObjectiveError(
                    f"'{name}': the texts of a part have at most {MAX_TEXT:,} characters together, "
                    f"these have {length:,}"
                )
            control = _CONTROL.search(text)
            if control:
                raise ObjectiveError(
                    f"'{name}': a text must have no control characters, this one has {control[0]!r}"
                )
        else:
            scores[name] = _number(name, value)
    return _with_score(scores)


def check_total(scored: Any) -> dict[str, float]:
    """Return what is stored of a trial: floats, nan where they are not finite.

    Raises
    ------
    ObjectiveError
        Naming the key, the rule and the value, if something cannot be stored or `score` is not a
        finite number.
    """
    return _with_score({name: _number(name, value) for name, value in _items(scored, _OF_TRIAL)})


def shown(value: Any) -> str:
    """Return a value as a message shows it: short, and whatever it does when it is asked."""
    try:
        return _short.repr(value)
    except StopRequested:
        raise
    except BaseException:  # somebody else's __repr__ may raise anything
        return f"something of type {type(value).__name__}"


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """Say of whatever is raised what it came from; what ends the worker or its claim passes."""
    try:
        yield
    except (StopRequested, LostLeaseError, StorageError):
        raise
    except HpoError as exc:
        # It says all that there is to say; where in the engine it was raised helps nobody.
        raise ObjectiveError(one_line(f"{what}: {exc}")) from exc.__cause__
    except BaseException as exc:  # an objective may raise anything, or leave by sys.exit
        raise ObjectiveError(one_line(f"{what}: {_describe(exc)}")) from exc


def _describe(exc: BaseException) -> str:
    """Return what somebody else's code raised, whatever it does when it is asked."""
    name = "an error"
    try:
        if isinstance(exc, SystemExit):
            return f"sys.exit({'' if exc.code is None else repr(exc.code)})"
        name = type(exc).__name__
        said = str(exc)
    except StopRequested:
        raise
    except BaseException:  # somebody else's __str__ may raise anything
        return f"{name} that cannot be printed"
    return f"{name}: {said}" if said else name


def _items(scored: Any, reserved: re.Pattern[str]) -> list[tuple[str, Any]]:
    """Return names and values of a mapping, of which nothing is asked twice."""
    items = getattr(scored, "items", None)
    if not callable(items):
        raise ObjectiveError(
            f"must return a mapping of names to numbers with the key '{SCORE}', "
            f"returned {shown(scored)}"
        )
    found: dict[str, Any] = {}
    for given, value in itertools.islice(iter(items()), MAX_NAMES + 1):
        name = check_name(given)
        if reserved.fullmatch(name):
            raise ObjectiveError(f"'{name}': hpo keeps something by this name; choose another one")
        if name in found:
            raise ObjectiveError(f"'{name}': there are two scores of this name")
        found[name] = value
    if len(found) > MAX_NAMES:
        raise ObjectiveError(f"at most {MAX_NAMES:,} scores can be kept, there are more")
    return [*found.items()]


def check_name(name: Any) -> str:
    """Return a name as plain text.

    Raises
    ------
    ObjectiveError
        If it is not a printable text of a length that a database takes.
    """
    if not isinstance(name, str):
        raise ObjectiveError(f"a name must be a text, is {shown(name)}")
    # As plain text: a subclass may compare as it likes.
    text = str.__str__(name)
    if not text.strip() or text != text.strip():
        rule = "must not be empty, nor begin or end with a space"
    elif len(text) > MAX_NAME:
        rule = f"must have at most {MAX_NAME} characters, has {len(text):,}"
    elif not text.isprintable():
        rule = "must be printable, without control characters"
    else:
        return text
    raise ObjectiveError(f"{shown(text)}: a name {rule}")


def _number(name: str, value: Any) -> float:
    """Return a number as a float; nan, which means undefined, where it is not finite.

    JSON tells infinite ones from undefined ones no more, and what is combined must not depend on
    whether it was stored in between.
    """
    if not is_number(value):
        raise ObjectiveError(f"'{name}': must be a number, is {shown(value)}")
    try:
        number = float(value)
    except OverflowError as exc:
        raise ObjectiveError(f"'{name}': is too large for a float: {shown(value)}") from exc
    if name == SCORE and not math.isfinite(number):
        raise ObjectiveError(f"'{SCORE}': must be finite, is {number}")
    return number if math.isfinite(number) else math.nan


def is_number(value: Any) -> bool:
    """Whether something is one real number: also of numpy or torch, without a dimension."""
    if isinstance(value, np.ndarray | np.generic):
        return value.ndim == 0 and value.dtype.kind in "biuf"
    if isinstance(value, str | bytes | bytearray) or getattr(value, "ndim", None):
        return False
    if isinstance(value, numbers.Complex) and not isinstance(value, numbers.Real):
        return False
    return hasattr(type(value), "__float__") or hasattr(type(value), "__index__")


def _with_score(scores: dict[str, _Value]) -> dict[str, _Value]:
    if SCORE not in scores:
        has = f"has {shown([*scores])}" if scores else "is empty"
        raise ObjectiveError(f"lacks the key '{SCORE}'; {has}")
    return scores
