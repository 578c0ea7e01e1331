"""Figures that were reported elsewhere, in reported.toml, and joining them to studies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from hpo.analysis.comparison.leaderboard import Point
from hpo.errors import SpecError
from hpo.spec.loading import read_toml, validate_as
from hpo.spec.variants import REPORTED_NAME
from hpo.study.record import StudyRecord


class _Figures(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    r2: float | None = None
    rmse: float | None = None
    mae: float | None = None
    spearman: float | None = None


class Reported(BaseModel):
    """What a report says of one experiment, and which studies repeat it.

    `scores` has figures by the names that the studies' own objective gives them, "score" being
    what they search by; `external` is a score from outside, such as a leaderboard's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    studies: tuple[str, ...] = ()
    source: str
    n_features: int | None = None
    cv: _Figures = _Figures()
    test: _Figures = _Figures()
    scores: dict[str, float] = {}
    external: float | None = None


class External(BaseModel):
    """Scores from outside: what they are, what is aimed at, and those of studies here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "external score"
    target: float | None = None
    measured: dict[str, float] = {}


class ReportedFile(BaseModel):
    """All that a study folder's file of reported figures says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    experiment: tuple[Reported, ...]
    external: External = External()

    @property
    def points(self) -> list[Point]:
        """The experiments with both scores."""
        return [
            Point(one.name, one.scores["score"], one.external)
            for one in self.experiment
            if one.external is not None and "score" in one.scores
        ]

    @property
    def by_study(self) -> dict[str, Reported]:
        """The experiments by the names of the studies that repeat them."""
        return {study: one for one in self.experiment for study in one.studies}


def read_reported_file(path: Path) -> ReportedFile:
    """Read a whole file of reported figures.

    Raises
    ------
    SpecError
        If the file cannot be read, or a study stands for two experiments.
    """
    read: ReportedFile = validate_as(ReportedFile, read_toml(path), str(path))
    by_study: dict[str, Reported] = {}
    for experiment in read.experiment:
        for study in experiment.studies:
            if study in by_study:
                raise SpecError(
                    f"{path}: study '{study}' stands for '{by_study[study].name}' and for "
                    f"'{experiment.name}'; name it once"
                )
            by_study[study] = experiment
    return read


def reported_beside(records: Iterable[StudyRecord]) -> list[ReportedFile]:
    """Read the reported figures that lie beside the study files of these studies."""
    folders = dict.fromkeys(Path(record.source.file).parent for record in records)
    files = [folder / REPORTED_NAME for folder in folders]
    return [read_reported_file(file) for file in files if file.is_file()]


def join_reported(files: Sequence[ReportedFile]) -> dict[str, Reported]:
    """Return the experiments of several files by study; the first file that names one counts."""
    return {study: one for file in reversed(files) for study, one in file.by_study.items()}
