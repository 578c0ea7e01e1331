"""Writes the page about a study: what came out, whether to believe it, and where it comes from."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.table import FeaturesError, FeatureTable
from hpo import results
from hpo.errors import ConflictError, HpoError
from hpo.evaluation import Evaluation, evaluate
from hpo.figure_files import FOLDER_NAME, write_figures
from hpo.figures import name_folds
from hpo.files import replace_file
from hpo.fingerprint import (
    NOT_COMPARABLE,
    PARTS,
    Fingerprint,
    compare,
    fingerprint,
    is_comparable,
)
from hpo.ledger import WALL_KEY
from hpo.objective import Objective, make_objective
from hpo.page import render
from hpo.plugins import make_importable
from hpo.portrait import portray
from hpo.predictions_file import PREDICTIONS_NAME, predictions_csv
from hpo.report_stamp import drawn_from, remove_stamp, save_stamp
from hpo.search import Search
from hpo.search_figures import search_figures
from hpo.spec import CustomObjectiveSpec
from hpo.status import Status, take_status
from hpo.study import StudyRecord
from hpo.trust import Material, findings, shorten

PAGE_NAME = "report.html"


@dataclass(frozen=True)
class Opened:
    """What the study is made of, as far as it is still here.

    Attributes
    ----------
    table, objective
        None where they are not what the study was begun with, or cannot be opened.
    differences
        For every part that changed: what it is, before, now.
    problem
        Why something cannot be opened; "" if everything can.
    """

    table: FeatureTable | None = None
    objective: Objective | None = None
    differences: tuple[tuple[str, str, str], ...] = ()
    problem: str = ""

    @property
    def whole(self) -> bool:
        """Whether everything is what the study was begun with."""
        return not self.differences and not self.problem


def write_report(record: StudyRecord, reports_dir: Path) -> Path:
    """Write `<reports_dir>/<study name>/report.html`, and what lies beside it.

    Where there are predictions, these are predictions.csv and the figures of the best model as
    files in figures/. The page is one file that needs no network. Where table, objective, code or
    packages are not those that the study was begun with, it says so and holds nothing but what the
    trials stored.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    HpoError
        If the files cannot be written.
    """
    opened = open_study(record)
    before = drawn_from(record)
    evaluation = None
    if opened.whole and opened.objective is not None:
        evaluation = evaluate(record, opened.table, opened.objective)
    folder = reports_dir / record.name
    predictions = folder / PREDICTIONS_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_stamp(folder)
        now, files = drawn_from(record), [folder / PAGE_NAME]
        if evaluation is not None:
            replace_file(predictions, predictions_csv(evaluation))
            files.append(predictions)
        stale = evaluation is None and predictions.exists()
        context = _context(record, opened, evaluation)
        page = render("report.html.j2", {**context, "stale_predictions": stale})
        replace_file(folder / PAGE_NAME, page)
        if evaluation is not None:
            files += write_figures(context["portrait"].figures, folder / FOLDER_NAME)
        if opened.whole:
            save_stamp(folder, before, now, files)
    except OSError as exc:
        raise HpoError(f"{folder}: cannot be written: {exc.strerror}") from exc
    return folder / PAGE_NAME


def open_study(record: StudyRecord) -> Opened:
    """Open the table and the objective of a study, or say what is not as it was."""
    make_importable(Path(record.source.file))
    table = None
    try:
        table = record.read_table()
        objective = make_objective(record.spec, table)
        now = fingerprint(record.spec, table, objective)
    except (HpoError, FeaturesError) as exc:
        return Opened(_if_same(record, table), problem=str(exc))
    except Exception as exc:  # a user's own objective may raise anything
        problem = f"the objective cannot be built: {type(exc).__name__}: {exc}"
        return Opened(_if_same(record, table), problem=problem)
    try:
        compare(record.name, record.fingerprint, now)
    except ConflictError as exc:
        differences = tuple(_difference(record, part, now) for part in exc.changed)
        # What the folds were can still be told where rows and splits are the same.
        folds_changed = not {"table", "splits"}.isdisjoint(exc.changed)
        return Opened(_if_same(record, table), None if folds_changed else objective, differences)
    return Opened(table, objective)


def _difference(record: StudyRecord, part: str, now: Fingerprint) -> tuple[str, str, str]:
    before, what = record.fingerprint, f"{part}: {PARTS[part]}"
    if not is_comparable(part, before, now):
        how = f"hpo resume {record.name} --accept {part}"
        what += f" ({NOT_COMPARABLE}; if you only upgraded, accept it: {how})"
    return what, shorten(before.get(part, "")), shorten(now.get(part, ""))


def _if_same(record: StudyRecord, table: FeatureTable | None) -> FeatureTable | None:
    same = table is not None and table.hash == record.fingerprint.get("table")
    return table if same else None


# What the template shows ----------------------------------------------------------------------


def _context(record: StudyRecord, opened: Opened, evaluation: Evaluation | None) -> dict[str, Any]:
    status = take_status(record)
    search = _search(record, opened, evaluation, status)
    holds_out = not isinstance(record.spec.objective, CustomObjectiveSpec) and (
        opened.table is None or not bool(opened.table.is_train.all())
    )
    material = Material(
        search=search,
        counts=status.counts,
        events=record.ledger.events(),
        table=opened.table,
        objective=opened.objective,
        evaluation=evaluation,
        holds_out=holds_out,
    )
    estimator = record.spec.estimator
    return {
        "name": record.name,
        "description": record.spec.description,
        "status": status,
        "times": _times(record, search),
        "opened": opened,
        "holds_out": holds_out,
        "findings": findings(material),
        "evaluation": evaluation,
        "no_scores": _why_no_scores(record, opened, status),
        "best": search.best,
        "params": results.param_rows(record.spec.space, search.best) if search.best else [],
        "fixed": estimator.fixed if estimator else {},
        "figures": search_figures(search),
        "provenance": _provenance(record, opened.table),
        "spec": json.dumps(record.spec.model_dump(mode="json"), indent=2, ensure_ascii=False),
        **_scores(record, search, opened, evaluation, holds_out=holds_out),
    }


def _scores(
    record: StudyRecord,
    search: Search,
    opened: Opened,
    evaluation: Evaluation | None,
    *,
    holds_out: bool,
) -> dict[str, Any]:
    _, unit = results.name_target(opened.table.target if opened.table else None)
    scores: dict[str, Any] = {
        "result": results.sum_up(search, evaluation, unit, holds_out=holds_out),
        "parts": results.parts_table(search, search.best, unit) if search.best else None,
        "scores": None,
        "portrait": None,
        "folds": [],
    }
    if evaluation is not None and opened.table is not None:
        scores["scores"] = results.score_rows(evaluation, unit)
        scores["portrait"] = portray(evaluation, opened.table, seed=record.spec.seed)
        scores["folds"] = list(name_folds(evaluation.cv).values())
    return scores


def _search(
    record: StudyRecord, opened: Opened, evaluation: Evaluation | None, status: Status
) -> Search:
    study = record.optuna_study()
    trials = tuple(study.get_trials(deepcopy=False))
    names = study.metric_names
    # While workers run, a better trial may come between the refit and here.
    best = evaluation.trial if evaluation else status.best_trial
    return Search(
        name=record.name,
        direction=study.direction,
        trials=trials,
        best=None if best is None else trials[best],
        score_name=names[0] if names else "score",
        part_names=tuple(opened.objective.parts) if opened.objective else (),
    )


def _times(record: StudyRecord, search: Search) -> dict[str, str]:
    ended = [trial.datetime_complete for trial in search.trials if trial.datetime_complete]
    spent = (*search.finished, *search.pruned)
    computed_s = math.fsum(trial.user_attrs.get(WALL_KEY, 0.0) for trial in spent)
    return {
        "begun": results.utc(record.created_at),
        # Optuna hands out local time without saying so, which is what timestamp() takes it for.
        "ended": results.utc(max(ended).timestamp()) if ended else "",
        "computed": results.duration(computed_s),
        "written": results.utc(time.time()),
    }


def _why_no_scores(record: StudyRecord, opened: Opened, status: Status) -> str:
    if status.counts.finished == 0:
        return "No trial has finished, so there is no model to score."
    if not opened.whole:
        return "The best trial was not fitted again; the note at the top of the page says why."
    return (
        f"The objective {record.spec.objective.name} is the study's own: the engine knows its "
        "scores, but no model that it could fit again and no rows that it could predict."
    )


def _provenance(record: StudyRecord, table: FeatureTable | None) -> dict[str, Any]:
    origin = record.provenance
    git = origin.get("git", {})
    dirty = {True: ", with uncommitted changes", False: ", no uncommitted changes"}
    overrides = "".join(f" --set {text}" for text in record.source.overrides)
    facts = {
        "Study file": f"{record.source.file}{overrides}",
        "Command": origin.get("command", ""),
        "Storage": _storage_url(record),
        "Seed": str(record.spec.seed),
        "Lock file": origin.get("lock") or "",
        "Git commit": f"{git.get('commit', 'unknown')}{dirty.get(git.get('dirty'), '')}",
        "Python": origin.get("python", ""),
        "Host": " ".join(str(origin.get(key, "")) for key in ("host", "platform")),
    }
    if table is not None:
        facts["Table"] = f"{table.name}: {table.n_rows} rows, {table.n_features} features"
        facts["Table hash"] = table.hash
        facts["Citation"] = _citation(table.manifest)
    elif record.table_path is not None:
        facts["Table"] = f"{record.table_path.name}, which is not here as it was"
    return {
        "facts": {label: text for label, text in facts.items() if text},
        "packages": dict(sorted(origin.get("packages", {}).items())),
        "fingerprint": [
            (part, meaning, record.fingerprint.get(part) or "none")
            for part, meaning in PARTS.items()
        ],
    }


def _storage_url(record: StudyRecord) -> str:
    url = record.storage.engine.url
    # A driver may take the password in the query, too.
    hidden = {key: "***" if "pass" in key.lower() else text for key, text in url.query.items()}
    return url.set(query=hidden).render_as_string(hide_password=True)


def _citation(manifest: Mapping[str, Any]) -> str:
    citation = manifest.get("citation", "")
    return "; ".join(map(str, citation)) if isinstance(citation, list) else str(citation)
