"""`hpo simulate`."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from typing import Any

from hpo.commands.common import (
    add_json,
    add_shared,
    not_negative,
    open_storage,
    positive,
    print_line,
)
from hpo.errors import HpoError
from hpo.records import Access
from hpo.simulation.engine import simulate as run_simulation
from hpo.simulation.scenario import Cluster, DurationTrace, Faults, Load, Result
from hpo.wording import abridge

PARTS, PART_S, LEASE_S = 5, 60.0, 60.0
# Jobs of one submission do not begin in the same second, and a draw takes a moment.
RAMP_S, DRAW_S = 60.0, 0.05


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("--workers", type=positive, default=1000, metavar="N")
    parser.add_argument("--trials", type=positive, default=10_000, metavar="N", help="the budget")
    parser.add_argument("--parts", type=positive, metavar="N", help=f"of a trial ({PARTS})")
    parser.add_argument(
        "--part-s", type=_above_zero, metavar="S", help=f"mean duration of a part ({PART_S:g})"
    )
    parser.add_argument(
        "--study", metavar="NAME", help="take parts, durations and lease from a finished study"
    )
    parser.add_argument("--lease-s", type=_above_zero, metavar="S", help=f"({LEASE_S:g})")
    parser.add_argument(
        "--faults",
        type=_not_negative,
        default=0.0,
        metavar="RATE",
        help="kills, freezes, preemptions and node failures per hour of a worker (0)",
    )
    parser.add_argument(
        "--time-limit-s", type=_above_zero, metavar="S", help="time limit of a job (none)"
    )
    parser.add_argument(
        "--store-ms",
        type=_not_negative,
        default=2.0,
        metavar="MS",
        help="for how long a call keeps the store from all others (2)",
    )
    parser.add_argument("--seed", type=not_negative, default=0)
    add_json(parser)
    add_shared(parser, "storage")


def _above_zero(text: str) -> float:
    number = _not_negative(text)
    if number == 0.0:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got '{text}'")
    return number


# A simulation of more than this takes hours, or more memory than machines have.
MAX_WORKERS, MAX_PARTS, MAX_EVENTS = 100_000, 1000, 100_000_000
# Shorter ones have no meaning, and events without end.
MIN_S, MAX_S = 1e-3, 1e9


def _not_negative(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (number == 0.0 or MIN_S <= number <= MAX_S):
        between = f"0, or a number from {MIN_S:g} to {MAX_S:g}"
        raise argparse.ArgumentTypeError(f"must be {between}, got '{abridge(text)}'")
    return number


def run(options: argparse.Namespace) -> int:
    """Simulate a study on a cluster, and print what would come of it."""
    cluster, table = _prepare(options)
    result = run_simulation(cluster, table)
    if options.json:
        print_line(json.dumps({"cluster": asdict(cluster), "result": asdict(result)}, indent=1))
        return 0
    rows = _rows(cluster, table, result)
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print_line(f"{name:<{width}}  {text}")
    return 0


def _prepare(options: argparse.Namespace) -> tuple[Cluster, DurationTrace]:

    limits: dict[str, Any] = {}
    lease_s = LEASE_S
    if options.study is None:
        if (options.parts or PARTS) > MAX_PARTS:
            raise HpoError(f"--parts {options.parts}: must be at most {MAX_PARTS}")
        table = DurationTrace.make(
            options.parts or PARTS, options.part_s or PART_S, seed=options.seed
        )
    else:
        from hpo.study.record import find

        if options.parts is not None or options.part_s is not None:
            raise HpoError("--study gives the parts and their durations; drop --parts and --part-s")
        record = find(open_storage(options, Access.READ), options.study)
        table, spec = DurationTrace.from_study(record), record.spec
        lease_s = spec.lease_s
        limits = {
            "checkpoint_s": spec.checkpoint_s,
            "max_deaths": spec.max_deaths,
            "max_failures": spec.max_failures,
        }
    if options.workers > MAX_WORKERS:
        raise HpoError(f"--workers {options.workers}: must be at most {MAX_WORKERS}")
    lease_s = options.lease_s or lease_s
    events = options.trials * table.n_parts * (1.0 + table.mean_part_s / lease_s)
    if events > MAX_EVENTS:
        raise HpoError(
            f"{options.trials} trials of {table.n_parts} parts of {table.mean_part_s:.3g} s, with "
            f"a lease of {lease_s:g} s: {events:.1e} scores and heartbeats, and at most "
            f"{MAX_EVENTS:.0e} can be simulated"
        )
    cluster = Cluster(
        workers=options.workers,
        trials=options.trials,
        lease_s=lease_s,
        time_limit_s=options.time_limit_s,
        ramp_s=RAMP_S,
        draw_s=DRAW_S,
        store_service_s=options.store_ms / 1000.0,
        faults=Faults.of_all_kinds(options.faults),
        seed=options.seed,
        **limits,
    )
    return cluster, table


def _rows(cluster: Cluster, table: DurationTrace, result: Result) -> list[tuple[str, str]]:
    faults = ", ".join(f"{times:,} {kind}" for kind, times in sorted(result.faults.items()))
    pruned = f"{result.pruned:,} of them pruned, " if result.pruned else ""
    told = f"{result.finished:,} of {result.budget:,} finished, {pruned}"
    return [
        ("cluster", f"{cluster.workers:,} workers, lease {cluster.lease_s:g} s"),
        ("trial", f"{table.n_parts} parts of {table.mean_part_s:.3g} s on average"),
        ("outcome", result.outcome),
        ("trials", f"{told}{result.failed:,} failed"),
        (
            "books",
            f"{result.overshoot} beyond the budget, {result.lost} lost, "
            f"{result.told_twice} told twice",
        ),
        ("parts", f"{result.parts_scored:,} scored, {result.parts_repeated} computed again"),
        (
            "parts wasted",
            f"{result.parts_unfinished:,} cut short, {result.parts_refused:,} told too late",
        ),
        ("faults", faults or "none"),
        ("restarts", _restarts(result)),
        ("makespan", f"{result.makespan_s:,.0f} s"),
        ("utilisation", f"{result.utilisation:.1%}"),
        ("store", f"busy {result.store_busy:.0%}, longest wait {result.longest_wait_s:.1f} s"),
        ("calls per s", _load(result.calls_per_s)),
        ("transactions per s", _load(result.transactions_per_s)),
        ("SQL statements per s", _load(result.statements_per_s)),
        *(
            (f"calls: {kind}", f"{times:,}")
            for kind, times in sorted(result.calls.items(), key=lambda item: -item[1])
        ),
    ]


def _restarts(result: Result) -> str:
    spread = result.restart_s
    if spread is None:
        return "none"
    return (
        f"{spread.n:,}: median {spread.median:.0f} s, 95 % within {spread.p95:.0f} s, longest "
        f"{spread.max:.0f} s (lease + beat + poll: {result.restart_bound_s:.0f} s)"
    )


def _load(load: Load) -> str:
    return f"{load.mean:,.0f} on average, {load.peak:,.0f} at most"
