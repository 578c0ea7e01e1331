"""The card of a saved model: what it is, what it was fitted on, how good it is, where it ends.

After Mitchell et al., Model Cards for Model Reporting, FAT* 2019, 220.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from features.table import ELEMENTS, FeatureTable, atomic_fractions, columns_of
from hpo.storage.events import EventKind
from hpo.study.record import StudyRecord
from hpo.wording import count_of, plain_number

MAX_COLUMNS = 20  # of a family are named; of more, the number alone


def write_card(manifest: Mapping[str, Any], record: StudyRecord, table: FeatureTable) -> str:
    """Return the card of a model as Markdown.

    Parameters
    ----------
    manifest
        Of the saved model.
    record, table
        The study that it is from, and what it was fitted on.
    """
    sections = {
        f"{manifest['study']}, trial {manifest['trial']}": _what(manifest),
        "Data": _data(manifest, table),
        "Scores": _scores(manifest, record),
        "Limits": _limits(manifest, table),
        "Use": _use(manifest),
    }
    texts = [
        f"{'##' if position else '#'} {title}\n\n" + "\n".join(lines)
        for position, (title, lines) in enumerate(sections.items())
    ]
    return "\n\n".join(texts) + "\n"


def _what(manifest: Mapping[str, Any]) -> Iterator[str]:
    estimator = manifest["estimator"]
    for target in (manifest["target"], *manifest.get("more_targets", ())):
        unit = f" in {target['unit']}" if target["unit"] else ""
        yield f"- Predicts: {'log10 of ' if target['log10'] else ''}{target['name']}{unit}"
    for position, label in enumerate(manifest["target"].get("classes", ())):
        yield f"    - {position}: {label}"
    yield f"- Estimator: `{estimator['name']}`, random_state {estimator['seed']}"
    for name, value in {**estimator["fixed"], **estimator["params"]}.items():
        yield f"    - `{name}` = {value}"
    packages = ", ".join(f"{name} {version}" for name, version in manifest["packages"].items())
    yield f"- Made {manifest['created_at']} by Python {manifest['python']}, {packages}"


def _data(manifest: Mapping[str, Any], table: FeatureTable) -> Iterator[str]:
    yield f"- Table `{table.name}` of dataset {table.dataset}, SHA-256 {table.hash}"
    citation = table.manifest.get("citation")
    if citation:
        yield f"- Source: {citation}"
    held_out = table.n_rows - manifest["training_rows"]
    rows, groups = manifest["training_rows"], len(np.unique(table.train.groups))
    yield f"- Fitted on {count_of(rows, 'row')} in {count_of(groups, 'group')}"
    yield f"- Held out: {held_out}; of the source not used: {len(table.skipped)}"
    families = Counter(column["family"] for column in manifest["columns"])
    yield f"- {count_of(len(manifest['columns']), 'feature column')}:"
    for family, number in families.items():
        names = [one["name"] for one in manifest["columns"] if one["family"] == family]
        listed = f": {', '.join(names)}" if number <= MAX_COLUMNS else ""
        yield f"    - {family}, {number}{listed}"


def _scores(manifest: Mapping[str, Any], record: StudyRecord) -> Iterator[str]:
    calibration = manifest["calibration"]
    spec = record.spec.cv
    by = f"{calibration['folds']} folds" + (f" ({calibration['scheme']})" if spec else "")
    yield f"Out of fold, {calibration['rows']} rows in {by}, with 95 % intervals from resampling"
    yield "whole groups. The trial was chosen by these folds, which flatters it."
    if "more_targets" in manifest:
        yield "Scores without the name of a target are means over all; rmse and mae are then"
        yield "of targets divided by their standard deviations."
    yield ""
    yield from _score_table(manifest["scores"], manifest["intervals"])
    if left_out := calibration.get("known_as_intervals"):
        yield ""
        yield f"Of {count_of(left_out, 'more row')} the target is known as an interval: scores take"
        yield "them; intervals of predictions are calibrated on the measured rows alone."
    looks = record.ledger.events(EventKind.TEST_EVALUATION)
    own = [look for look in looks if look["trial"] == manifest["trial"]]
    yield ""
    if not own:
        yield "The held-out rows have not been looked at with this model."
        return
    times = count_of(len(looks), "time")
    yield f"Held-out rows, {own[-1]['n_test']}; the study has looked at them {times}:"
    yield ""
    yield from _score_table(own[-1]["scores"], own[-1]["intervals"]["group"])


def _score_table(
    scores: Mapping[str, float], intervals: Mapping[str, Sequence[float]]
) -> Iterator[str]:
    yield "| metric | value | 95 % interval |"
    yield "|---|---|---|"
    for name, value in scores.items():
        low, high = (plain_number(end, ".3g") for end in intervals[name])
        yield f"| {name} | {plain_number(value, '.3g')} | {low} to {high} |"


def _limits(manifest: Mapping[str, Any], table: FeatureTable) -> Iterator[str]:
    y = table.train.y
    for position, label in enumerate(table.target.classes):
        yield f"- Class {label}: {count_of(int((y == position).sum()), 'training row')}"
    for target, values in zip(table.targets, columns_of(y), strict=True):
        if not target.classes:
            low, high = f"{values.min():.4g}", f"{values.max():.4g}"
            of = f" of {target.name}" if table.more_targets else ""
            yield f"- Training targets{of} reach from {low} to {high}; trees predict no more"
    known = [text for text in table.formulas[table.is_train].tolist() if text]
    if known:
        seen = np.nansum(atomic_fractions(known), axis=0) > 0
        absent = [symbol for symbol, there in zip(ELEMENTS, seen, strict=True) if there]
        yield f"- {len(absent)} elements occur in its training rows; it knows no other:"
        yield f"  {', '.join(absent)}"
    shared = manifest["calibration"]["shared_groups"]
    if shared:
        yield f"- {100 * shared:.0f} % of validated rows had a row of their group in training:"
        yield "  scores for new groups are likely to be worse"
    if manifest["changed_since_study"]:
        changed = ", ".join(manifest["changed_since_study"])
        yield f"- Fitted although these had changed since the study: {changed}"


def _use(manifest: Mapping[str, Any]) -> Iterator[str]:
    yield "Rank materials of a CSV file, with the features computed and intervals beside them:"
    yield ""
    yield f"    hpo rank {manifest['study']} candidates.csv --trial {manifest['trial']}"
    yield ""
    shape = f"(n_rows, {len(manifest['columns'])})"
    yield f"The estimator alone takes an array of shape {shape}, with the columns in"
    yield "the order of `manifest.json`. Loading `model.joblib` runs code that is in it:"
    yield "load it only from people you trust."
