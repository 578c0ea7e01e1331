"""Descriptors of a measurement: kinetics, and two solvents made into one description."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.table import FeatureTable
from hpo.errors import ObjectiveError, suggest
from studies.catechol.measurements import LOOK_UPS, PRODUCTS

Floats = NDArray[np.float64]

# Kinetics. Conversion at a rate constant k = A exp(-E/RT) depends on ln(k t) = ln A - E/RT + ln t.
MIXINGS = ("linear", "interaction", "pair")
KINETICS = ("plain", "arrhenius")
ZERO_CELSIUS_K = 273.15
# Where measurements lie, to bring all features to about one size: 200 C and 12 min.
REFERENCE_K, REFERENCE_MIN = 473.15, 12.0
_SPREADS = {"temperature": 20.0, "time": 4.0, "inverse": 0.09, "log_time": 0.6}
# Fingerprints are 0 or 1 and stay so: most are 1 for one or two solvents, and dividing by their
# spread would make outliers of these.
_BITS = ("drfp", "fragprints")


@dataclass(frozen=True, eq=False)
class Measurements:
    """Rows of the table, by what they mean.

    Attributes
    ----------
    time_min, temperature_c, fraction_b
        Arrays of shape (n_rows,).
    a, b
        Descriptors of both solvents by family, of shape (n_rows, n_descriptors): continuous ones
        standardised over the rows' solvents, fingerprints as they are.
    y
        Array of shape (n_rows, 3): starting material, product 2 and product 3.
    """

    time_min: Floats
    temperature_c: Floats
    fraction_b: Floats
    a: Mapping[str, Floats]
    b: Mapping[str, Floats]
    y: Floats

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: NDArray[np.int64]) -> Measurements:
        """Return some rows."""
        return Measurements(
            self.time_min[rows],
            self.temperature_c[rows],
            self.fraction_b[rows],
            {family: values[rows] for family, values in self.a.items()},
            {family: values[rows] for family, values in self.b.items()},
            self.y[rows],
        )

    def swapped(self) -> Measurements:
        """Return the same measurements with the solvents named in the other order."""
        return replace(self, a=self.b, b=self.a, fraction_b=1.0 - self.fraction_b)

    def with_swapped(self) -> Measurements:
        """Return every row, and then every row in the other order."""
        other = self.swapped()
        both: dict[str, Any] = {
            name: np.concatenate([getattr(self, name), getattr(other, name)])
            for name in ("time_min", "temperature_c", "fraction_b", "y")
        }
        sides: dict[str, Any] = {
            side: {
                family: np.concatenate([values, getattr(other, side)[family]])
                for family, values in getattr(self, side).items()
            }
            for side in ("a", "b")
        }
        return Measurements(**both, **sides)


def read_measurements(table: FeatureTable) -> Measurements:
    """Return the training rows of a table that `studies.catechol.measurements` made."""
    train = table.train
    position = {column.name: k for k, column in enumerate(table.columns)}

    def column(name: str) -> Floats:
        return train.X[:, position[name]]

    sides: dict[str, dict[str, Floats]] = {"a": {}, "b": {}}
    for family in LOOK_UPS:
        names = [c.name.partition(" ")[2] for c in table.columns if c.family == family]
        of_side = names[: len(names) // 2]
        a, b = (
            train.X[:, [position[f"{family}_{side} {name}"] for name in of_side]] for side in "ab"
        )
        sides["a"][family], sides["b"][family] = _standardised(a, b, family)
    products = [column(c.name) for c in table.columns if c.family == PRODUCTS]
    return Measurements(
        column("residence_time"),
        column("temperature"),
        column("fraction_b"),
        sides["a"],
        sides["b"],
        np.column_stack([train.y, *products]),
    )


def _standardised(a: Floats, b: Floats, family: str) -> tuple[Floats, Floats]:
    """Return descriptors of solvents on one scale, each solvent counting once."""
    if family in _BITS:
        return a, b
    solvents = np.unique(np.concatenate([a, b]), axis=0)
    mean, spread = solvents.mean(axis=0), solvents.std(axis=0)
    return (a - mean) / spread, (b - mean) / spread


def describe_kinetics(rows: Measurements, kinetics: str) -> Floats:
    """Return features of temperature T and residence time t, all of about one size.

    "plain" is T and t; "arrhenius" adds 1/T, ln t and their product.
    """
    time = (rows.time_min - REFERENCE_MIN) / _SPREADS["time"]
    temperature = rows.temperature_c + ZERO_CELSIUS_K
    plain = [(temperature - REFERENCE_K) / _SPREADS["temperature"], time]
    if kinetics == "plain":
        return np.column_stack(plain)
    inverse, log_time = arrhenius(rows).T
    return np.column_stack([*plain, inverse, log_time, inverse * log_time])


def arrhenius(rows: Measurements) -> Floats:
    """Return 1000 K / T and ln t around the middle of the data, scaled, of shape (n_rows, 2)."""
    inverse = 1000.0 / (rows.temperature_c + ZERO_CELSIUS_K) - 1000.0 / REFERENCE_K
    log_time = np.log(rows.time_min / REFERENCE_MIN)
    return np.column_stack([inverse / _SPREADS["inverse"], log_time / _SPREADS["log_time"]])


def describe_solvents(rows: Measurements, families: Sequence[str], mixing: str) -> Floats:
    """Return the descriptors of a mixture.

    With a share p of solvent B, "linear" is (1-p) A + p B, which does not depend on the order of
    the solvents; "interaction" adds p (1-p) A B, which does not either; "pair" is A, B and p.
    """
    parts = []
    p = rows.fraction_b[:, None]
    for family in families:
        a, b = rows.a[family], rows.b[family]
        if mixing == "pair":
            parts += [a, b]
            continue
        parts.append((1.0 - p) * a + p * b)
        if mixing == "interaction":
            parts.append(4.0 * p * (1.0 - p) * a * b)
    if mixing == "pair":
        parts.append(p)
    return np.hstack(parts)


def parse_families(text: str) -> tuple[str, ...]:
    """Return the families in a text such as spange+acs.

    Raises
    ------
    ObjectiveError
        If there is no such family.
    """
    families = tuple(text.split("+"))
    for family in families:
        if family not in LOOK_UPS:
            raise ObjectiveError(f"descriptors '{text}': {suggest(family, LOOK_UPS)}")
    return families
