"""A score from outside, such as a leaderboard's, against the score that a study searched by.

A straight line by least squares. It says what the outside score was where scores were known, and
next to nothing beyond them: what needs a score out there is called an extrapolation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hpo.errors import HpoError
from hpo.objectives.metrics import Interval
from hpo.wording import count_of

COVERAGE = 0.95
MIN_POINTS = 3


@dataclass(frozen=True)
class Point:
    """What was searched by, and what was measured outside, of one experiment or study."""

    name: str
    score: float
    external: float


@dataclass(frozen=True)
class Line:
    """A least-squares line through points, external = slope * score + intercept.

    Attributes
    ----------
    r2
        Share of the variance that it explains.
    slope_error, intercept_error
        Standard errors.
    residual
        Standard deviation of what it leaves, by n - 2 degrees of freedom.
    n, mean, squares
        Number of points, mean of their scores, and sum of squared distances from it.
    low, high
        The lowest and the highest score.
    """

    slope: float
    intercept: float
    r2: float
    slope_error: float
    intercept_error: float
    residual: float
    n: int
    mean: float
    squares: float
    low: float
    high: float

    @property
    def slope_interval(self) -> Interval:
        """95 % interval of the slope, by Student's t."""
        half = self._t * self.slope_error
        return self.slope - half, self.slope + half

    def predict(self, score: float) -> tuple[float, Interval]:
        """Return the external score of a new one, and the 95 % interval of a single measurement."""
        value = self.intercept + self.slope * score
        apart = (score - self.mean) ** 2 / self.squares
        half = self._t * self.residual * math.sqrt(1.0 + 1.0 / self.n + apart)
        return value, (value - half, value + half)

    def invert(self, external: float) -> tuple[float, Interval | None]:
        """Return the score at which the line reaches an external one, and its 95 % interval.

        The interval holds the scores at which the band around the line reaches it: Fieller,
        J. R. Stat. Soc. B 16, 175 (1954). None if a slope of 0 cannot be excluded, and so no score.
        """
        score = (external - self.intercept) / self.slope
        g = (self._t * self.slope_error / self.slope) ** 2
        if g >= 1.0:
            return score, None
        apart = score - self.mean
        inner = (1.0 - g) / self.n + apart**2 / self.squares
        half = self._t * self.residual / abs(self.slope) * math.sqrt(inner) / (1.0 - g)
        middle = self.mean + apart / (1.0 - g)
        return score, (middle - half, middle + half)

    def beyond(self, score: float) -> float:
        """Return how far a score lies outside the fitted ones, by their range; 0 within."""
        outside = max(self.low - score, score - self.high, 0.0)
        return outside / (self.high - self.low)

    @property
    def _t(self) -> float:
        # SciPy's own import time is felt in every comparison, most of which have no such line.
        from scipy.special import stdtrit

        return float(stdtrit(self.n - 2, 0.5 + 0.5 * COVERAGE))


def fit_line(points: Sequence[Point]) -> Line:
    """Fit a line to points.

    Raises
    ------
    HpoError
        If there are fewer than three, or all scores are the same.
    """
    # As above.
    from scipy.stats import linregress

    n = len(points)
    if n < MIN_POINTS:
        raise HpoError(
            f"a line needs at least {MIN_POINTS} experiments with both scores, there are {n}"
        )
    x, y = np.array([(point.score, point.external) for point in points]).T
    if np.ptp(x) == 0.0 or np.ptp(y) == 0.0:
        raise HpoError("a line needs scores that differ; all of them are the same")
    found = linregress(x, y)
    squares = float(np.sum((x - x.mean()) ** 2))
    return Line(
        slope=float(found.slope),
        intercept=float(found.intercept),
        r2=float(found.rvalue**2),
        slope_error=float(found.stderr),
        intercept_error=float(found.intercept_stderr),
        residual=float(found.stderr) * math.sqrt(squares),
        n=n,
        mean=float(x.mean()),
        squares=squares,
        low=float(x.min()),
        high=float(x.max()),
    )


# Output ---------------------------------------------------------------------------------------


def describe_line(line: Line, name: str, target: float | None) -> list[str]:
    """Return what a line says, and what it does not, in sentences."""
    low, high = line.slope_interval
    text = [
        f"{name} = {line.slope:.4g} * score + {line.intercept:.4g} "
        f"(R2 = {line.r2:.3f}, {count_of(line.n, 'experiment')})",
        f"slope {line.slope:.4g}, standard error {line.slope_error:.2g}, 95 % {low:.4g} to "
        f"{high:.4g}; intercept {line.intercept:.4g}, standard error {line.intercept_error:.2g}",
    ]
    if target is None:
        return text
    needed, interval = line.invert(target)
    ends = (
        f"95 % {interval[0]:.6f} to {interval[1]:.6f}"
        if interval
        else "without bounds: the slope may be 0"
    )
    text.append(f"for {name} = {target:g} the line needs a score of {needed:.6f} ({ends})")
    beyond = line.beyond(needed)
    if beyond:
        text.append(
            f"that is an extrapolation, no prediction: it lies {beyond:.1f} times the range of "
            f"the fitted scores, {line.low:g} to {line.high:g}, outside of it"
        )
    if needed * line.low < 0.0 < line.low * line.high:
        text.append(
            "it has another sign than all of them: if scores cannot have that, no score reaches "
            "the target along this line"
        )
    return text


def prediction_cells(
    line: Line, scores: Mapping[str, float], measured: Mapping[str, float]
) -> list[list[str]]:
    """Return what the line predicts for studies as a table of texts, heads first."""
    table = [["study", "score", "measured", "predicted", "95 %", "fitted range"]]
    for name, score in scores.items():
        value, (low, high) = line.predict(score)
        told = f"{measured[name]:.4g}" if name in measured else "-"
        where = "beyond" if line.beyond(score) else "within"
        table.append(
            [name, f"{score:.4g}", told, f"{value:.4g}", f"{low:.4g} to {high:.4g}", where]
        )
    return table


def as_dict(line: Line, target: float | None) -> dict[str, Any]:
    """Return a line for a program."""
    told: dict[str, Any] = {**asdict(line), "slope_interval": line.slope_interval}
    if target is not None:
        needed, interval = line.invert(target)
        told |= {
            "target": target,
            "score_for_target": needed,
            "score_interval": interval,
            "ranges_beyond": line.beyond(needed),
        }
    return told
