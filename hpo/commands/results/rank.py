"""`hpo rank`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from features.table import Candidates, FeatureTable, changed_families, read_candidate_pieces
from hpo.analysis.candidates import ranking
from hpo.analysis.candidates.applicability_domain import domain_of
from hpo.analysis.candidates.ranked_lines import RankedLines, collect
from hpo.analysis.candidates.ranking import Ranking, calibrations, describe_calibration, find_target
from hpo.analysis.classification.ranked_classes import find_class
from hpo.analysis.discovery_metrics import describe, on_scale, ranking_value
from hpo.analysis.saved_model import Model
from hpo.commands.common import (
    add_json,
    add_output,
    add_shared,
    add_trust,
    beside_output,
    open_storage,
    positive,
    print_json,
    print_line,
    say,
)
from hpo.commands.results.model import add_model_options, obtain_model, read_table
from hpo.errors import ModelError, SpecError
from hpo.records import Access
from hpo.report import ranking_csv
from hpo.report.formatting import name_target
from hpo.study.record import find
from hpo.study.snapshot import best_trial
from hpo.wording import count_of

N_REASONS = 5


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("name", metavar="NAME")
    parser.add_argument(
        "candidates",
        type=Path,
        metavar="CANDIDATES",
        help="a CSV file with the columns of the study's table",
    )
    add_output(parser, "NAME_ranked.csv")
    parser.add_argument(
        "--formula", metavar="COLUMN", help="of formulas (default: found by its name)"
    )
    parser.add_argument(
        "--coverage", type=_share, default=0.9, metavar="P", help="of intervals (default: 0.9)"
    )
    parser.add_argument("--ascending", action="store_true", help="rank the lowest first")
    parser.add_argument(
        "--top", type=positive, default=10, metavar="N", help="how many are printed (default: 10)"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="T",
        help="say how well the study finds values above it, in the target's own unit",
    )
    parser.add_argument(
        "--class",
        dest="wanted",
        metavar="LABEL",
        help="of a target with classes, rank by the probability of this one (default: the last)",
    )
    parser.add_argument(
        "--by", metavar="NAME", help="of several targets, rank by this one (default: the first)"
    )
    add_model_options(parser)
    add_json(parser)
    add_trust(parser)
    add_shared(parser, "storage")


def run(options: argparse.Namespace) -> int:
    """Rank the candidates in a file."""
    output = options.output or Path(f"{options.name}_ranked.csv")
    if output.resolve() == options.candidates.resolve():
        raise SpecError(f"--output {output}: is the file of candidates; name another one")
    record = find(open_storage(options, Access.READ), options.name)
    table = read_table(record)
    assert record.spec.table is not None
    _check_options(options, table)
    if getattr(record.spec.table, "named_featurizers", ()):
        record.admit_code(["packages", "code"] if options.refit else [])
    changed = changed_families(table, record.spec.table)
    if changed:
        raise ModelError(
            f"families {', '.join(changed)} give other values here than those of table "
            f"{table.name}, which the study ran on: a family or a package has changed. Install "
            "what the table was built with, or run a study on a new one (--name NEW)"
        )
    model = obtain_model(options, record, table)
    domain = domain_of(table.formulas[table.is_train].tolist())

    def ranked(piece: Candidates) -> tuple[Candidates, Ranking]:
        return piece, ranking.rank(
            piece,
            model,
            table,
            coverage=options.coverage,
            ascending=options.ascending,
            wanted=options.wanted,
            by=options.by,
            domain=domain,
        )

    pieces = read_candidate_pieces(
        options.candidates, record.spec.table, formula=options.formula, log=say, table=table
    )
    found = collect(map(ranked, pieces), ascending=options.ascending)
    best = best_trial(record).number
    summary = _summarise(options, found, model, table, best)
    written = ranking_csv.write_ranking(output, found, table.target, summary)
    top = ranking_csv.top_rows(found, table.target, options.top)
    with beside_output(output):
        if options.json:
            print_json({**summary, "output": str(output), "top": top})
            return 0
        for line in (*_table(top), *_tell(summary), ", ".join(map(str, written))):
            print_line(line)
    return 0


def _check_options(options: argparse.Namespace, table: FeatureTable) -> None:
    """Refuse what is for another kind of target."""
    if table.target.classes and options.threshold is not None:
        raise SpecError("--threshold: is for numbers, and the target has classes; use --class")
    if options.by is not None:
        if not table.more_targets:
            raise SpecError("--by: is for studies of several targets, and this one has one")
        find_target(options.by, table.targets)
    if options.wanted is not None:
        if not table.target.classes:
            raise SpecError("--class: is for targets with classes, and the target is a number")
        find_class(options.wanted, table.target.classes)


def _share(text: str) -> float:
    """Read a share between 0 and 1."""
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0.0 < share < 1.0:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, as in 0.9, got '{text}'")
    return share


def _summarise(
    options: argparse.Namespace,
    found: RankedLines,
    model: Model,
    table: FeatureTable,
    best: int,
) -> dict[str, Any]:
    """Return all there is to say of a ranking beside its rows."""
    manifest, ranked = model.manifest, found.ranking
    has_rank = ranked.rank > 0
    at = find_target(options.by, table.targets)
    calibrated = [
        describe_calibration(
            replace(model, calibration=known),
            half_width,
            options.coverage,
            name_target(target)[1],
        )
        for target, known, half_width in zip(
            table.targets,
            calibrations(model, len(table.targets)),
            ranked.targets.half_widths if ranked.targets else [ranked.half_width],
            strict=True,
        )
    ]
    more = {target.name: told for target, told in zip(table.targets, calibrated, strict=True)}
    return {
        "study": options.name,
        "model": {
            "folder": str(model.folder),
            "trial": manifest["trial"],
            "best_trial": best,
            "created_at": manifest["created_at"],
            "training_rows": manifest["training_rows"],
            "estimator": manifest["estimator"],
            "changed_since_study": manifest["changed_since_study"],
        },
        "target": (manifest["target"], *manifest.get("more_targets", ()))[at],
        "class": None if ranked.classes is None else ranked.classes.labels[ranked.classes.wanted],
        "order": "ascending" if options.ascending else "descending",
        "candidates": len(has_rank),
        "ranked": int(has_rank.sum()),
        "not_ranked": int((~has_rank).sum()),
        "reasons": dict(found.left_out.most_common()),
        "duplicates": int((ranked.duplicate_of > 0).sum()),
        "ood": int(ranked.foreign.sum()),
        "not_neutral": int((found.neutral == 0).sum()),
        "ood_limit": ranked.limit,
        "calibration": calibrated[at],
        "calibration_of_targets": more if table.more_targets else None,
        "ranking_value": _value(options.threshold, model, table, at),
    }


def _value(
    threshold: float | None, model: Model, table: FeatureTable, of: int
) -> dict[str, Any] | None:
    """Return how well the out-of-fold predictions find what is above the threshold."""
    if threshold is None:
        return None

    at = on_scale(threshold, table.targets[of])
    known = calibrations(model, len(table.targets))[of]
    by_row = ranking_value(known.y, known.predicted, at, known.held_out.ids)
    by_group = ranking_value(known.y, known.predicted, at, known.groups)
    return {"threshold": threshold, **describe(by_row, by_group)}


def _table(top: list[dict[str, Any]]) -> Iterator[str]:
    common = ("rank", "formula", "ood", "charge_neutral", "reason", "line")
    values = [name for name in (top[0] if top else ()) if name not in common]
    rows = [("rank", "formula", *values, "ood", "neutral")]
    rows += [
        (
            str(row["rank"]),
            row["formula"] or f"line {row['line']}",
            *(row[name] if isinstance(row[name], str) else f"{row[name]:.4g}" for name in values),
            "yes" if row["ood"] else "no",
            row["charge_neutral"],
        )
        for row in top
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        cells[1] = row[1].ljust(widths[1])
        yield "  ".join(cells)


def _tell(summary: dict[str, Any]) -> Iterator[str]:
    target, model = summary["target"], summary["model"]
    named = target["unit"] in target["name"]  # as in "sigma (S/cm)"
    what = target["name"] + ("" if named else f" in {target['unit']}")
    if summary["class"] is not None:
        what = f"the probability of {target['name']} '{summary['class']}'"
    yield (
        f"{summary['ranked']} of {count_of(summary['candidates'], 'candidate')} ranked by {what}"
        f" ({'lowest' if summary['order'] == 'ascending' else 'highest'} first), "
        f"{summary['not_ranked']} not, {count_of(summary['duplicates'], 'duplicate')}, "
        f"{summary['ood']} out of the training domain (ood)"
    )
    if summary["not_neutral"]:
        charged = count_of(summary["not_neutral"], "candidate")
        yield f"  {charged} cannot be charge-neutral by SMACT's oxidation states (neutral: no)"
    reasons = list(summary["reasons"].items())
    for reason, count in reasons[:N_REASONS]:
        yield f"  {count} not ranked: {reason}"
    if len(reasons) > N_REASONS:
        yield f"  and {count_of(len(reasons) - N_REASONS, 'more reason')}, in the file"
    for name, told in (summary["calibration_of_targets"] or {"": summary["calibration"]}).items():
        yield f"{name}: {told['text']}" if name else told["text"]
    for caveat in summary["calibration"]["caveats"]:
        yield f"  {caveat}"
    if summary["ranking_value"]:
        yield from _tell_value(summary["ranking_value"])
    if model["trial"] != model["best_trial"]:
        yield f"  the model is of trial {model['trial']}; the best one now is {model['best_trial']}"
    if model["changed_since_study"]:
        changed = " and ".join(model["changed_since_study"])
        yield f"  fitted with other {changed} than the study was scored with"


def _tell_value(value: dict[str, Any]) -> Iterator[str]:
    def ends(which: str) -> str:
        (low, high), (low_group, high_group) = (value[by][which] for by in ("by_row", "by_group"))
        return f"{low:.2f} to {high:.2f} by row, {low_group:.2f} to {high_group:.2f} by group"

    yield (
        f"out-of-fold, {value['above']} of {count_of(value['rows'], 'value')} above "
        f"{value['threshold']:g}: "
        f"AUC {value['auc']:.3f} ({ends('auc')})"
    )
    yield (
        f"  precision at the top 10 %: {value['precision_at_top_10_percent']:.2f} "
        f"({ends('precision')}), chance {value['chance']:.2f}"
    )
