"""What becomes of foreign files and formulas: read, refused or remarked; traces; silent changes?

The corpus is that of the tests. Mutations change some bytes or characters of each case: of those it
is counted whether anything but a reason comes of them.
"""

from __future__ import annotations

import argparse
import random
import traceback
from collections import Counter
from collections.abc import Callable, Sequence

from features.errors import DatasetError
from features.intake.csv_parsing import parse_csv
from features.intake.formulas import read_formula
from tests.support.intake import csv_files, formulas

_SIGNS = b'",;\t|\n\r#\0\xff\xc3=.5()*x-'


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line for the files and one for the formulas."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=50, help="of each case (default: 50)")
    options = parser.parse_args(arguments)
    print(f"{'':10}{'cases':>7}{'read':>7}{'remarked':>10}{'refused':>9}{'wrong':>7}", end="")
    print(f"{'mutated':>9}{'traces':>8}")
    files = [(file.bytes[:5000], csv_files.judge(file)) for file in csv_files.FILES]
    texts = [(case.text.encode(), formulas.judge(case)) for case in formulas.CASES]
    for name, judged, read in (("files", files, _read_file), ("formulas", texts, _read_formula)):
        outcomes = Counter(outcome for _, (outcome, _) in judged)
        wrong = sum(bool(what) for _, (_, what) in judged)
        traces = _count_traces([data for data, _ in judged], read, options.mutations)
        counts = [outcomes[outcome] for outcome in ("read", "remarked", "refused")]
        print(
            f"{name:10}{len(judged):>7}{counts[0]:>7}{counts[1]:>10}{counts[2]:>9}{wrong:>7}",
            end="",
        )
        print(f"{options.mutations * len(judged):>9}{traces:>8}")
    return 0


def _read_file(data: bytes) -> None:
    read = parse_csv("x.csv", data)
    for column in {*read.columns}:
        for text in read.values(column):
            read.number(column, text)


def _read_formula(data: bytes) -> None:
    read_formula(data.decode("utf-8", "surrogateescape"))


def _count_traces(cases: Sequence[bytes], read: Callable[[bytes], None], n_mutations: int) -> int:
    rng = random.Random(0)
    traces = 0
    for case in cases:
        for _ in range(n_mutations):
            data = bytearray(case)
            for _ in range(rng.randint(1, 4)):
                at = rng.randrange(len(data) + 1)
                data[at : at + rng.randint(0, 2)] = bytes([rng.choice(_SIGNS)]) * rng.randint(0, 3)
            try:
                read(bytes(data))
            except (DatasetError, ValueError):
                continue
            except Exception:  # anything else would be a stack trace of the user's
                traceback.print_exc()
                traces += 1
    return traces


if __name__ == "__main__":
    raise SystemExit(main())
