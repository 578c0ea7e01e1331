"""What does a long study cost its workers: a later trial beside an old one that runs, and a start?

A later trial is all calls that a worker makes of the store, TPE and reading for the pruner: in a
study whose oldest trial somebody holds, and in the same study without that one, in turns.
A start is a Python of its own that opens a study, claims a trial, draws its parameters and reads
what the pruner compares with: in a long study and in a short one, in turns.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpo.records import Access, Claim
from hpo.spec.search import SamplerSpec
from hpo.spec.space import distributions
from hpo.storage.backends import open_storage
from hpo.study.record import StudyRecord, find
from hpo.worker.pruner import CompleteParts
from hpo.worker.sampler import draw
from hpo.worker.trial_cache import TrialHistory
from tests.benchmarks.filled_studies import N_PARTS, WORKER, begin_study, fill, score_of
from tests.benchmarks.side_by_side import compare, spread
from tests.benchmarks.store_cost import fresh_stores

ROOT = Path(__file__).resolve().parents[2]
SAMPLERS = ("tpe", "random")
# Of a trial's parts so many are stored in its middle, and the others with its result.
N_SAVED = 2


@dataclass(frozen=True)
class Start:
    """What a worker has used when its first trial has parameters.

    Attributes
    ----------
    cpu_s
        Seconds of processor time, imports not included.
    peak_mb
        The most memory that was resident, in 10**6 bytes, imports included.
    """

    cpu_s: float
    peak_mb: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table of later trials and one of starts for each store."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=20, help="measured in a round, of each")
    parser.add_argument("--before", type=int, nargs="*", default=[1_000, 10_000])
    parser.add_argument("--start-in", type=int, default=50_000, help="trials; 0: not measured")
    parser.add_argument("--beside", type=int, default=100, help="trials of the short study")
    parser.add_argument("--only", choices=("sqlite", "postgresql"))
    options = parser.parse_args(arguments)
    print(f"{options.rounds} rounds: median (least to most)")
    with (
        tempfile.TemporaryDirectory() as folder,
        fresh_stores(Path(folder), options.only) as stores,
    ):
        for store, make in stores.items():
            if options.before:
                compare_trials(store, make, options)
            if options.start_in:
                compare_starts(store, make, options)
    return 0


# A later trial ----------------------------------------------------------------------------------


def compare_trials(store: str, make: Callable[[], str], options: argparse.Namespace) -> None:
    """Print a line for each length."""
    print(
        f"\n{'CPU ms of a later trial':23} {'before':>6}  {'the oldest runs':22} {'none':22} ratio"
    )
    held, free = begin_study(make()), begin_study(make())
    for before in sorted(options.before):
        fill(held, before, running=[0])
        fill(free, before)
        workers = [_LaterTrials(record, options.trials) for record in (held, free)]
        for worker in workers:
            worker()  # reads what was there before
        times = compare(workers[0], workers[1], options.rounds)
        of_held, of_free = (
            [1e3 * seconds / options.trials for seconds in one]
            for one in (times.usual_s, times.ours_s)
        )
        print(
            f"{store:23} {before:6}  {spread(of_held):22} {spread(of_free):22} "
            f"{spread(times.ratios)}",
            flush=True,
        )


class _LaterTrials:
    """Runs trials of a study as a worker does that knows it already."""

    def __init__(self, record: StudyRecord, n_trials: int) -> None:
        self._record, self._n_trials = record, n_trials
        self._space = distributions(record.spec.space)
        self._history = TrialHistory(record.storage, record.study_id, record.spec.sampler.history)
        self._complete = CompleteParts(record, N_PARTS)

    def __call__(self) -> None:
        for _ in range(self._n_trials):
            self._run_one()

    def _run_one(self) -> None:
        ledger, spec = self._record.ledger, self._record.spec
        claim = ledger.claim(WORKER)
        assert isinstance(claim, Claim)
        params = draw(self._history, claim.number, self._space, spec.sampler, spec.seed)
        ledger.save_params(claim, params, self._space)
        self._history.note(claim.trial_id, params, self._space)
        self._complete.read()
        score = score_of(params)
        parts = {part: {"score": score, "wall_s": 0.0} for part in range(N_PARTS)}
        ledger.save(claim, {part: parts.pop(part) for part in range(N_SAVED)})
        ledger.finish(claim, {"score": score, "wall_s": 0.0}, parts)


# The start of a worker --------------------------------------------------------------------------


def compare_starts(store: str, make: Callable[[], str], options: argparse.Namespace) -> None:
    """Print two lines for each sampler."""
    urls = [make(), make()]
    for url, n_trials in zip(urls, (options.start_in, options.beside), strict=True):
        fill(begin_study(url), n_trials)
    print(
        f"\n{'start of a worker':28} {f'of {options.start_in} trials':25} "
        f"{f'of {options.beside}':25} more"
    )
    for sampler in SAMPLERS:
        rounds = [[start_apart(url, sampler) for url in urls] for _ in range(options.rounds)]
        for what, unit in (("cpu_s", "CPU s"), ("peak_mb", "peak MB")):
            pairs = [[getattr(start, what) for start in pair] for pair in rounds]
            long, short = zip(*pairs, strict=True)
            more = [of_long - of_short for of_long, of_short in pairs]
            print(
                f"{f'{store}, {sampler}, {unit}':28} {spread(long):25} {spread(short):25} "
                f"{spread(more)}",
                flush=True,
            )


def start_apart(url: str, sampler: str) -> Start:
    """Start a worker in a process of its own, and return what it used."""
    call = "import sys; from tests.benchmarks.long_studies import start; start(*sys.argv[1:])"
    command = [sys.executable, "-c", call, url, sampler]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return Start(**json.loads(done.stdout))


def start(url: str, sampler: str) -> None:
    """Do what a worker does until its first trial has parameters and was judged; print the cost."""
    began = time.process_time()
    record = find(open_storage(url, Access.WORK), "filled")
    space, spec = distributions(record.spec.space), SamplerSpec.model_validate({"name": sampler})
    history = TrialHistory(record.storage, record.study_id, spec.history)
    claim = record.ledger.claim(WORKER)
    assert isinstance(claim, Claim)
    assert len(draw(history, claim.number, space, spec, record.spec.seed)) == len(space)
    assert len(CompleteParts(record, N_PARTS).read()) > 0
    cpu_s = time.process_time() - began
    record.ledger.release(claim)
    print(json.dumps({"cpu_s": cpu_s, "peak_mb": _peak_mb()}))


def _peak_mb() -> float:
    # Of this process's own memory; what `getrusage` says has its parent's in it.
    (line,) = (
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM:")
    )
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    sys.exit(main())
