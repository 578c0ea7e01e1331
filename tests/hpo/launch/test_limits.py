"""What counts as time of a trial."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpo.launch.limits import TrialWatch
from hpo.spec.sections import LimitsSpec

LOOK_S = 0.25


def look(watch: TrialWatch, from_s: float, for_s: float) -> str:
    """Look as often as a launcher does; return the last answer."""
    said = ""
    for step in range(1, int(for_s / LOOK_S) + 1):
        said = said or watch.exceeded(from_s + step * LOOK_S)
    return said


@pytest.mark.parametrize("limit", ["part_s", "attempt_s", "trial_s"])
@pytest.mark.parametrize("pause_s", [0.0, 60.0, 8 * 3600.0])
def test_the_time_for_which_a_launcher_was_halted_is_not_its_trials(limit, pause_s):
    watch = TrialWatch(LimitsSpec.model_validate({limit: 100.0}), 1, "w", Path("none.log"))
    watch.note({"trial": 0, "attempt": 1, "before_s": 0.0}, 0.0)
    watch.note({"part": 0}, 0.0)
    assert look(watch, 0.0, 80.0) == ""
    # Its job was suspended, or the machine slept: the trial did not work either.
    later_s = 80.0 + pause_s
    assert look(watch, later_s, 10.0) == ""
    assert look(watch, later_s + 10.0, 15.0).startswith(f"limits.{limit} = 100 exceeded: 100.")
