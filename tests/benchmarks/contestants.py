"""The ways of running a study that are compared; run as a module, one process of one of them."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hpo.storage.events import EventKind
from tests.benchmarks.journalled import HIGH, LOW, Parts, score_whole

STUDY = "x"
URL = "sqlite:///hpo.db"
# How long a worker shows no sign of life before it is taken for dead, where anything looks.
LEASE_S = 3
HEARTBEAT_S = 1

STUDY_FILE = f"""
trials = {{trials}}
lease_s = {LEASE_S}
checkpoint_s = 0
[objective]
name = "{Parts.__module__}:{Parts.__name__}"
params = {{{{ part_s = {{part_s}} }}}}
[space]
alpha = {{{{ type = "float", low = {LOW}, high = {HIGH} }}}}
"""


@dataclass(frozen=True)
class Setting:
    """What is asked of every contestant."""

    workers: int
    trials: int
    part_s: float

    @property
    def parts(self) -> int:
        """Parts of a run in which nothing is computed for nothing."""
        return self.trials * len(Parts.parts)

    @property
    def ideal_s(self) -> float:
        """Wall time of that run if nothing but the parts took any."""
        return self.parts * self.part_s / self.workers


@dataclass(frozen=True)
class Contestant:
    """One way of running a study.

    Attributes
    ----------
    commands
        The processes that a user starts; each is started again as it is until it ends with 0.
    prepare
        What a user does once, in the folder of the study, before all commands.
    """

    key: str
    name: str
    commands: Callable[[Setting], list[list[str]]]
    prepare: Callable[[Setting, Path], None]


def _module(role: str, trials: int, setting: Setting, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "tests.benchmarks.contestants", role, str(trials)),
        *("--part-s", str(setting.part_s), *more),
    ]


def _divided(setting: Setting) -> list[list[str]]:
    share, rest = divmod(setting.trials, setting.workers)
    shares = [share + (k < rest) for k in range(setting.workers)]
    return [_module("optimize", trials, setting) for trials in shares if trials]


def _each(role: str) -> Callable[[Setting], list[list[str]]]:
    return lambda setting: [_module(role, setting.trials, setting)] * setting.workers


def _sweep(setting: Setting) -> list[list[str]]:
    return [_module("sweep", setting.trials, setting, "--jobs", str(setting.workers))]


def _hpo(setting: Setting) -> list[list[str]]:
    arguments = ("run", f"{STUDY}.toml", "--workers", str(setting.workers), "--storage", URL)
    return [[sys.executable, "-m", "hpo", *arguments]]


def _create_study(_setting: Setting, folder: Path) -> None:
    import optuna

    # Once, before all workers, as Optuna's manual does: of several first runs at once some die.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'hpo.db'}")
    optuna.create_study(study_name=STUDY, storage=storage)
    storage.engine.dispose()


def _write_study_file(setting: Setting, folder: Path) -> None:
    text = STUDY_FILE.format(trials=setting.trials, part_s=setting.part_s)
    (folder / f"{STUDY}.toml").write_text(text, encoding="utf-8")


CONTESTANTS = (
    Contestant("optimize", "optuna: optimize(n_trials=budget/N)", _divided, _create_study),
    Contestant("callback", "optuna: MaxTrialsCallback", _each("callback"), _create_study),
    Contestant(
        "heartbeat",
        "optuna: MaxTrialsCallback, heartbeat, retry",
        _each("heartbeat"),
        _create_study,
    ),
    Contestant("sweep", "hydra-optuna-sweeper (its semantics)*", _sweep, lambda *_: None),
    Contestant("hpo", "hpo run", _hpo, _write_study_file),
)


# One process of a contestant ------------------------------------------------------------------


def _optimize(options: argparse.Namespace) -> None:
    """Run so many trials, whatever the others do."""
    import optuna

    study = optuna.load_study(study_name=STUDY, storage=URL)
    study.optimize(_objective(options.part_s), n_trials=options.trials)


def _optimize_until(options: argparse.Namespace) -> None:
    """Run trials until so many are complete."""
    import optuna

    study = optuna.load_study(study_name=STUDY, storage=URL)
    study.optimize(_objective(options.part_s), callbacks=[_budget(options.trials)])


def _optimize_with_heartbeat(options: argparse.Namespace) -> None:
    """Run trials until so many are complete; take up those whose worker shows no sign of life."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = optuna.storages.RDBStorage(
            URL,
            heartbeat_interval=HEARTBEAT_S,
            grace_period=LEASE_S,
            heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(),
        )
    study = optuna.load_study(study_name=STUDY, storage=storage)
    study.optimize(_objective(options.part_s), callbacks=[_budget(options.trials)])


def _sweep_in_batches(options: argparse.Namespace) -> None:
    """Ask for a batch, run it, wait for all of it, tell it; in one driver, as the sweeper does.

    A re-implementation of what OptunaSweeperImpl.sweep of hydra-optuna-sweeper
    (facebookresearch/hydra, plugins/hydra_optuna_sweeper, _impl.py) does with a storage and a
    study name, over joblib's processes as hydra-joblib-launcher runs them (_core.py). The number
    of trials still to go is kept by this process alone, and begins at n_trials every time. A job
    that dies ends the call of the launcher, and with it the sweep, before anything is told.
    """
    import optuna
    from joblib import Parallel, delayed

    study = optuna.create_study(study_name=STUDY, storage=URL, load_if_exists=True)
    to_go = options.trials
    while to_go > 0:
        batch = min(to_go, options.jobs)
        trials = [study.ask() for _ in range(batch)]
        alphas = [trial.suggest_float("alpha", LOW, HIGH) for trial in trials]
        jobs = (delayed(score_whole)(alpha, options.part_s) for alpha in alphas)
        scores = Parallel(n_jobs=options.jobs, backend="loky")(jobs)
        for trial, score in zip(trials, scores, strict=True):
            study.tell(trial, score)
        to_go -= batch


def _objective(part_s: float) -> Callable[..., float]:
    return lambda trial: score_whole(trial.suggest_float("alpha", LOW, HIGH), part_s)


def _budget(trials: int) -> Callable[..., None]:
    from optuna.study import MaxTrialsCallback
    from optuna.trial import TrialState

    return MaxTrialsCallback(trials, states=(TrialState.COMPLETE,))


_ROLES = {
    "optimize": _optimize,
    "callback": _optimize_until,
    "heartbeat": _optimize_with_heartbeat,
    "sweep": _sweep_in_batches,
}


def main() -> None:
    """Be one process of a contestant, in the current folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("role", choices=_ROLES)
    parser.add_argument("trials", type=int)
    parser.add_argument("--part-s", type=float, required=True)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    _ROLES[options.role](options)


def trials_of(folder: Path) -> list[tuple[str, str]]:
    """Return state and parameter (empty if none was drawn) of all trials of a study."""
    import optuna

    if not (folder / "hpo.db").exists():
        return []
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'hpo.db'}")
    try:
        trials = optuna.load_study(study_name=STUDY, storage=storage).get_trials(deepcopy=False)
        return [
            (trial.state.name, repr(trial.params["alpha"]) if trial.params else "")
            for trial in trials
        ]
    finally:
        storage.engine.dispose()


def crashes_of_hpo(folder: Path) -> list[str]:
    """Return why workers of hpo's ended by themselves with an error."""
    from hpo.records import Access
    from hpo.storage.backends import open_storage
    from hpo.study.record import find

    if not (folder / f"{STUDY}.toml").exists() or not (folder / "hpo.db").exists():
        return []
    storage = open_storage(f"sqlite:///{folder / 'hpo.db'}", Access.WORK)
    try:
        deaths = find(storage, STUDY).ledger.events(EventKind.DEATH)
        return [json.dumps(death) for death in deaths if "exit code" in death["reason"]]
    finally:
        storage.engine.dispose()


if __name__ == "__main__":
    main()
