"""Threats to validity: leaks, reuse of the test set, selection, failures, changes on the way."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from optuna.trial import FrozenTrial

from features.table import FeatureTable
from hpo.analysis.best_model import Evaluation
from hpo.objectives.censored.checks import describe_bounds
from hpo.objectives.cross_validation import CrossValidation
from hpo.objectives.factory import AnyObjective
from hpo.objectives.folds import mean_repeats, shared_group_fraction, times_validated
from hpo.objectives.metrics import Metric, score_all
from hpo.records import FAILURE_KEY, Counts, part_key
from hpo.report.formatting import METRIC_LABELS, label, number, percent, shown_metrics, utc
from hpo.report.tables import TextTable
from hpo.storage.events import EventKind
from hpo.study.identity.fingerprint import NOT_COMPARABLE, PARTS, shorten
from hpo.study.trials import Search, score
from hpo.wording import count_of

MAX_LISTED = 200  # rows of a list; the page says how many more there are and what shows them
REFIT_TOLERANCE = 1e-6

Level = Literal["fine", "note", "caution"]
Events = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ValidityFinding:
    """One thing to know before believing a score."""

    level: Level
    title: str
    text: str
    tables: tuple[TextTable, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """What findings are made from.

    Attributes
    ----------
    table, objective
        What the study was begun with; None where that is not here any more.
    evaluation
        The refitted best trial; None where there is none.
    holds_out
        Whether the engine keeps rows of this study out of the search.
    baseline
        The score that trials are compared with; None if there is none.
    """

    search: Search
    counts: Counts
    events: Events
    table: FeatureTable | None
    objective: AnyObjective | None
    evaluation: Evaluation | None
    holds_out: bool
    baseline: float | None = None


def findings(material: Evidence) -> list[ValidityFinding]:
    """Return everything there is to know, reasons for caution first."""
    table, objective = material.table, material.objective
    found = [_derived_columns(table, objective)] if table is not None else []
    if table is not None and isinstance(objective, CrossValidation):
        found += [_shared_groups(table, objective), *_validated_rows(objective)]
        found += _known_as_intervals(objective)
    found.append(_test_evaluations(material))
    if material.search.finished:
        found.append(_selection(material.search, material.events, objective))
        if material.baseline is not None:
            found.append(_baseline(material.search, material.baseline))
    if material.evaluation is not None and isinstance(objective, CrossValidation):
        found.append(_refit(material.search, material.evaluation, objective.metrics))
    if material.search.pruned:
        what = "fits" if isinstance(objective, CrossValidation) else "parts"
        ended = (
            _ended_early(material.search, what)
            if material.search.in_parts
            else _pruned(material.search)
        )
        found.append(ended)
    found.append(_changes(material.events))
    found.append(_failures(material.search))
    found.append(_deaths(material.events))
    if table is not None:
        found.append(_missing_rows(table))
    ranks = ("caution", "note", "fine")
    return sorted(found, key=lambda finding: ranks.index(finding.level))


def _baseline(search: Search, baseline: float) -> ValidityFinding:
    title, best = "The baseline", score(search.finished[0])
    both = f"the best trial has {number(best)}, the baseline {number(baseline)}"
    if (best < baseline) if search.minimises else (best > baseline):
        return ValidityFinding("fine", title, f"{both[0].upper()}{both[1:]}.")
    text = f"No trial is better than the baseline, which was not searched for: {both}."
    return ValidityFinding("caution", title, text)


def _derived_columns(table: FeatureTable, objective: AnyObjective | None) -> ValidityFinding:
    title = "Features made from the target"
    derived = [column for column in table.columns if column.derived_from_target]
    if not derived:
        features = count_of(table.n_features, "feature")
        text = f"None of the {features} is marked as made from the target."
        return ValidityFinding("fine", title, text)
    named = ", ".join(f"{column.name} (family {column.family})" for column in derived)
    verb, them = ("is", "it") if len(derived) == 1 else ("are", "them")
    if objective is not None and not isinstance(objective, CrossValidation):
        text = (
            f"{len(derived)} of {count_of(table.n_features, 'column')} {verb} made from the "
            "target or measured "
            f"with it: {named}. The objective is the study's own: whether its models see {them} or "
            f"predict {them}, it alone knows."
        )
        return ValidityFinding("note", title, text)
    text = (
        f"{len(derived)} of {count_of(table.n_features, 'feature')} {verb} made from the target: "
        f"{named}. A model reads part of the answer from {them}, and no new material comes with "
        f"{them}. Leave {them} out before believing any score on this page."
    )
    return ValidityFinding("caution", title, text)


def _shared_groups(table: FeatureTable, objective: CrossValidation) -> ValidityFinding:
    title = "Groups on both sides of a fold"
    train, test = table.train, table.test
    if len(np.unique(table.groups)) == table.n_rows:
        text = (
            "Every row is a group of its own: the table does not say which rows belong together "
            "(one paper, one composition), so nothing can be said about near copies of a "
            "validated row in its training part."
        )
        return ValidityFinding("note", title, text)
    share = shared_group_fraction(objective.folds, train.groups)
    meaning = "(rows of one paper or of one composition, as the table groups them)"
    if share == 0:
        text = f"No group {meaning} has rows on both sides of a fold."
    else:
        text = (
            f"{percent(share)} of the validated rows have a row of the same group {meaning} in "
            "the training part of their fold. Cross-validation therefore says how well the model "
            "fills in groups that it knows; for a material from a new group, expect less. "
            'Folds of whole groups: scheme = "group_kfold" in [cv].'
        )
    level: Level = "caution" if share > 0 else "fine"
    if len(test.y):
        known = float(np.isin(test.groups, train.groups).mean())
        if known == 0:
            text += " The held-out rows share no group with the training rows."
        else:
            level = "caution"
            text += f" {percent(known)} of the held-out rows have a row of their group in training."
    return ValidityFinding(level, title, text)


def _validated_rows(objective: CrossValidation) -> list[ValidityFinding]:
    """Say which rows folds validate, where it is not each once."""
    times = times_validated(objective.folds, len(objective.y))
    said, n_never = [], int((times == 0).sum())
    if n_never:
        said.append(
            f"{n_never} of {len(times)} training rows are validated by no fold: scores of "
            "cross-validation and intervals say nothing of rows like these."
        )
    if times.max() > 1:
        often = times[times > 0]
        span = f"{often.min()} to {often.max()}" if np.ptp(often) else f"{often.max()}"
        said.append(
            f"Rows are validated {span} times, by another model each time. A row counts once, with "
            "all its predictions: scores are those of one model, not of the mean of several, and "
            "intervals resample rows."
        )
    return [ValidityFinding("note", "Rows that folds validate", " ".join(said))] if said else []


def _known_as_intervals(objective: CrossValidation) -> list[ValidityFinding]:
    """Say how rows are scored whose target is known as an interval, if there are any."""
    told = describe_bounds(objective.bounds, objective.bound)
    scored = (
        "A prediction within the interval has no error, one beyond it the distance to the nearer "
        "bound: RMSE and MAE are of that. R² and Spearman's ρ are of measured rows alone, as are "
        "intervals of predictions. Concordance is the share of pairs of rows in their right order, "
        "of those whose order is known."
    )
    title = "Targets that are known as intervals"
    return [ValidityFinding("note", title, f"{one[0].upper()}{one[1:]}. {scored}") for one in told]


def _test_evaluations(material: Evidence) -> ValidityFinding:
    title = "Test-set evaluations"
    evaluations = [event for event in material.events if event["kind"] == EventKind.TEST_EVALUATION]
    withheld = material.evaluation.withheld if material.evaluation is not None else ""
    if not evaluations and withheld:
        return ValidityFinding("note", title, f"None: the test set was left alone, {withheld}.")
    if not evaluations and not material.holds_out:
        text = (
            "The engine holds nothing out in this study: every score on this page took part in "
            "choosing the best trial."
        )
        return ValidityFinding("caution", "Nothing is held out", text)
    metrics = shown_metrics(evaluations[0]["scores"]) if evaluations else tuple(METRIC_LABELS)
    rows = tuple(
        (
            utc(look["at"]),
            str(look["finished"]),
            str(look["trial"]),
            *(number(look["scores"].get(name)) for name in metrics),
        )
        for look in evaluations
    )
    columns = ("when", "after trials", "trial evaluated", *map(label, metrics))
    numeric = frozenset(range(1, len(columns)))
    tables = (TextTable("Every evaluation", columns, rows, numeric),) if evaluations else ()
    if not evaluations:
        text = (
            f"None yet. The test set is evaluated once, when the budget of "
            f"{count_of(material.counts.budget, 'trial')} is finished."
        )
        return ValidityFinding("fine", title, text)
    went_on = not material.counts.done or evaluations[0]["finished"] < material.counts.finished
    if len(evaluations) == 1 and not went_on:
        text = (
            f"One, on {utc(evaluations[0]['at'])}, after "
            f"{count_of(evaluations[0]['finished'], 'trial')}, "
            f"with trial {evaluations[0]['trial']} alone. The held-out rows took no part in "
            "choosing it."
        )
        return ValidityFinding("fine", title, text, tables)
    times = "once" if len(evaluations) == 1 else f"{len(evaluations)} times"
    text = (
        f"The test set has been evaluated {times}. Whoever goes on with a study after that, or "
        "chooses among evaluations, chooses by the test set: its later scores are no longer those "
        "of rows that nobody has seen."
    )
    return ValidityFinding("caution", title, text, tables)


def _selection(search: Search, events: Events, objective: AnyObjective | None) -> ValidityFinding:
    title = "The best of many"
    finished = search.finished
    chosen_among = len(finished) + len(search.pruned)
    if chosen_among == 1:
        text = "One trial has finished: nothing was selected."
        return ValidityFinding("fine", title, text)
    text = (
        f"The cross-validated score of the best trial was selected among {chosen_among} trials. "
        "The best of many is partly luck, and its intervals do not allow for that."
    )
    best = finished[0]
    parts = list(best.intermediate_values.values())
    if not isinstance(objective, CrossValidation) or not objective.averaged:
        text = text.replace("cross-validated score", "score")
    elif len(parts) > 1:
        repeats = mean_repeats(objective.folds, len(objective.y))
        error = float(np.std(parts, ddof=1)) / math.sqrt(len(parts) / repeats)
        near = sum(abs(score(trial) - score(best)) <= error for trial in finished)
        if near > 1:
            text += (
                f" {near} of them score within one standard error over folds ({number(error)}) of "
                "the best: the folds alone cannot tell which of them is better."
            )
    nested = [event for event in events if event["kind"] == EventKind.NESTED]
    if nested:
        text += f" {_in_words(nested[-1])}"
    return ValidityFinding("note", title, text)


def _ended_early(search: Search, what: str) -> ValidityFinding:
    """Say what was saved by ending trials early, and that it may have cost the best one."""
    finished, pruned = search.finished, search.pruned
    n_parts = max(len(trial.intermediate_values) for trial in finished)
    wanted = n_parts * (len(finished) + len(pruned))
    saved = sum(n_parts - len(trial.intermediate_values) for trial in pruned)
    after = Counter(len(trial.intermediate_values) for trial in pruned)
    listed = ", ".join(f"{count} after part {part}" for part, count in sorted(after.items()))
    text = (
        f"{count_of(len(pruned), 'trial')} ended early ({listed}), because the mean of their first "
        f"parts was worse than that of most others; {len(finished)} were scored on all {n_parts} "
        f"parts. That saved {saved} of {wanted} {what} ({percent(saved / wanted)}). Had they gone "
        "on, one of them might still have become the best: pruning = false in the study file lets "
        "all go on."
    )
    return ValidityFinding("note", "Trials that were ended early", text)


def _pruned(search: Search) -> ValidityFinding:
    """Say that a function pruned trials of its own accord."""
    text = (
        f"{count_of(len(search.pruned), 'trial')} ended early: the objective asked its pruner, or "
        f"raised TrialPruned; {len(search.finished)} were evaluated to their end. Had the others "
        "gone on, one of them might still have become the best."
    )
    return ValidityFinding("note", "Trials that were ended early", text)


def _refit(
    search: Search, evaluation: Evaluation, metrics: Mapping[str, Metric]
) -> ValidityFinding:
    """Compare the refitted folds with what the worker stored of the same trial."""
    title = "The refitted model is the one that was scored"
    stored = search.trials[evaluation.trial].user_attrs
    if part_key(0) not in stored:
        text = (
            f"Trial {evaluation.trial}, the best one, is from outside: it stored no scores of "
            "folds that those of the refitted model could be compared with."
        )
        return ValidityFinding("caution", title, text)
    worst = 0.0
    for fold in np.unique(evaluation.cv.fold):
        rows = evaluation.cv.fold == fold
        again = score_all(evaluation.cv.truth[rows], evaluation.cv.predicted[rows], metrics)
        then = stored[part_key(int(fold))]
        for name, value in again.items():
            before = then[f"{name}_val"]
            if before is None:  # How an undefined score is stored.
                worst = worst if math.isnan(value) else math.inf
            else:
                worst = max(worst, abs(value - before) / max(1.0, abs(before)))
    if worst <= REFIT_TOLERANCE:
        text = "Fitted again for this page, every fold gave the scores that the trial stored."
        return ValidityFinding("fine", title, text)
    text = (
        f"Fitted again for this page, a fold scored up to {number(worst)} away from what trial "
        f"{evaluation.trial} stored. Either the estimator does not give the same model twice, or "
        "the trial was scored before something changed; predictions here are those of the new fit."
    )
    return ValidityFinding("caution", title, text)


def _changes(events: Events) -> ValidityFinding:
    title = "Changes since the study began"
    rows, accepted, upgraded = [], 0, False
    for event in events:
        if event["kind"] == EventKind.ACCEPTED and not event.get("comparable", True):
            upgraded = True
            rows.append((utc(event["at"]), f"{PARTS[event['part']]}: {NOT_COMPARABLE}"))
        elif event["kind"] == EventKind.ACCEPTED:
            accepted += 1
            before, now = shorten(event["before"]), shorten(event["now"])
            rows.append((utc(event["at"]), f"{PARTS[event['part']]}: {before} → {now}"))
        elif event["kind"] == EventKind.BUDGET:
            rows.append(
                (
                    utc(event["at"]),
                    f"budget: {event['before']} → {count_of(event['after'], 'trial')}",
                )
            )
    if not rows:
        text = "None: every trial had the same data, folds, space, objective, code and packages."
        return ValidityFinding("fine", title, text)
    tables = (_listed("Every change", ("when", "what"), rows),)
    if accepted:
        text = (
            f"{count_of(accepted, 'change')} accepted on the way. Trials from before and after it "
            "were not scored alike, and the best of them may be the best only by that."
        )
        return ValidityFinding("caution", title, text, tables)
    if upgraded:
        text = f"Of the code that computes a score, {NOT_COMPARABLE}. The rest is as it was."
        return ValidityFinding("note", title, text, tables)
    text = (
        "The budget was changed on the way. A study that goes on until its score pleases is more "
        "optimistic than one whose length was fixed before."
    )
    return ValidityFinding("note", title, text, tables)


def _failures(search: Search) -> ValidityFinding:
    title = "Failed trials"
    failed = search.failed
    if not failed:
        return ValidityFinding("fine", title, "None.")
    by_reason: dict[str, list[FrozenTrial]] = {}
    for trial in failed:
        by_reason.setdefault(str(trial.user_attrs.get(FAILURE_KEY, "unknown")), []).append(trial)
    ordered = sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[1][0].number))
    rows = [
        (str(len(trials)), _numbers([trial.number for trial in trials]), reason)
        for reason, trials in ordered
    ]
    text = (
        f"{count_of(len(failed), 'trial')} failed beside {len(search.finished)} finished. Failed "
        "trials cost no budget, and TPE takes them for worse than all others: look whether they "
        "fail in one corner of the space."
    )
    shown = _listed(
        "Reasons", ("trials", "numbers", "reason"), rows, {0}, f"hpo export {search.name}"
    )
    level: Level = "caution" if len(failed) > 0.1 * len(search.trials) else "note"
    return ValidityFinding(level, title, text, (shown,))


def _deaths(events: Events) -> ValidityFinding:
    title = "Workers that died"
    rows = [
        (utc(event["at"]), str(event["trial"]), str(event["worker"]), str(event["reason"]))
        for event in events
        if event["kind"] == EventKind.DEATH
    ]
    if not rows:
        return ValidityFinding("fine", title, "None.")
    text = (
        f"{count_of(len(rows), 'worker')} died. Another one went on with the trial from its last "
        "stored part, so that no score depends on it."
    )
    columns = ("when", "trial", "worker", "reason")
    return ValidityFinding("note", title, text, (_listed("Every death", columns, rows, {1}),))


def _in_words(nested: Mapping[str, Any]) -> str:
    scores = []
    for name in shown_metrics(nested["scores"]):
        low, high = nested["intervals"]["group"][name]
        value = number(nested["scores"][name])
        scores.append(f"{label(name)} {value} ({number(low)} to {number(high)})")
    return (
        f"Nested cross-validation, in which each of {count_of(nested['folds'], 'fold')} is "
        "predicted by a "
        f"search of {count_of(nested['trials'], 'trial')} that has not seen it, scores "
        f"{', '.join(scores)} "
        f"over {count_of(nested['rows'], 'row')}, with 95 % intervals by group."
    )


def _missing_rows(table: FeatureTable) -> ValidityFinding:
    title = "Rows that are missing or incomplete"
    skipped, partial = table.skipped, table.partial
    if not skipped and not partial:
        return ValidityFinding(
            "fine",
            title,
            f"None: the table has all of the source, {count_of(table.n_rows, 'complete row')}.",
        )
    total = table.n_rows + len(skipped)
    text = f"The table has all of the source, {count_of(total, 'row')}"
    if skipped:
        verb = "is" if len(skipped) == 1 else "are"
        text = f"{len(skipped)} of {count_of(total, 'row')} of the source {verb} not in the table"
    if partial:
        remarks = count_of(len(partial), "remark")
        verb = "says" if len(partial) == 1 else "say"
        text += f"; {remarks} {verb} which features could not be computed in full"
    text += ". Scores speak of the rows that are left." if skipped else "."
    command = f"hpo features show {table.path}"
    tables = []
    if skipped:
        reasons = Counter(row.reason for row in skipped)
        lines = [(row.source, str(row.line), row.id, row.reason) for row in skipped]
        columns = ("file", "line", "id", "reason")
        tables.append(_counted("Skipped rows by reason", reasons, command))
        tables.append(_listed("Every skipped row", columns, lines, {1}, command))
    if partial:
        by_reason = Counter(f"{row.family}: {row.reason}" for row in partial)
        notes = [(p.source, str(p.line), p.id, p.family, p.reason) for p in partial]
        headings = ("file", "line", "id", "family", "reason")
        tables.append(_counted("Incomplete features by reason", by_reason, command))
        tables.append(_listed("Every remark", headings, notes, {1}, command))
    return ValidityFinding("note", title, text, tuple(tables))


def _counted(title: str, counts: Counter[str], command: str) -> TextTable:
    rows = [(str(count), reason) for reason, count in counts.most_common()]
    return _listed(title, ("rows", "reason"), rows, {0}, command)


def _listed(
    title: str,
    columns: tuple[str, ...],
    rows: Sequence[tuple[str, ...]],
    numeric: Sequence[int] | set[int] = (),
    command: str = "",
) -> TextTable:
    left = len(rows) - MAX_LISTED
    more = f"{left} more" + (f", shown by: {command}" if command else "") if left > 0 else ""
    return TextTable(title, columns, tuple(rows[:MAX_LISTED]), frozenset(numeric), more)


def _numbers(numbers: Sequence[int], most: int = 12) -> str:
    shown = ", ".join(str(n) for n in numbers[:most])
    return shown if len(numbers) <= most else f"{shown}, … ({len(numbers) - most} more)"
