"""Commands of saddle searches; tuning itself is `hpo run`."""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from hpo.cli import run
from hpo.commands.common import (
    Parser,
    add_command,
    add_commands,
    add_json,
    add_set,
    add_shared,
    not_negative,
    open_storage,
    positive,
    print_json,
    print_line,
    say,
)
from hpo.errors import HpoError, SpecError
from hpo.records import Access
from hpo.report.figures.files import write_figures
from hpo.spec.loading import apply_overrides, load
from hpo.spec.objectives import CustomObjectiveSpec
from hpo.study.record import StudyRecord, find
from hpo.study.snapshot import best_trial
from hpo.system.atomic_files import replace_file
from studies.saddle.gad import Settings
from studies.saddle.objective import Problem, SaddleSearch, mean_steps
from studies.saddle.results import FORMS, collect_results, write_params
from studies.saddle.samples import search_from
from studies.saddle.validation import Comparison, Rate, describe, validate
from studies.saddle.validation_figure import draw_rates

# Noise of these seeds and more is what validation has; tuning counts from 0.
FIRST_SEED = 1000
# As the report and its programs call these settings, too.
ALIASES = {"trust_radius_max": ("--max-atom-disp",), "adaptive_delta_scale": ("--adaptive-delta",)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; see `hpo.cli.main`."""
    return run(_parser(), arguments)


def _parser() -> Parser:
    parser = Parser(prog="python -m studies.saddle", description="Searches for saddle points.")
    commands = add_commands(parser)
    _add_screen(commands)
    _add_search(commands)
    _add_results(commands)
    _add_validate(commands)
    return parser


def _add_screen(commands: Any) -> None:
    parser = add_command(
        commands,
        "screen",
        screen,
        "show the screening of a study: which samples are difficult",
    )
    parser.add_argument("name", metavar="NAME", help="a study")
    add_shared(parser, "storage")
    add_json(parser)


def _add_search(commands: Any) -> None:
    parser = add_command(
        commands, "search", search, "search for saddle points with settings that are given"
    )
    parser.add_argument("study", type=Path, metavar="STUDY", help="a study file: what is searched")
    add_set(parser)
    for field in fields(Settings):
        option = f"--{field.name.replace('_', '-')}"
        aliases = ALIASES.get(field.name, ())
        parser.add_argument(
            option,
            *aliases,
            type=int if isinstance(field.default, int) else float,
            default=os.environ.get(field.name.upper()) or field.default,
            metavar="X",
            help=f"default: {field.name.upper()}, or {field.default:g}",
        )
    parser.add_argument(
        "--geometries", type=Path, metavar="DIR", help="write what converged there, as XYZ files"
    )
    add_json(parser)


def _add_results(commands: Any) -> None:
    parser = add_command(
        commands, "results", results, "write hpo_results.json, and print the best settings"
    )
    parser.add_argument("name", metavar="NAME", help="a study")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("hpo_results.json"),
        metavar="FILE",
        help="what to write",
    )
    parser.add_argument(
        "--as", dest="form", choices=FORMS, default="exports", help="how settings are printed"
    )
    parser.add_argument("--trial", type=not_negative, metavar="K", help="default: the best one")
    add_shared(parser, "storage")


def _add_validate(commands: Any) -> None:
    parser = add_command(
        commands,
        "validate",
        run_validation,
        "compare the best settings with the default ones",
    )
    parser.add_argument("name", metavar="NAME", help="a study")
    parser.add_argument("--trial", type=not_negative, metavar="K", help="default: the best one")
    parser.add_argument(
        "--seeds", type=positive, default=5, metavar="N", help="noisy copies of each molecule"
    )
    parser.add_argument(
        "--first-seed", type=not_negative, default=FIRST_SEED, metavar="N", help="of their noise"
    )
    parser.add_argument("--workers", type=positive, default=1, metavar="N", help="processes")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: NAME_validation.json")
    add_set(parser, "any field of [objective.params], as in noise_angstrom=0.3")
    add_shared(parser, "storage")
    add_json(parser)


def screen(options: argparse.Namespace) -> int:
    """Show what a study was prepared with."""
    record = _record(options)
    objective = _objective(record)
    problem, screened, selection = objective.problem, objective.screened, objective.selection
    role = dict.fromkeys(selection.hard, "hard") | dict.fromkeys(selection.watched, "watched")
    rows = [
        {**vars(row), "difficulty": row.difficulty, "role": role.get(k, "")}
        for k, row in enumerate(screened)
    ]
    if options.json:
        print_json(rows)
        return 0
    for row in sorted(rows, key=lambda row: -int(row["difficulty"])):
        print_line(
            f"{row['difficulty']:5d}  {row['role']:8}{row['name']}  {row['reason']}".rstrip()
        )
    converged = sum(row.converged for row in screened)
    left_out = sum(bool(row.reason) for row in screened)
    if left_out:
        say(f"{left_out} are left out: the calculator has no answer for where they begin")
    say(
        f"{converged} of {len(screened)} samples converge within {problem.spec.screening_steps} "
        f"steps; trials are scored on {len(selection.hard)} and watch {len(selection.watched)}"
    )
    return 0


def search(options: argparse.Namespace) -> int:
    """Search from every sample of a study file."""
    problem = _problem(options)
    settings = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
    spec, rows = problem.spec, []
    for sample in problem.pool():
        found = search_from(
            sample,
            problem.calculator,
            settings,
            n_steps=spec.n_steps,
            max_gradient=spec.max_gradient,
        )
        row = {"sample": sample.name, **_finite(vars(found))}
        positions = row.pop("positions")
        rows.append(row)
        if options.geometries is not None and found.converged:
            _write_xyz(options.geometries, sample.name, sample.molecule.numbers, positions)
        if not options.json:
            end = "converged" if found.converged else found.reason or "not converged"
            print_line(
                f"{sample.name:20} {end}  {found.steps} steps  {found.kicks} kicks  "
                f"{found.negative} negative  {found.energy:.4f} eV  "
                f"largest gradient {found.max_gradient:.3f} eV/Å"
            )
    if options.json:
        print_json(rows)
    converged = sum(row["converged"] for row in rows)
    say(
        f"{converged} of {len(rows)} converged, "
        f"after {mean_steps(rows, spec.n_steps):.1f} steps in the mean"
    )
    return 0


def results(options: argparse.Namespace) -> int:
    """Write hpo_results.json and print settings."""
    record = _record(options)
    collected = collect_results(record)
    _write(options.output, collected)
    trial = best_trial(record, options.trial)
    print_line(write_params(trial.params, options.form))
    say(f"trial {trial.number} of study '{record.name}', score {trial.value:.6g}")
    say(f"results: {options.output}")
    return 0


def run_validation(options: argparse.Namespace) -> int:
    """Compare the best settings with the default ones."""
    record = _record(options)
    trial = best_trial(record, options.trial)
    problem = _change(_objective(record).problem, options.set)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    if set(seeds) & set(problem.seeds):
        raise HpoError(
            f"--first-seed {options.first_seed}: tuning has seen seeds 0 to {problem.seeds[-1]}; "
            f"begin with {problem.seeds[-1] + 1} or later"
        )
    counts = record.ledger.counts()
    if not counts.done:
        say(f"study '{record.name}': {counts.finished} of {counts.budget} trials are finished")
    n_starts = len(seeds) * (len(problem.tuning) + len(problem.held_out))
    say(f"searching from {n_starts} starts, twice")
    comparisons, runs = validate(problem, trial.params, seeds, options.workers)
    described = {
        "study": record.name,
        "trial": trial.number,
        "params": dict(trial.params),
        "changed": options.set,
        "seeds": list(seeds),
        **describe(comparisons, runs),
    }
    output = options.output or Path(f"{record.name}_validation.json")
    _write(output, described)
    if options.json:
        print_json({key: value for key, value in described.items() if key != "runs"})
    else:
        for comparison in comparisons:
            _print_comparison(comparison)
    folder = output.with_name(f"{output.stem}_figures")
    try:
        write_figures([draw_rates(comparisons)], folder)
    except OSError as exc:
        raise HpoError(f"{folder}: cannot be written: {exc.strerror}") from exc
    say(f"every search: {output}; the rates as a figure: {folder}")
    return 0


def _print_comparison(found: Comparison) -> None:
    low, high = found.difference_interval
    fewer, more = found.steps_interval
    print_line(f"{found.name}: {found.n_molecules} molecules, {found.default.n_samples} starts")
    print_line(f"  default     {_rate(found.default)}")
    print_line(f"  best        {_rate(found.best)}")
    print_line(
        f"  difference  {100 * found.difference:+.1f} points "
        f"[{100 * low:+.1f}, {100 * high:+.1f}], {found.gained} gained, {found.lost} lost; "
        f"steps spent {found.steps_difference:+.1f} [{fewer:+.1f}, {more:+.1f}]"
    )


def _rate(rate: Rate) -> str:
    low, high = rate.interval
    steps = "-" if rate.mean_steps is None else f"{rate.mean_steps:.1f}"
    return (
        f"{100 * rate.value:5.1f} % [{100 * low:.1f}, {100 * high:.1f}], "
        f"mean steps {steps} of those, {rate.mean_steps_spent:.1f} of all"
    )


def _problem(options: argparse.Namespace) -> Problem:
    spec = load(options.study, options.set)
    if not isinstance(spec.objective, CustomObjectiveSpec) or not _is_ours(spec.objective.name):
        raise SpecError(f"{options.study}: its objective is no search for saddle points")
    return Problem(spec.objective.params)


def _change(problem: Problem, overrides: Sequence[str]) -> Problem:
    """Return a problem with some of its fields set."""
    if not overrides:
        return problem
    params = problem.spec.model_dump(mode="json", exclude_none=True)
    apply_overrides(params, overrides)
    return Problem(params)


def _record(options: argparse.Namespace) -> StudyRecord:
    record = find(open_storage(options, Access.READ), options.name)
    if not _is_ours(record.spec.objective.name):
        raise HpoError(f"study '{options.name}': its objective is no search for saddle points")
    return record


def _objective(record: StudyRecord) -> SaddleSearch:
    _, objective = record.open_objective()
    assert isinstance(objective, SaddleSearch)
    if not objective.screened:
        name = record.name
        raise HpoError(f"study '{name}': its samples are not screened yet; see: hpo status {name}")
    return objective


def _is_ours(name: str) -> bool:
    return name == f"{SaddleSearch.__module__}:{SaddleSearch.__name__}"


def _write(path: Path, content: Any) -> None:
    try:
        replace_file(path, json.dumps(content, indent=1))
    except OSError as exc:
        raise HpoError(f"{path}: cannot be written: {exc.strerror}") from exc


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with None for what is no number, as JSON has none: nothing was calculated."""
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in values.items()
    }


def _write_xyz(folder: Path, name: str, numbers: Any, positions: Any) -> None:
    # An extra of its own: see pyproject.toml.
    from ase import Atoms
    from ase.io import write

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name.replace('/', '_').replace(' ', '_')}.xyz"
    write(path, Atoms(numbers=numbers, positions=positions), format="xyz")
