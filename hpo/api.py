"""What `import hpo` offers to scripts and notebooks: the commands, by their names.

Whatever goes wrong is an `hpo.errors.HpoError` whose message says what to do. Storages are those of
the commands: `HPO_STORAGE`, or `sqlite:///hpo.db` in the working directory.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pandas as pd

from hpo.analysis import saved_model
from hpo.analysis.predictions_csv import PREDICTIONS_NAME
from hpo.cli import COMMANDS, make_parser
from hpo.commands.common import open_storage
from hpo.commands.results.model import read_table
from hpo.errors import HpoError
from hpo.records import Access
from hpo.study.points.checking import check_points
from hpo.study.record import StudyRecord, find
from hpo.study.status import Status, take_status

_Option = str | int | float | bool | Path | Sequence[str] | None


class Study(optuna.Study):
    """A study, as Optuna has it, and where its report is.

    Attributes
    ----------
    report
        The report page; it may not be written yet.
    """

    def __init__(self, record: StudyRecord, reports: Path) -> None:
        super().__init__(record.name, record.storage)
        self._record = record
        self.report = reports / record.name / "report.html"

    def trials_dataframe(self, *args: Any, **kwargs: Any) -> pd.DataFrame:
        """Return a row per trial, as Optuna does; the value of one objective is `value`."""
        frame = super().trials_dataframe(*args, **kwargs)
        if len(self.directions) > 1:
            return frame
        named = {name: "value" for name in frame if str(name).startswith("value_")}
        return frame.rename(columns=named)

    @property
    def best_model(self) -> Any:
        """The best trial's estimator, fitted on all training rows; saved as `hpo model` does.

        Raises
        ------
        HpoError
            If the study is not finished, or has no table.
        """
        model = saved_model.obtain(
            self._record, read_table(self._record), Path("models"), log=lambda _: None
        )
        return model.estimator

    @property
    def predictions(self) -> Path:
        """The CSV file of what the best model predicts, which is written with the report."""
        return self.report.with_name(PREDICTIONS_NAME)


def run(study: str | Path | Callable[..., Any], **options: _Option) -> Study:
    """Run a study until it is finished, with local workers, and write its report.

    Parameters
    ----------
    study
        A study file, or a function `FILE.py:NAME` or `package.module:NAME`; a function itself must
        be defined in a file that can be imported, as workers are processes of their own.
    options
        Those of `hpo run`, with underscores: `trials`, `workers`, `name`, `storage`, `seed`,
        `set=["key=value"]`.

    Raises
    ------
    HpoError
        With what is wrong and what to do.
    """
    return _begin("run", study, options)


def submit(study: str | Path | Callable[..., Any], **options: _Option) -> Study:
    """Run a study with workers on a SLURM cluster, and return at once; as `hpo submit`."""
    return _begin("submit", study, options)


def resume(name: str, **options: _Option) -> Study:
    """Go on with a study that was stopped, with local workers; as `hpo resume`."""
    _call("resume", [name], options)
    return _load(name, options)


def status(name: str, storage: str | None = None) -> Status:
    """Return how far a study is."""
    return take_status(_find(name, storage, Access.READ))


def load_study(name: str, storage: str | None = None, reports: str | Path = "reports") -> Study:
    """Return a study for reading: its trials, `trials_dataframe()`, its best trial, its report."""
    return Study(_find(name, storage, Access.READ), Path(reports))


def enqueue(
    name: str, points: Mapping[str, Any] | Sequence[Mapping[str, Any]], storage: str | None = None
) -> list[int]:
    """Have points tried before anything that is drawn, and return the numbers of their trials.

    Raises
    ------
    SpecError
        If one is not within the search space.
    """
    record = _find(name, storage, Access.WORK)
    listed = [points] if isinstance(points, Mapping) else [*points]
    return record.ledger.enqueue(check_points(record.spec, listed))


def _begin(
    command: str, study: str | Path | Callable[..., Any], options: Mapping[str, _Option]
) -> Study:
    from hpo.spec.loading import default_name

    target = Path(_name_of(study)) if callable(study) else Path(study)
    _call(command, [str(target)], options)
    return _load(str(options.get("name") or default_name(target)), options)


def _name_of(function: Callable[..., Any]) -> str:
    """Return the name of a function that workers can import."""
    if isinstance(function, functools.partial) or "<" in getattr(function, "__qualname__", "<"):
        raise HpoError(f"{function!r}: workers are processes of their own and cannot import it")
    module, name = function.__module__, function.__qualname__
    if module == "__main__":
        import __main__

        file = getattr(__main__, "__file__", None)
        if file is None:
            raise HpoError(
                f"{name}: workers are processes of their own, and cannot import what is defined in "
                "a notebook or at a prompt; write it into a file: hpo.run('train.py:objective')"
            )
        return f"{file}:{name}"
    return f"{module}:{name}"


def _call(command: str, words: Sequence[str], options: Mapping[str, _Option]) -> None:
    arguments = [command, *words]
    for key, value in options.items():
        option = f"--{key.replace('_', '-')}"
        if value is True:
            arguments.append(option)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            arguments += [f"{option}={item}" for item in value]
        elif value is not None and value is not False:
            arguments.append(f"{option}={value}")
    parser = make_parser([command] if command in COMMANDS else [])
    try:
        parsed: argparse.Namespace = parser.parse_args(arguments)
    except SystemExit as exc:
        raise HpoError(f"hpo {' '.join(arguments)}: not understood; see hpo {command} -h") from exc
    if (code := parsed.command(parsed)) != 0:
        raise HpoError(f"hpo {' '.join(arguments)}: ended with exit code {code}")


def _load(name: str, options: Mapping[str, _Option]) -> Study:
    storage = options.get("storage")
    reports = Path(str(options.get("reports") or "reports"))
    return load_study(name, None if storage is None else str(storage), reports)


def _find(name: str, storage: str | None, access: Access) -> StudyRecord:
    parser = make_parser(["status"])
    given = ["status"] + ([] if storage is None else ["--storage", storage])
    return find(open_storage(parser.parse_args(given), access), name)
