"""Writes the page about a study that Optuna alone made: its best trial and its search."""

from __future__ import annotations

import time
from pathlib import Path

from hpo.errors import HpoError
from hpo.report import tables
from hpo.report.figures.front import search_figures
from hpo.report.formatting import utc
from hpo.report.html import render
from hpo.report.study_page import PAGE_NAME
from hpo.study.plain import PlainStudy
from hpo.study.report_folder import OWNER_NAME
from hpo.study.trials import Search
from hpo.system.atomic_files import replace_file


def write_plain_report(study: PlainStudy, reports_dir: Path) -> Path:
    """Write report.html into a folder of the study's name, or beside it if that is taken.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    HpoError
        If it cannot be written.
    """
    search = Search(
        study.name, study.directions, study.trials, study.best, study.value_names, (), study.front
    )
    page = render(
        "plain.html.j2",
        {
            "name": study.name,
            "written": utc(time.time()),
            "n_trials": len(study.trials),
            "result": tables.sum_up(search, None, "", holds_out=False),
            "front": tables.front_table(search),
            "best": study.best,
            "no_best": "no trial has finished that counts",
            "params": tables.param_rows({}, study.best) if study.best else [],
            "figures": search_figures(search),
        },
    )
    folder = reports_dir / study.name
    if (folder / OWNER_NAME).exists():
        folder = reports_dir / f"{study.name}-optuna"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / PAGE_NAME, page)
    except OSError as exc:
        raise HpoError(f"{folder}: cannot be written: {exc.strerror}") from exc
    return folder / PAGE_NAME
