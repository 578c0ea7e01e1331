"""`hpo nested`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from features.table import FeatureTable, Target, read
from hpo.analysis.best_model import Predictions
from hpo.analysis.comparison.studies import compare_study
from hpo.analysis.nested_cv import count_outer, name_outer, pool, record_nested
from hpo.commands.common import (
    INTERRUPTED,
    add_json,
    add_shared,
    open_storage,
    print_json,
    print_line,
    say,
)
from hpo.commands.studies.run import run_study
from hpo.commands.studies.study_options import add_study_options, add_worker_options, read_study
from hpo.records import Access
from hpo.report.comparison_tables import title_of
from hpo.report.formatting import label, shown_metrics
from hpo.storage.storage import StudyStorage
from hpo.study.creation import build_table, check_declared
from hpo.study.record import find, names
from hpo.wording import count_of


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_study_options(parser)
    add_worker_options(parser)
    add_shared(parser, "reports")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Run a study per outer fold, and score what their best models predict."""
    spec, source = read_study(options)

    def read_table() -> FeatureTable:
        check_declared(spec, source)
        path = build_table(spec, source, Path(options.tables), say)
        assert path is not None
        return read(path)

    outer = [name_outer(spec.name, fold) for fold in range(count_outer(spec, read_table))]
    for fold, name in enumerate(outer):
        one = {**vars(options), "name": name, "set": [*options.set, f"cv.outer={fold}"]}
        say(f"outer fold {fold} of {len(outer)}")
        single, source = read_study(argparse.Namespace(**one))
        code = run_study(argparse.Namespace(**one), single, source, None, again=False)
        if code:
            return INTERRUPTED if code == INTERRUPTED else code
    storage = open_storage(options, Access.WORK)
    pooled = pool([find(storage, name) for name in outer])
    whole = _scores_of_whole(storage, spec.name, pooled)
    if options.json:
        intervals = {"row": pooled.row_intervals, "group": pooled.group_intervals}
        print_json(
            {"rows": pooled.n_rows, "scores": pooled.scores, "intervals": intervals, "cv": whole}
        )
        return 0
    trials = count_of(options.trials or spec.trials, "trial")
    print_line(f"{spec.name}: {len(outer)} searches of {trials}, {pooled.n_rows} rows predicted")
    targets = find(storage, outer[0]).read_targets()
    if pooled.targets:
        print_line(title_of(targets))
    for line in _lines(pooled, whole, targets):
        print_line(line)
    return 0


def _scores_of_whole(
    storage: StudyStorage, name: str, pooled: Predictions
) -> Mapping[str, float] | None:
    """Return the best trial's own scores, and write the outcome into the study, if it is there."""
    if name not in names(storage):
        return None
    record = find(storage, name)
    record_nested(record, pooled)
    return dict(compare_study(record).cv) or None


def _lines(
    pooled: Predictions, whole: Mapping[str, float] | None, targets: Sequence[Target]
) -> list[str]:
    """Return a line per metric: the search's score, and that of the best trial beside it.

    Of several targets these are means, and lines for each target follow.
    """
    lines = []
    for name in shown_metrics(pooled.scores):
        row, group = pooled.row_intervals[name], pooled.group_intervals[name]
        line = (
            f"  {label(name):14} {pooled.scores[name]:7.3f}   95 % {row[0]:.3f} to {row[1]:.3f} "
            f"by row, {group[0]:.3f} to {group[1]:.3f} by group"
        )
        if whole is not None and name in whole:
            line += f"   (best trial's own folds: {whole[name]:.3f})"
        lines.append(line)
    for position, target in enumerate(pooled.targets):
        end = f"_{target}"
        own = {
            name.removesuffix(end): value
            for name, value in (whole or {}).items()
            if name.endswith(end)
        }
        of_target = pooled.of_target(position)
        lines += [title_of(targets[position : position + 1]), *_lines(of_target, own, ())]
    return lines
