"""How much faster is a column of formulas than matminer, and is it the same?

Magpie's 132 statistics of made-up formulas: matminer's `featurize_dataframe` on compositions that
pymatgen has read, against this package's family on formulas that it has read; and the same with the
reading of the formulas. One thread, processor time, both in turn, the same formulas. Before they
are timed, the values are compared bit by bit.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from features.chemistry.formulas import Compositions
from features.families.formula.element_statistics import magpie_statistics
from features.intake.formulas import read_formula
from features.records import Target
from features.rows import Rows
from tests.benchmarks.rank_candidates import formulas
from tests.benchmarks.side_by_side import compare, heading


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line without and one with reading the formulas."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args(arguments)
    texts = formulas(options.rows, np.random.default_rng(0))
    expected, featurize = by_matminer(texts)
    rows = rows_of(texts)
    if not np.array_equal(magpie_statistics(rows, print).values, expected):
        raise SystemExit("the values differ")
    print(f"{options.rows} formulas, 132 columns, equal to the bit; times are of all rows")
    print(heading("Magpie statistics"))
    for what, usual, ours in (
        ("of what was read", lambda: featurize(None), lambda: magpie_statistics(rows, print)),
        (
            "with reading",
            lambda: featurize(texts),
            lambda: magpie_statistics(rows_of(texts), print),
        ),
    ):
        print(f"{what:28} {compare(usual, ours, options.repeats, rounds=5)}", flush=True)
    return 0


def by_matminer(texts: list[str]) -> tuple[Any, Any]:
    """Return matminer's values, and what computes them again; from texts, if it is given some."""
    import pandas as pd
    from matminer.featurizers.composition import ElementProperty
    from pymatgen.core.composition import Composition

    featurizer = ElementProperty.from_preset("magpie")
    featurizer.set_n_jobs(1)
    read = [Composition(text) for text in texts]

    def featurize(given: list[str] | None) -> Any:
        compositions = read if given is None else [Composition(text) for text in given]
        frame = pd.DataFrame({"composition": compositions})
        with contextlib.redirect_stderr(io.StringIO()):
            return featurizer.featurize_dataframe(frame, "composition", pbar=False)

    return featurize(None).iloc[:, 1:].to_numpy(dtype=float), featurize


def rows_of(texts: list[str]) -> Rows:
    """Return rows with nothing but formulas."""
    n_rows = len(texts)
    return Rows(
        ids=tuple(texts),
        sources=("",) * n_rows,
        lines=tuple(range(n_rows)),
        formulas=tuple(texts),
        amounts=Compositions.of(read_formula(text).amounts for text in texts),
        y=np.zeros(n_rows),
        is_coerced=np.zeros(n_rows, dtype=bool),
        groups=("",) * n_rows,
        is_train=np.ones(n_rows, dtype=bool),
        target=Target("none"),
    )


if __name__ == "__main__":
    sys.exit(main())
