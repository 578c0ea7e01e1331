"""How often does a search ask for parameters that fail, where a fifth of the range raises?

Each contestant draws equally many trials of functions of one and of four parameters in [0, 10].
A fifth of the first one's range raises: beside the best point that can be reached, around the best
point, or away from it. `hpo` as its workers do it on SQLite, by TPE and at random; plain Optuna in
memory, by TPE with its defaults and `catch=(Exception,)`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import TPESampler

from hpo.errors import ObjectiveError
from hpo.records import Claim
from hpo.spec.space import distributions
from hpo.worker.sampler import draw
from hpo.worker.trial_cache import TrialHistory
from tests.benchmarks.filled_studies import WORKER, begin_study
from tests.benchmarks.side_by_side import spread

HIGH = 10.0


@dataclass(frozen=True)
class Landscape:
    """A function of parameters in [0, HIGH] that raises in a fifth of the first one's range.

    Attributes
    ----------
    best
        Where the first parameter were best.
    fails_from
        Where the range that raises begins.
    n_params
        How many parameters there are; the others are best in the middle.
    """

    name: str
    best: float
    fails_from: float
    n_params: int

    @property
    def params(self) -> list[str]:
        """Names of the parameters."""
        return [f"x{k}" for k in range(self.n_params)]

    def __call__(self, params: dict[str, float]) -> float:
        """Return the value of a point, at least 0; raise ObjectiveError where it fails."""
        first, *others = (params[name] for name in self.params)
        if self.fails_from <= first < self.fails_from + HIGH / 5.0:
            raise ObjectiveError(f"x0 = {first:.3f}")
        return abs(first - self.best) + sum((x - HIGH / 2.0) ** 2 for x in others)


LANDSCAPES = [
    Landscape(f"{name}, {n_params}", best, fails_from, n_params)
    for n_params in (1, 4)
    for name, best, fails_from in (("beside", 0.0, 0.0), ("around", 5.0, 4.0), ("away", 7.0, 0.0))
]


@dataclass(frozen=True)
class Search:
    """What came of one search.

    Attributes
    ----------
    failed
        How many of its trials failed.
    best
        The least value it found.
    """

    failed: int
    best: float


Contestant = Callable[[Landscape, int, int, Path], Search]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print failed trials and best values of all contestants."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=226, help="drawn by each, failed or not")
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args(arguments)
    print(f"median (least to most) of {options.seeds} seeds, {options.trials} trials each")
    print(f"{'region, parameters':20} {'contestant':18} {'failed':>20}  best value")
    with tempfile.TemporaryDirectory() as folder:
        for landscape in LANDSCAPES:
            for name, search in CONTESTANTS.items():
                found = [
                    search(landscape, options.trials, seed, Path(folder))
                    for seed in range(options.seeds)
                ]
                failed = spread([run.failed for run in found], 0)
                best = spread([run.best for run in found], 4)
                print(f"{landscape.name:20} {name:18} {failed:>20}  {best}", flush=True)
    return 0


def _search_ours(
    sampler: str, landscape: Landscape, n_trials: int, seed: int, folder: Path
) -> Search:
    """Draw and tell as a worker does."""
    dimension = {"type": "float", "low": 0.0, "high": HIGH}
    record = begin_study(
        f"sqlite:///{folder / 'hpo.db'}",
        f"{sampler}-{landscape.name.replace(', ', '-')}-{seed}",
        space=dict.fromkeys(landscape.params, dimension),
        sampler={"name": sampler},
        max_failures=n_trials,
        seed=seed,
    )
    ledger, spec, space = record.ledger, record.spec, distributions(record.spec.space)
    history = TrialHistory(record.storage, record.study_id, spec.sampler.history)
    values = []
    for _ in range(n_trials):
        claim = ledger.claim(WORKER)
        assert isinstance(claim, Claim)
        params = draw(history, claim.number, space, spec.sampler, spec.seed)
        ledger.save_params(claim, params, space)
        history.note(claim.trial_id, params, space)
        try:
            values.append(landscape(params))
        except ObjectiveError as exc:
            ledger.fail(claim, str(exc))
        else:
            ledger.finish(claim, {"score": values[-1], "wall_s": 0.0})
    record.storage.remove_session()
    record.storage.engine.dispose()
    return Search(n_trials - len(values), min(values))


def _search_plain(landscape: Landscape, n_trials: int, seed: int, _folder: Path) -> Search:
    """Search as Optuna's documentation has it."""

    def objective(trial: optuna.Trial) -> float:
        return landscape({name: trial.suggest_float(name, 0.0, HIGH) for name in landscape.params})

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    study = optuna.create_study(sampler=TPESampler(seed=seed))
    study.optimize(objective, n_trials=n_trials, catch=(Exception,))
    complete = [trial.value for trial in study.trials if trial.value is not None]
    return Search(n_trials - len(complete), min(complete))


def _ours(sampler: str) -> Contestant:
    def search(*setting: Any) -> Search:
        return _search_ours(sampler, *setting)

    return search


CONTESTANTS: dict[str, Contestant] = {
    "hpo, TPE": _ours("tpe"),
    "hpo, random": _ours("random"),
    "plain Optuna, TPE": _search_plain,
}


if __name__ == "__main__":
    sys.exit(main())
