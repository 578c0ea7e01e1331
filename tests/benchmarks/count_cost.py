"""What do a claim, a renewal of leases and a launcher's look cost in a study of so many trials?

One process, and the store's own where it has one; what is printed are medians of milliseconds with
the least and the most, and of a launcher's look its share of one core at the rate it is made.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hpo.records import Claim
from hpo.study.record import StudyRecord
from hpo.study.status import take_status
from tests.benchmarks.filled_studies import WORKER, begin_study, fill
from tests.benchmarks.store_cost import fresh_stores


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row for each store and length of a study."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--before", type=int, nargs="+", default=[100, 10_000, 50_000])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--only", choices=("sqlite", "postgresql"))
    options = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory() as folder,
        fresh_stores(Path(folder), options.only) as stores,
    ):
        for store, make in stores.items():
            record = begin_study(make())
            for before in options.before:
                fill(record, before)
                for what, call in calls(record).items():
                    print(f"{store:11} {before:7} {what:24} {timed(call, options.rounds)}")
    return 0


def calls(record: StudyRecord) -> dict[str, Callable[[], object]]:
    """Return what is measured."""
    ledger = record.ledger

    def claim() -> None:
        found = ledger.claim(WORKER)
        assert isinstance(found, Claim)
        ledger.release(found)

    return {
        "claim and release": claim,
        "beat": lambda: ledger.beat([WORKER]),
        "counts": ledger.counts_and_stop,
        "status": lambda: take_status(record),
    }


def timed(call: Callable[[], object], rounds: int) -> str:
    """Return the median of wall and processor milliseconds of a call, with the extremes."""
    call()
    walls, cpus = [], []
    for _ in range(rounds):
        began, cpu_s = time.perf_counter(), time.process_time()
        call()
        cpus.append((time.process_time() - cpu_s) * 1e3)
        walls.append((time.perf_counter() - began) * 1e3)
    return "  ".join(
        f"{name} {statistics.median(of):6.2f} ({min(of):.2f} to {max(of):.2f})"
        for name, of in (("wall", walls), ("CPU", cpus))
    )


if __name__ == "__main__":
    sys.exit(main())
