"""What objectives of users do to the process that they run in, each with what has to come of it."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.objectives import Witness

# What comes of a fault.
NOTHING = "nothing"  # its trial goes on
DEATH = "death"  # one worker dies, another goes on with the trial
LEAVES = "leaves"  # the worker gives the trial back, another goes on with it
FAILS = "fails"  # the trial is failed, with the reason
LIMIT = "limit"  # the trial exceeds a limit, which ends its worker

LEASE_S = 3.0
Fault = Callable[[], object]
FAULTS: dict[str, tuple[str, Fault]] = {}


def fault(outcome: str) -> Callable[[Fault], Fault]:
    def add(function: Fault) -> Fault:
        FAULTS[function.__name__.replace("_", " ").strip()] = (outcome, function)
        return function

    return add


def _leave(code: int) -> Fault:
    return lambda: os._exit(code)


def _get(number: signal.Signals) -> Fault:
    return lambda: os.kill(os.getpid(), number)


def _raise(error: BaseException) -> Fault:
    def fail() -> None:
        raise error

    return fail


for _code in (0, 1, 2, 3, 130, 255):
    FAULTS[f"leaves with os._exit({_code})"] = (DEATH, _leave(_code))
for _number in (
    signal.SIGKILL,
    signal.SIGSEGV,
    signal.SIGABRT,
    signal.SIGHUP,
    signal.SIGALRM,
    signal.SIGXCPU,
):
    FAULTS[f"gets {_number.name}"] = (DEATH, _get(_number))
for _number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
    FAULTS[f"gets {_number.name}"] = (LEAVES, _get(_number))
for _error in (
    SystemExit(0),
    SystemExit(2),
    MemoryError("no memory"),
    RecursionError("deep"),
    KeyboardInterrupt(),
    GeneratorExit(),
):
    FAULTS[f"raises {_error!r}"] = (FAILS, _raise(_error))


@fault(FAILS)
def raises_an_exception_of_its_own_base() -> None:
    class Strange(BaseException):
        pass

    raise Strange("mine")


@fault(NOTHING)
def holds_the_lock_of_python_longer_than_the_lease() -> None:
    ctypes.PyDLL(None).usleep(int(2.2 * LEASE_S * 1e6))


@fault(NOTHING)
def computes_longer_than_the_lease() -> None:
    end = time.monotonic() + 1.5 * LEASE_S
    while time.monotonic() < end:
        pass


@fault(DEATH)
def stops_itself_for_ever() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


@fault(NOTHING)
def leaves_a_thread_that_never_ends() -> None:
    threading.Thread(target=time.sleep, args=(10_000,)).start()


@fault(NOTHING)
def forks_a_child_that_comes_back() -> None:
    if os.fork() == 0:
        # As an objective whose forked part raises what it does not expect.
        raise ValueError("only the child")


@fault(NOTHING)
def forks_a_child_that_stays() -> None:
    if os.fork() == 0:
        time.sleep(10_000)


@fault(NOTHING)
def leaves_zombies() -> None:
    for _ in range(5):
        if os.fork() == 0:
            os._exit(0)


@fault(NOTHING)
def leaves_a_program() -> None:
    subprocess.Popen(["sleep", "10000"])


@fault(NOTHING)
def leaves_a_program_in_a_session_of_its_own() -> None:
    subprocess.Popen(["sleep", "10000"], start_new_session=True)


@fault(NOTHING)
def leaves_a_daemon() -> None:
    code = "import os, time; os.fork() and os._exit(0); os.setsid(); time.sleep(10000)"
    subprocess.run([sys.executable, "-c", code], check=True)


@fault(DEATH)
def dies_with_a_program_at_work() -> None:
    subprocess.Popen(["sleep", "10000"], start_new_session=True)
    os.kill(os.getpid(), signal.SIGKILL)


@fault(DEATH)
def becomes_another_program() -> None:
    os.execvp("true", ["true"])


@fault(NOTHING)
def ignores_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)


@fault(NOTHING)
def goes_into_a_folder_that_vanishes() -> None:
    folder = Path(f"vanished-{os.getpid()}")
    folder.mkdir()
    os.chdir(folder)
    Path(f"../{folder.name}").rmdir()


@fault(NOTHING)
def closes_its_output() -> None:
    sys.stdout.close()
    os.close(1)


@fault(NOTHING)
def takes_its_output_away() -> None:
    sys.stdout = sys.stderr = None


@fault(NOTHING)
def prints_bytes_and_escapes() -> None:
    os.write(1, b"\xff\xfe\x1b[31m\0 no text at all\n" * 100)


@fault(NOTHING)
def empties_its_environment() -> None:
    os.environ.clear()


@fault(NOTHING)
def seeds_the_random_numbers_of_all() -> None:
    import numpy as np

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  as users do


@fault(NOTHING)
def warns_as_an_error() -> None:
    import warnings

    warnings.simplefilter("error")


@fault(NOTHING)
def raises_in_a_thread() -> None:
    def fail() -> None:
        raise ValueError("in a thread")

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()


@fault(NOTHING)
def sets_the_logging_of_all() -> None:
    import logging

    logging.disable(logging.CRITICAL)
    logging.shutdown()


@fault(NOTHING)
def sets_a_lower_priority() -> None:
    os.nice(5)


@fault(NOTHING)
def leaves_its_session() -> None:
    # A leader of a session cannot; it says so.
    with contextlib.suppress(PermissionError):
        os.setsid()


@fault(LIMIT)
def never_ends() -> None:
    time.sleep(10_000)


@fault(LIMIT)
def never_ends_and_ignores_the_request_to_leave() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(10_000)


@fault(LIMIT)
def never_ends_and_swallows_everything() -> None:
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(10_000)


@fault(LIMIT)
def never_ends_with_the_lock_of_python_held() -> None:
    ctypes.PyDLL(None).sleep(10_000)


@fault(LIMIT)
def waits_for_a_program_that_never_ends() -> None:
    subprocess.run(["sleep", "10000"], check=False)


@fault(LIMIT)
def prints_without_end() -> None:
    while True:
        os.write(2, b"x" * 65536)
        time.sleep(0.001)


@fault(LIMIT)
def takes_memory_without_end() -> None:
    taken = []
    while True:
        taken.append(bytearray(os.urandom(1 << 20)) * 20)
        time.sleep(0.01)


@fault(LIMIT)
def has_a_program_that_takes_memory_without_end() -> None:
    code = "import time\ntaken = []\nwhile 1:\n taken.append(b'x' * (20 << 20))\n time.sleep(.02)"
    subprocess.run([sys.executable, "-c", code], check=False)


# As they come, but for the kinds, which are mixed.
ORDER = sorted(FAULTS, key=lambda name: hashlib.sha256(name.encode()).hexdigest())


class Faulty(Witness):
    """Does each fault once, in the middle part of whatever trial comes first."""

    def __init__(self, table, *, seed, delay_s=0.0, journal=None, done="faults") -> None:
        super().__init__(table, seed=seed, delay_s=delay_s, journal=journal)
        self.done = Path(done).absolute()

    def score_part(self, params, part):
        if part == 1 and (name := self._next(params["alpha"])) is not None:
            FAULTS[name][1]()
        return super().score_part(params, part)

    def _next(self, alpha: float) -> str | None:
        """Return a fault that was not done yet, for a trial that has had none."""
        # Now and then a trial in peace: workers that only ever die end a study.
        if int(1e6 * alpha) % 3 == 0 or not self._take(f"of {alpha!r}"):
            return None
        for name in ORDER:
            if self._take(name):
                (self.done / name).write_text(repr(alpha))
                return name
        return None

    def _take(self, name: str) -> bool:
        try:
            os.close(os.open(self.done / name, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True
