"""Writes the page about a study: what came out, whether to believe it, and where it comes from."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from features.table import FeatureTable
from hpo.analysis.best_model import Evaluation, evaluate, foreign_params
from hpo.analysis.predictions_csv import PREDICTIONS_NAME, predictions_csv
from hpo.errors import HpoError
from hpo.objectives.cross_validation import CrossValidation
from hpo.records import WALL_KEY
from hpo.redaction import redact_arguments, redact_value
from hpo.report import formatting, tables
from hpo.report.best_model_section import portray_targets
from hpo.report.class_section import portray_classes
from hpo.report.figures.base import name_folds, shown
from hpo.report.figures.files import FOLDER_NAME, write_figures
from hpo.report.figures.front import search_figures
from hpo.report.freshness import drawn_from, remove_stamp, save_stamp
from hpo.report.html import render
from hpo.report.told_section import tell
from hpo.report.validity import Evidence, findings
from hpo.study.identity.fingerprint import PARTS
from hpo.study.identity.provenance import published
from hpo.study.integrity import StudyContents, open_study
from hpo.study.record import StudyRecord
from hpo.study.report_folder import mark_folder, report_folder
from hpo.study.snapshot import StudySnapshot, none_is_best, take_events, take_snapshot
from hpo.study.trials import Search
from hpo.system.atomic_files import replace_file
from hpo.system.beside import Beside
from hpo.wording import count_of

PAGE_NAME = "report.html"


def write_report(record: StudyRecord, reports_dir: Path) -> Path:
    """Write report.html into the study's folder of reports, and what lies beside it.

    Where there are predictions, these are predictions.csv and the figures of the best model as
    files in figures/; so are figures of an objective's own. The page is one file that needs no
    network. Where table, objective, code or packages are not those that the study was begun with,
    it says so and holds nothing but what the trials stored.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    HpoError
        If the files cannot be written.
    """
    snapshot = take_snapshot(record, trials=True)
    marks = drawn_from(snapshot)
    opened = open_study(record)
    search = _search(snapshot, opened)
    with Beside(lambda: [*map(shown, search_figures(search))]) as drawing:
        evaluation = None
        if opened.whole and opened.objective is not None:
            evaluation = evaluate(snapshot, opened.table, opened.objective)
            # The evaluation of the test set is an event of its own, which the page tells of.
            events = take_events(record)
            snapshot, marks = replace(snapshot, events=events.told), marks | events.marks
        told = tell(snapshot, opened.objective if opened.whole else None)
        context = _context(snapshot, opened, search, evaluation)
        context |= {"told": told, "figures": drawing.result()}
    csv = predictions_csv(evaluation) if evaluation is not None else told.csv
    folder = report_folder(record, reports_dir)
    predictions = folder / PREDICTIONS_NAME
    try:
        mark_folder(record, folder)
        remove_stamp(folder)
        files = [folder / PAGE_NAME]
        if csv:
            replace_file(predictions, csv)
            files.append(predictions)
        stale = not csv and predictions.exists()
        page = render("report.html.j2", {**context, "stale_predictions": stale})
        replace_file(folder / PAGE_NAME, page)
        figures = told.files if evaluation is None else context["portrait"].figures
        if figures:
            files += write_figures(figures, folder / FOLDER_NAME)
        save_stamp(folder, marks, files, whole=opened.whole)
    except OSError as exc:
        raise HpoError(f"{folder}: cannot be written: {exc.strerror}") from exc
    return folder / PAGE_NAME


# What the template shows ----------------------------------------------------------------------


def _context(
    snapshot: StudySnapshot, opened: StudyContents, search: Search, evaluation: Evaluation | None
) -> dict[str, Any]:
    record, status = snapshot.record, snapshot.status
    holds_out = record.spec.validates and (
        opened.table is None or not bool(opened.table.is_train.all())
    )
    material = Evidence(
        search=search,
        counts=snapshot.counts,
        events=snapshot.events,
        table=opened.table,
        objective=opened.objective,
        evaluation=evaluation,
        holds_out=holds_out,
        baseline=status.told.baseline.score if status.told.baseline is not None else None,
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
        "no_scores": _why_no_scores(snapshot, opened),
        "best": search.best,
        "no_best": none_is_best(snapshot.counts),
        "front": tables.front_table(search),
        "params": tables.param_rows(record.spec.space, search.best) if search.best else [],
        "fixed": estimator.fixed if estimator else {},
        "put_before": _put_before(opened.objective),
        "provenance": _provenance(record, opened.table),
        "spec": _spec_text(record),
        **_scores(record, search, opened, evaluation, holds_out=holds_out),
    }


def _put_before(objective: object) -> list[str]:
    """Return what is to be known of the estimator, in sentences."""
    if not isinstance(objective, CrossValidation):
        return []
    return [*objective.bound.put_before, *objective.bound.notes(len(objective.y))]


def _spec_text(record: StudyRecord) -> str:
    spec = redact_value(record.spec.model_dump(mode="json"))
    return json.dumps(spec, indent=2, ensure_ascii=False)


def _scores(
    record: StudyRecord,
    search: Search,
    opened: StudyContents,
    evaluation: Evaluation | None,
    *,
    holds_out: bool,
) -> dict[str, Any]:
    targets = opened.table.targets if opened.table else ()
    _, unit = formatting.name_targets(targets)
    scores: dict[str, Any] = {
        "result": tables.sum_up(search, evaluation, unit, holds_out=holds_out),
        "parts": tables.parts_table(search, search.best, unit) if search.best else None,
        "scores": None,
        "portrait": None,
        "folds": [],
    }
    if evaluation is not None and opened.table is not None:
        scores["scores"] = tables.score_rows(evaluation, targets)
        draw = portray_classes if evaluation.cv.classes else portray_targets
        scores["portrait"] = draw(evaluation, opened.table, seed=record.spec.seed)
        scores["folds"] = list(name_folds(evaluation.cv).values())
    return scores


def _search(snapshot: StudySnapshot, opened: StudyContents) -> Search:
    assert snapshot.trials is not None
    return Search(
        name=snapshot.record.name,
        directions=snapshot.directions,
        trials=snapshot.trials,
        best=snapshot.best,
        value_names=snapshot.value_names,
        part_names=tuple(opened.objective.parts) if opened.objective else (),
        front=snapshot.status.front,
    )


def _times(record: StudyRecord, search: Search) -> dict[str, str]:
    ended = [trial.datetime_complete for trial in search.trials if trial.datetime_complete]
    spent = (*search.finished, *search.infeasible, *search.pruned)
    computed_s = math.fsum(trial.user_attrs.get(WALL_KEY, 0.0) for trial in spent)
    return {
        "begun": formatting.utc(record.created_at),
        # Optuna hands out local time without saying so, which is what timestamp() takes it for.
        "ended": formatting.utc(max(ended).timestamp()) if ended else "",
        "computed": formatting.duration(computed_s),
        "written": formatting.utc(time.time()),
    }


def _why_no_scores(snapshot: StudySnapshot, opened: StudyContents) -> str:
    spec = snapshot.record.spec
    if snapshot.best is None:
        reason = none_is_best(snapshot.counts)
        return f"{reason[0].upper()}{reason[1:]}, so there is no model to score."
    if not opened.whole:
        return "The best trial was not fitted again; the note at the top of the page says why."
    if spec.validates:
        return (
            f"Trial {snapshot.best.number}, the best one, is from outside: it has parameters that "
            f"are not in [space] ({', '.join(foreign_params(snapshot))}), and was not fitted again."
        )
    return (
        f"The objective {spec.objective.name} is the study's own: the engine knows what it "
        "tells, but no model that it could fit again."
    )


def _provenance(record: StudyRecord, table: FeatureTable | None) -> dict[str, Any]:
    # A page is given away: who began the study, where and how stays in the storage.
    origin = published(record.provenance)
    overrides = "".join(f" --set {text}" for text in redact_arguments(record.source.overrides))
    facts = {
        "Study file": f"{Path(record.source.file).name}{overrides}",
        "Storage": record.storage.engine.dialect.name,
        "Seed": str(record.spec.seed),
        "Lock file": origin.get("lock") or "",
        "hpo's commit": _commit(origin.get("git", {})),
        "Study file's commit": _commit(origin["repository"]) if "repository" in origin else "",
        "Python": origin.get("python", ""),
        "Platform": origin.get("platform", ""),
        "More": f"hpo provenance {record.name}",
    }
    if table is not None:
        facts["Table"] = (
            f"{table.name}: {count_of(table.n_rows, 'row')}, "
            f"{count_of(table.n_features, 'feature')}"
        )
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


def _commit(git: Mapping[str, Any]) -> str:
    changes = {
        True: f", with uncommitted changes (SHA-256 {git.get('diff_hash', '')})",
        False: ", no uncommitted changes",
        None: "",
    }
    return f"{git.get('commit', 'unknown')}{changes[git.get('dirty')]}"


def _citation(manifest: Mapping[str, Any]) -> str:
    citation = manifest.get("citation", "")
    return "; ".join(map(str, citation)) if isinstance(citation, list) else str(citation)
