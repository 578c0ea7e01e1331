"""What trials of a function, or of a program, do to their process, at every attempt."""

from __future__ import annotations

import ctypes
import os
import signal
import time

LEASE_S = 3.0


def hangs():
    time.sleep(10_000)


def ignores_term():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(10_000)


def reads_nothing():
    ctypes.string_at(0)


def takes_8_gb():
    taken = []
    for _ in range(80):
        taken.append(b"x" * 100_000_000)
        time.sleep(0.05)


def holds_the_lock():
    ctypes.PyDLL(None).usleep(int(2 * LEASE_S * 1e6))


# By the number of the trial; all others do nothing.
TROUBLES = dict(
    enumerate((hangs, ignores_term, reads_nothing, takes_8_gb, holds_the_lock), start=1)
)


def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    TROUBLES.get(trial.number, time.time)()
    return x


if __name__ == "__main__":
    TROUBLES.get(int(os.environ["HPO_TRIAL_NUMBER"]), time.time)()
    print("x =", os.environ["HPO_PARAM_X"])
