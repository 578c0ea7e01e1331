"""How many trials per minute, against the loop that most people write?

Two processes search the gradient boosting of a study over its own table, with the same sampler,
space and folds. The ladder begins with the usual loop and changes one thing at each step; the
last step is `hpo` with its defaults and the number of trees read off the curve. All steps are run
in turn, in as many rounds as asked for, so that whatever else the machine does meets all of them.
A rate counts from the start of the command to the end of its last trial; the whole command, for
`hpo` with its report, stands beside it.

With --cpu N, nothing but fits is compared, in one process and by its CPU time, which a busy machine
disturbs less: N random points of the space by each way in turn, and what pruning them would save.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import threadpoolctl

from tests.benchmarks.datasets import add_data
from tests.benchmarks.side_by_side import spread

ROOT = Path(__file__).resolve().parents[2]
STUDY = ROOT / "studies" / "conductivity" / "stage0_magpie.toml"
WORKERS = 2
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Step:
    """One rung of the ladder: what is changed, and how that is run.

    Attributes
    ----------
    one_thread
        Whether processes are held to one thread.
    loop
        usual (pandas and cross_validate), binned (the engine's objective without compiled trees),
        compiled (the engine's objective), or hpo (all of it).
    settings
        What `hpo run` is told with --set.
    """

    what: str
    one_thread: bool = True
    loop: str = "hpo"
    settings: tuple[str, ...] = ()


STAGED = 'space.max_iter={ type = "staged", high = 200, step = 10 }'
BASE = "one thread per process"
STEPS = (
    Step("the usual loop", one_thread=False, loop="usual"),
    Step(BASE, loop="usual"),
    Step("rows binned once", loop="binned"),
    Step("compiled trees", loop="compiled"),
    Step("the store of hpo", settings=("pruning=false",)),
    Step("pruning", settings=("pruning=true",)),
    Step("max_iter off the curve", settings=("pruning=true", STAGED)),
)


@dataclass(frozen=True)
class Run:
    """What one run of a step came to.

    Attributes
    ----------
    finished
        Trials that were finished or pruned within the time limit.
    wall_s, command_s
        From the start of the command to the end of the last of these, and to its own end.
    cpu_s
        Of all processes, from their start to their end.
    best
        The best score; None if no trial is complete.
    curve
        For each complete trial the seconds from the start to its end, and its score.
    """

    finished: int
    wall_s: float
    command_s: float
    cpu_s: float
    best: float | None
    curve: tuple[tuple[float, float], ...]

    @property
    def rate(self) -> float:
        """Trials per minute."""
        return 60.0 * self.finished / self.wall_s

    @property
    def cpu_per_trial(self) -> float:
        """CPU seconds per trial, of all processes."""
        return self.cpu_s / max(1, self.finished)

    def seconds_to(self, score: float) -> float | None:
        """Return after how many seconds a score was reached; None if it was not."""
        return next((after for after, reached in self.curve if reached <= score), None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the ladder."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_data(parser)
    parser.add_argument("--study", type=Path, default=STUDY, help="a study of plain boosting")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit-s", type=float, default=150.0, help="for each run")
    parser.add_argument("--json", type=Path, help="write every run there, too")
    parser.add_argument("--cpu", type=int, metavar="N", help="compare the fits of N points alone")
    options = parser.parse_args(arguments)
    if options.cpu:
        with tempfile.TemporaryDirectory() as folder:
            table = build_table(options.study, options.data, Path(folder))
            for line in compare_fits(options.study, table, options.cpu):
                print(line, flush=True)
        return 0
    runs: dict[str, list[Run]] = {step.what: [] for step in STEPS}
    with tempfile.TemporaryDirectory() as folder:
        table = build_table(options.study, options.data, Path(folder))
        for number in range(options.rounds):
            for step in STEPS:
                where = Path(folder) / f"{number}-{len(runs[step.what])}-{STEPS.index(step)}"
                where.mkdir()
                run = run_step(step, options, table, where, seed=number)
                runs[step.what].append(run)
                print(f"round {number}, {step.what}: {run.rate:.1f} trials/min", flush=True)
            if options.json:
                found = {what: [vars(run) for run in of] for what, of in runs.items()}
                options.json.write_text(json.dumps(found, indent=1))
    for line in format_ladder(runs):
        print(line)
    return 0


def compare_fits(study: Path, path: Path, n_points: int) -> Iterator[str]:
    """Yield a line per way of scoring the same random points, and what pruning would save."""
    import numpy as np
    import optuna

    import features.table
    from hpo.objectives.factory import make_objective
    from hpo.spec.loading import load
    from tests.benchmarks.trial_loops import usual, without_compiled_trees

    spec, table = load(study), features.table.read(path)
    staged_spec = load(study, [STAGED])
    by_hand = usual(spec, table)
    plain, staged = make_objective(spec, table), make_objective(staged_spec, table)
    sampler = optuna.samplers.RandomSampler(seed=0)
    points = [_draw(sampler, spec) for _ in range(n_points)]
    ways = ("2 threads", "usual", "binned", "compiled", "staged")
    cpu: dict[str, list[float]] = {way: [] for way in ways}
    folds, best = [], []
    few = max(2, n_points // 4)
    for number, point in enumerate(points):
        if number < few:
            for way, n_threads in (("2 threads", 2), ("usual", 1)):
                with threadpoolctl.threadpool_limits(n_threads):
                    cpu[way].append(_cpu_s(by_hand, point)[0])
        with threadpoolctl.threadpool_limits(1):
            with without_compiled_trees():
                used_s, by_scikit_learn = _cpu_s(_parts, plain, point)
            cpu["binned"].append(used_s)
            used_s, parts = _cpu_s(_parts, plain, point)
            cpu["compiled"].append(used_s)
            assert [part["score"] for part in parts] == [part["score"] for part in by_scikit_learn]
            drawn = {name: point[name] for name in point if name != "max_iter"}
            used_s, curves = _cpu_s(_parts, staged, drawn)
            cpu["staged"].append(used_s)
        folds.append([part["score"] for part in parts])
        best.append(staged.settle(curves, pruned=False).parts)  # type: ignore[attr-defined]
    yield f"{n_points} points, {table.n_features} columns, CPU s per trial"
    for way, used in cpu.items():
        ratio = spread([a / b for a, b in zip(cpu["usual"], used, strict=False)])
        yield f"{way:10} {spread(used)}, usual / this: {ratio}"
    scores = np.array(folds)
    read_off = np.array([[part["score"] for part in parts] for parts in best])
    for what, of in (("drawn", scores), ("off the curve", read_off)):
        means = of.mean(axis=1)
        yield f"{what}: best {means.min():.4f}, median {np.median(means):.4f}; {_replay(of)}"


def _replay(scores: Any) -> str:
    """Return what pruning saves on average over orders of the trials, and what it costs."""
    import numpy as np

    from hpo.worker.pruner import Rule

    rule, source = Rule(75.0, 1, 10, maximises=False), np.random.default_rng(0)
    n_trials, n_parts = scores.shape
    fits, lost = [], []
    for _ in range(200):
        complete: list[int] = []
        done = 0
        for trial in source.permutation(n_trials):
            others = scores[complete].reshape(-1, n_parts)
            ends = (k for k in range(1, n_parts) if rule.judge(scores[trial, :k], others))
            after = next(ends, n_parts)
            done += after
            if after == n_parts:
                complete.append(int(trial))
        fits.append(done / scores.size)
        lost.append(int(scores.mean(axis=1).argmin()) not in complete)
    share, loss = 100.0 * np.mean(fits), 100.0 * np.mean(lost)
    return f"pruned, {share:.0f} % of the fits and the best one lost in {loss:.0f} %"


def _draw(sampler: Any, spec: Any) -> dict[str, Any]:
    import optuna

    from hpo.spec.space import distributions

    trial = optuna.create_study(sampler=sampler).ask(distributions(spec.space))
    return dict(trial.params)


def _parts(objective: Any, params: dict[str, Any]) -> list[Any]:
    return [objective.score_part(params, part) for part in range(len(objective.parts))]


def _cpu_s(call: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    began = time.process_time()
    answer = call(*arguments)
    return time.process_time() - began, answer


def build_table(study: Path, data: Path, folder: Path) -> Path:
    """Build the table of a study below a folder, and return where it is."""
    import features.table
    from hpo.spec.loading import load

    spec = load(study)
    assert spec.table is not None
    built = features.table.build(
        spec.table, data_dir=data, tables_dir=folder / "tables", base_dir=study.parent, log=print
    )
    return built.path


def run_step(step: Step, options: Any, table: Path, where: Path, seed: int) -> Run:
    """Run one step of the ladder in an empty folder."""
    kept = {name: text for name, text in os.environ.items() if name not in THREADS}
    one = dict.fromkeys(THREADS, "1") if step.one_thread else {}
    environment = {**kept, **one, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    if step.loop == "hpo":
        settings = [text for setting in step.settings for text in ("--set", setting)]
        commands = [
            [
                *(sys.executable, "-m", "hpo", "run", str(options.study), *settings),
                *("--data", str(options.data), "--tables", str(table.parent)),
                *("--trials", str(options.trials), "--seed", str(seed), "--name", "rate"),
                *("--workers", str(WORKERS)),
            ]
        ]
    else:
        url = f"sqlite:///{where / 'hpo.db'}"
        _create_plain(url)
        commands = [
            [
                *(sys.executable, "-m", "tests.benchmarks.trial_loops", step.loop),
                *(str(options.study), str(table), url),
                *(str(options.trials // WORKERS), str(1000 * seed + process)),
            ]
            for process in range(WORKERS)
        ]
    return _measure(commands, environment, where, options.limit_s)


def _create_plain(url: str) -> None:
    import optuna

    # Once, before the processes: several that create a schema at once fail.
    storage = optuna.storages.RDBStorage(url)
    optuna.create_study(study_name="rate", storage=storage)
    storage.engine.dispose()


def _measure(
    commands: Sequence[Sequence[str]], environment: dict[str, str], where: Path, limit_s: float
) -> Run:
    before, began = _children_cpu_s(), time.time()
    with (where / "log.txt").open("wb") as log:
        processes = [
            subprocess.Popen(command, cwd=where, env=environment, stdout=log, stderr=log)
            for command in commands
        ]
        deadline = began + limit_s
        for process in processes:
            try:
                process.wait(timeout=max(0.1, deadline - time.time()))
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait()
    return _read(where, began, time.time() - began, _children_cpu_s() - before)


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _read(where: Path, began: float, command_s: float, cpu_s: float) -> Run:
    import optuna
    from optuna.trial import TrialState

    storage = optuna.storages.RDBStorage(f"sqlite:///{where / 'hpo.db'}")
    trials = optuna.load_study(study_name="rate", storage=storage).get_trials(deepcopy=False)
    storage.engine.dispose()
    ended = sorted(
        (trial.datetime_complete.timestamp() - began, trial.value)
        for trial in trials
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and trial.datetime_complete
    )
    curve = tuple((after, score) for after, score in ended if score is not None)
    best = min((score for _, score in curve), default=None)
    return Run(len(ended), max(after for after, _ in ended), command_s, cpu_s, best, curve)


def format_ladder(runs: dict[str, list[Run]]) -> list[str]:
    """Return the ladder as a table: medians over rounds, with the smallest and the largest.

    Factors compare runs of the same round, with the usual loop as it is and held to one thread.
    The last columns are the seconds until a score as good as the best that the latter found, and
    those of the whole command.
    """
    lines = [
        "| step | trials/min | CPU s/trial | rate, x usual | rate, x one thread "
        "| CPU, x one thread | best score | s to its best | command, s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for step in STEPS:
        of = runs[step.what]
        rounds = list(zip(runs[STEPS[0].what], runs[BASE], of, strict=True))
        reached = [run.seconds_to(base.best) for _, base, run in rounds if base.best is not None]
        cells = (
            step.what,
            spread([run.rate for run in of]),
            spread([run.cpu_per_trial for run in of], 3),
            spread([run.rate / usual.rate for usual, _, run in rounds]),
            spread([run.rate / base.rate for _, base, run in rounds]),
            spread([base.cpu_per_trial / run.cpu_per_trial for _, base, run in rounds]),
            spread([run.best for run in of if run.best is not None], 4),
            ", ".join("never" if after is None else f"{after:.0f}" for after in reached),
            spread([run.command_s for run in of], 1),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
