"""Loaded by workers that the tests show another time of day.

libfaketime 0.9.10, told to leave the monotonic clock alone, makes time.sleep fail with EINVAL.
"""

import threading
import time


def sleep(seconds: float) -> None:
    """Wait by the monotonic clock, which is not faked."""
    threading.Event().wait(seconds)


time.sleep = sleep  # type: ignore[assignment]
