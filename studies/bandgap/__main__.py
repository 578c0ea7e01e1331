"""`python -m studies.bandgap COMMAND`: what `hpo` does not do for these studies."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from features.datasets.materials_project import FILE_NAME, KEY_VARIABLE, fetch, given_key
from features.datasets.sources import user_cache
from features.table import ELEMENTS, FeatureTable, atomic_fractions
from hpo.analysis import saved_model
from hpo.analysis.saved_model import Model
from hpo.cli import run
from hpo.commands.common import (
    Parser,
    add_command,
    add_commands,
    add_shared,
    open_storage,
    positive,
    print_line,
    say,
)
from hpo.errors import HpoError, ModelError, SpecError
from hpo.objectives.cross_validation import CrossValidation
from hpo.records import Access
from hpo.report.figures.base import Figure
from hpo.report.figures.files import write_figures
from hpo.study.record import StudyRecord, find
from hpo.system.atomic_files import replace_file
from studies.bandgap import silicon_germanium as sige
from studies.bandgap.figures import COLOURS, Curve, Points, alloy_figure, uncertainty_figures
from studies.bandgap.forests import predict_with_deviation
from studies.bandgap.uncertainty import describe, judge, lines_of

N_COMPOSITIONS = 101


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code, as `hpo` does."""
    parser = Parser(prog="python -m studies.bandgap", description="Band gaps.")
    commands = add_commands(parser)
    added = add_command(
        commands, "query", query, "ask Materials Project for computed gaps, and store the answer"
    )
    added.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="a name ending in materials_project.json.gz (default: in the user's cache)",
    )
    for name, function, summary in (
        ("uncertainty", uncertainty, "how well finished studies' forests know their own errors"),
        ("alloys", alloys, "gaps of silicon-germanium by finished studies of composition"),
    ):
        added = add_command(commands, name, function, summary)
        added.add_argument("names", metavar="NAME", nargs="+")
        _add_common(added)
    added = add_command(
        commands, "variants", variants, "gaps of ordered silicon-germanium by a study of structure"
    )
    added.add_argument("name", metavar="NAME")
    added.add_argument(
        "--atoms", type=positive, default=8, metavar="N", help="at most, in a cell (default: 8)"
    )
    _add_common(added)
    return run(parser, arguments)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", type=Path, default=Path("bandgap"), metavar="DIR", help="default: bandgap"
    )
    parser.add_argument(
        "--models", type=Path, default=Path("models"), metavar="DIR", help="folder of saved models"
    )
    add_shared(parser, "storage")


# Commands -------------------------------------------------------------------------------------


def query(options: argparse.Namespace) -> int:
    """Ask Materials Project, and store the answer."""
    path = options.output or user_cache() / FILE_NAME
    if path.name != FILE_NAME:
        raise SpecError(f"--output {path}: must be called {FILE_NAME}, as it is looked for")
    key = given_key()
    if not key:
        raise SpecError(
            f"{KEY_VARIABLE} has no key; set it (https://materialsproject.org/api) on a machine "
            "with internet"
        )
    n_entries, n_kept = fetch(key, path)
    print_line(f"{path}: {n_entries} entries, {n_kept} of them kept")
    return 0


def uncertainty(options: argparse.Namespace) -> int:
    """Print and draw how well forests know their errors."""
    described, figures = {}, []
    for name in options.names:
        record, table, objective, model = _open(options, name)
        judged = judge(record, table, objective, model)
        described[name] = describe(judged)
        figures += uncertainty_figures(judged)
        for line in lines_of(name, described[name]):
            print_line(line)
    _write(options.output / "uncertainty", described, figures)
    return 0


def alloys(options: argparse.Namespace) -> int:
    """Print and draw the gap of Si(1-x)Ge(x) as studies of composition predict it."""
    folder = options.output / "alloys"
    x = np.linspace(0.0, 1.0, N_COMPOSITIONS)
    curves: list[Curve] = []
    found: dict[str, Any] = {}
    for name in options.names:
        record, table, objective, model = _open(options, name)
        without = np.flatnonzero(~np.isin(table.train.groups, sige.SYSTEMS))
        counts = {"train": len(table.train.y) - len(without)}
        counts["test"] = int(np.isin(table.test.groups, sige.SYSTEMS).sum())
        found[name] = {"si_ge_rows": counts}
        assert record.spec.table is not None
        X = sige.describe_compositions(x.tolist(), folder, record.spec.table, table).X
        for title, forest, told in (
            (f"{name}, {counts['train']} Si-Ge rows in training", model.estimator, True),
            (f"{name}, no Si-Ge row in training", objective.fit(_best(record), without), False),
        ):
            points = _measured_rows(table, told=told)
            curve = Curve(title, x, *predict_with_deviation(forest, X), points)
            curves.append(curve)
            found[name][title] = sige.sum_up(x, curve.gap)
            _tell(title, found[name][title], float(np.mean(curve.deviation)))
    figure = alloy_figure("alloys", "Silicon-germanium by composition", curves)
    _write(folder, found, [figure])
    return 0


def variants(options: argparse.Namespace) -> int:
    """Print and draw the gap of ordered variants of Si(1-x)Ge(x) as a study predicts it."""
    record, table, objective, model = _open(options, options.name)
    without = np.flatnonzero(~np.isin(table.train.groups, sige.SYSTEMS))
    folder = options.output / "variants"
    structures, how = sige.enumerate_variants(options.atoms)
    x = np.array([sige.germanium_fraction(structure) for structure in structures])
    say(f"{len(structures)} ordered variants of up to {options.atoms} atoms, found by {how}")
    found: dict[str, Any] = {"variants": len(structures), "found_by": how}
    curves = []
    for title, scaled, forest in (
        ("lattice of silicon", False, model.estimator),
        ("lattice by Vegard's rule", True, model.estimator),
        ("the same, no Si and Ge in training", True, objective.fit(_best(record), without)),
    ):
        placed = [sige.on_lattice(structure, scaled=scaled) for structure in structures]
        assert record.spec.table is not None
        candidates = sige.describe_variants(
            placed, folder / ("scaled" if scaled else "unscaled"), record.spec.table, table
        )
        gap, deviation = predict_with_deviation(forest, candidates.X)
        levels = np.unique(np.round(x, 9))
        means = [
            np.array([values[np.isclose(x, level)].mean() for level in levels])
            for values in (gap, deviation)
        ]
        points = (Points("ordered variants", x, gap, COLOURS["variants"]),)
        curves.append(Curve(title, levels, means[0], means[1], points))
        found[title] = sige.sum_up(levels, means[0])
        spread = [float(np.ptp(gap[np.isclose(x, level)])) for level in levels]
        found[title]["widest_spread_at_one_composition"] = max(spread)
        _tell(title, found[title], float(np.mean(deviation)))
        print_line(f"  variants of one composition differ by up to {max(spread):.2f} eV")
    _write(folder, found, [alloy_figure("variants", "Ordered silicon-germanium", curves)])
    return 0


# What they share ------------------------------------------------------------------------------


def _open(
    options: argparse.Namespace, name: str
) -> tuple[StudyRecord, FeatureTable, CrossValidation, Model]:
    """Open a finished study with its best forest, fitted on all training rows and kept."""
    record = find(open_storage(options, Access.READ), name)
    table, objective = record.open_objective()
    if table is None or not isinstance(objective, CrossValidation):
        raise ModelError(f"study '{name}' has no table; name a study of band gaps")
    return record, table, objective, saved_model.obtain(record, table, options.models, log=say)


def _best(record: StudyRecord) -> dict[str, Any]:
    from hpo.study.snapshot import best_trial

    return dict(best_trial(record).params)


def _measured_rows(table: FeatureTable, *, told: bool) -> tuple[Points, ...]:
    """Return the measured alloys of the two: what was trained on, if it was told, and the rest."""
    trained = table.is_train & told
    points = []
    for name, chosen in (("trained on", trained), ("held out", ~trained)):
        rows = np.flatnonzero(np.isin(table.groups, sige.SYSTEMS) & chosen)
        if len(rows):
            x = atomic_fractions(table.formulas[rows].tolist())[:, ELEMENTS.index("Ge")]
            points.append(Points(f"measured, {name}", x, table.y[rows], COLOURS[name]))
    return tuple(points)


def _tell(title: str, found: dict[str, Any], deviation: float) -> None:
    x = np.linspace(0.0, 1.0, N_COMPOSITIONS)
    measured = sige.sum_up(x, sige.measured_gap(x))
    between = "lies between" if found["si49ge51_between"] else "does not lie between"
    print_line(title)
    print_line(
        f"  Si {found['si']:.2f} eV, Si49Ge51 {found['si49ge51']:.2f} ({between}), "
        f"Si15Ge85 {found['si15ge85']:.2f}, Ge {found['ge']:.2f}; mean deviation {deviation:.2f}"
    )
    print_line(
        f"  slope {found['slope_below']:+.2f} eV below and {found['slope_above']:+.2f} eV above "
        f"x = 0.85 (measured {measured['slope_below']:+.2f} and {measured['slope_above']:+.2f}); "
        f"RMS difference to the measured relation {found['rmse_to_measured']:.2f} eV"
    )


def _write(folder: Path, found: dict[str, Any], figures: list[Figure]) -> None:
    try:
        drawn = write_figures(figures, folder / "figures", together=True)
        replace_file(folder / "figures.json", json.dumps(found, indent=1))
    except OSError as exc:
        raise HpoError(f"{folder}: cannot be written ({exc}); name another --output") from exc
    say(", ".join(str(path) for path in drawn if path.suffix == ".png"))


if __name__ == "__main__":
    sys.exit(main())
