"""The processes that featurizers run in, which are ended where one material takes too long."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import sys
import time
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from features.errors import FamilyError, describe_failure
from features.families.named.code import Call, Input, make
from features.rows import Log

# Until a process has imported what it needs; so many materials in a row may end their process.
START_S, MAX_DEATHS = 300.0, 10
LOG_EVERY_S = 10.0

Answer = tuple[list[float], str]  # values, or none; and what there is to be said


class Served(NamedTuple):
    """A featurizer, the family that it makes, and how long it may take for one material."""

    family: str
    call: Call
    n_columns: int
    timeout_s: float


class _Helper:
    """A process that featurizes one material after the other."""

    def __init__(self, family: Served) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=serve, args=(theirs, family.call, family.n_columns), daemon=True
        )
        self.process.start()
        theirs.close()
        self.key: Any = None  # of what it is at work on
        self.deadline = time.monotonic() + START_S
        self.has_started = False

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to do."""
        return self.has_started and self.key is None

    def give(self, key: Any, item: Any, timeout_s: float) -> None:
        """Give it a material."""
        self.key, self.deadline = key, time.monotonic() + timeout_s
        self.connection.send(item)

    def end(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()
        self.connection.close()


class Crew:
    """The processes of one featurizer, `size` at a time."""

    def __init__(self, family: Served, size: int, log: Log) -> None:
        self.family, self.size, self.log = family, size, log
        self.timeout_s, self.deaths = family.timeout_s, 0

    def ask(self, items: Mapping[Any, Any]) -> dict[Any, Answer]:
        """Return the answer to each item, by its key.

        Raises
        ------
        FamilyError
            The featurizer cannot be made, or ends its processes again and again.
        """
        answers: dict[Any, Answer] = {}
        waiting = deque(items.items())
        helpers: list[_Helper] = []
        said = time.monotonic()
        try:
            while len(answers) < len(items):
                while len(helpers) < min(self.size, len(items) - len(answers)):
                    helpers.append(_Helper(self.family))
                self._wait(helpers, answers)
                for helper in helpers:
                    if waiting and helper.has_started and helper.key is None:
                        helper.give(*waiting.popleft(), self.timeout_s)
                if time.monotonic() - said > LOG_EVERY_S:
                    said = time.monotonic()
                    self.log(f"{self.family.family}: {len(answers)} of {len(items)} materials")
        finally:
            for helper in helpers:
                helper.end()
        return answers

    def _wait(self, helpers: list[_Helper], answers: dict[Any, Answer]) -> None:
        """Take what has come, and end who is late."""
        busy = [helper for helper in helpers if not helper.is_idle]
        soonest = min(helper.deadline for helper in busy)
        timeout = max(0.0, min(soonest - time.monotonic(), LOG_EVERY_S))
        ready = wait([helper.connection for helper in busy], timeout)
        for helper in busy:
            if helper.connection in ready:
                self._receive(helper, helpers, answers)
            elif time.monotonic() > helper.deadline:
                self._lose(helper, helpers, answers, self._late(helper))

    def _receive(self, helper: _Helper, helpers: list[_Helper], answers: dict[Any, Answer]) -> None:
        try:
            answer = helper.connection.recv()
        except (EOFError, OSError):
            helper.process.join()
            code = helper.process.exitcode
            self._lose(helper, helpers, answers, f"it ended its process (exit code {code})")
            return
        if not helper.has_started:
            helper.has_started = True
            if answer:
                raise FamilyError(answer)
            return
        self.deaths = 0
        answers[helper.key], helper.key = answer, None

    def _lose(
        self, helper: _Helper, helpers: list[_Helper], answers: dict[Any, Answer], why: str
    ) -> None:
        helpers.remove(helper)
        helper.end()
        self.deaths += 1
        if helper.key is not None:
            answers[helper.key] = ([], f"{why}: its columns are NaN")
        if self.deaths >= MAX_DEATHS or helper.key is None:
            raise FamilyError(
                f"family {self.family.family}: {self.deaths} times in a row: {why}; mend it, or "
                "leave it out of [[table.featurizers]]"
            )

    def _late(self, helper: _Helper) -> str:
        limit = self.timeout_s if helper.has_started else START_S
        return f"it took longer than {limit:g} s"


def serve(connection: Connection, call: Call, n_columns: int) -> None:
    """Featurize what comes until nothing more comes: the program of a helper's process."""
    sys.stdout = sys.stderr
    warnings.simplefilter("ignore")
    try:
        featurizer = make(call)
        connection.send("")
    except FamilyError as exc:
        connection.send(str(exc))
        return
    with contextlib.suppress(EOFError, OSError):
        while True:
            connection.send(_describe(featurizer, call.takes, connection.recv(), n_columns))
    os._exit(0)


def _describe(featurizer: Any, takes: Input, item: Any, n_columns: int) -> Answer:
    try:
        material, remarks = _material(takes, item)
        found = list(featurizer.featurize(material))
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # a featurizer may raise anything
        return [], f"{describe_failure(exc)}: its columns are NaN"
    if len(found) != n_columns:
        return [], f"it gave {len(found)} values for {n_columns} columns: they are NaN"
    return _numbers(found, remarks)


def _material(takes: Input, item: Any) -> tuple[Any, list[str]]:
    if takes == "structure":
        from features.intake.cifs import read_structure

        return read_structure(item)
    from pymatgen.core.composition import Composition

    return Composition(item), []


def _numbers(found: Sequence[Any], remarks: list[str]) -> Answer:
    values, odd = [], []
    for at, value in enumerate(found):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
            odd.append(f"value {at + 1} is {value!r:.40}")
        values.append(number if math.isfinite(number) else math.nan)
    if odd:
        remarks = [*remarks, f"{', '.join(odd[:3])}: no number, and so NaN"]
    return values, "; ".join(remarks)
