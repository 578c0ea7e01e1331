"""`hpo compare`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpo.analysis.comparison import differences, reported
from hpo.analysis.comparison.differences import (
    Pair,
    ScoredStudy,
    remarks,
)
from hpo.analysis.comparison.fronts import compare_fronts
from hpo.analysis.comparison.leaderboard import as_dict, describe_line, prediction_cells
from hpo.analysis.comparison.parts import (
    PartPair,
    join_parts,
    pair_parts,
    part_cells,
    part_remarks,
)
from hpo.analysis.comparison.reported import Reported
from hpo.analysis.comparison.studies import (
    Outside,
    Row,
    as_dicts,
    compare_plain,
    compare_study,
    external_of,
    find_outside,
)
from hpo.analysis.discovery_metrics import Values, describe, on_scale, screening_cells, value_study
from hpo.commands.common import (
    add_json,
    add_output,
    add_shared,
    add_trust,
    beside_output,
    open_storage,
    print_json,
    print_line,
    say,
)
from hpo.errors import HpoError, SpecError
from hpo.records import Access
from hpo.report import comparison_tables
from hpo.report.comparison_page import PAGE_NAME, write_comparison
from hpo.report.comparison_tables import (
    align,
    describe_fronts,
    difference_tables,
    front_cells,
    variant_cells,
)
from hpo.study.plain import PlainStudy, read_plain
from hpo.study.record import StudyRecord, find, names
from hpo.study.report_folder import report_folder


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--all", action="store_true", help="every study of the storage")
    parser.add_argument(
        "--reported",
        type=Path,
        metavar="FILE",
        help="figures to compare with (default: reported.toml beside the study files)",
    )
    parser.add_argument(
        "--against",
        metavar="NAME",
        help="the study that differences are taken to (default: the first)",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="T",
        help="say how well each study finds values above it, in the target's own unit",
    )
    add_output(parser, "comparison.html in the folder of reports", "the page")
    add_json(parser)
    add_trust(parser)
    add_shared(parser, "storage", "reports")


def run(options: argparse.Namespace) -> int:
    """Compare studies."""
    if not options.names and not options.all and options.reported is not None:
        _print_reported(options.reported, as_json=options.json)
        return 0
    if options.all == bool(options.names):
        raise HpoError(
            "hpo compare: give the names of studies, or --all (or --reported FILE alone, for what "
            "it says of outside scores)"
        )
    storage = open_storage(options, Access.READ)
    chosen = names(storage) if options.all else dict.fromkeys(options.names)
    records = [read_plain(storage, name) or find(storage, name) for name in chosen]
    print_comparison(
        records,
        options.reported,
        reports_dir=Path(options.reports),
        against=options.against,
        threshold=options.threshold,
        output=options.output,
        as_json=options.json,
    )
    return 0


def print_comparison(
    records: Sequence[StudyRecord | PlainStudy],
    reported_file: Path | None = None,
    *,
    reports_dir: Path,
    against: str | None = None,
    threshold: float | None = None,
    output: Path | None = None,
    as_json: bool = False,
) -> None:
    """Print the comparison of studies, as text or as JSON, and write the page about it.

    Parameters
    ----------
    records
        The studies, also of Optuna alone; the first is what the others are compared with, unless
        `against` names one.
    reported_file
        Figures that were reported; by default those beside the study files.
    reports_dir
        The folder of reports, whose predictions are read.
    threshold
        In the target's own unit: how well does each study find what is above it?
    output
        The page.
    """
    ours = [record for record in records if isinstance(record, StudyRecord)]
    if reported_file is not None:
        files = [reported.read_reported_file(reported_file)]
    else:
        files = reported.reported_beside(ours)
    known = reported.join_reported(files)
    studies = [_read(record, reports_dir) for record in records]
    rows = [study.row for study in studies]
    pairs = differences.find_differences(studies, against or rows[0].name) if rows else []
    worth = _value(ours, studies, threshold)
    outside = find_outside(files, rows)
    parts = pair_parts(ours, rows, against or rows[0].name) if rows else []
    with beside_output(output):
        _tell(rows, studies, pairs, known, worth, outside, threshold, parts, as_json=as_json)
    if not rows:
        return
    page = write_comparison(
        studies, pairs, known, output or reports_dir / PAGE_NAME, worth, outside, parts
    )
    with beside_output(output):
        (say if as_json else print_line)(f"comparison: {page}")


def _read(record: StudyRecord | PlainStudy, reports_dir: Path) -> ScoredStudy:
    if isinstance(record, PlainStudy):
        return ScoredStudy(compare_plain(record))
    return differences.read_study(compare_study(record), report_folder(record, reports_dir))


def _tell(
    rows: Sequence[Row],
    studies: Sequence[ScoredStudy],
    pairs: Sequence[Pair],
    known: Mapping[str, Reported],
    worth: Mapping[str, Values],
    outside: Sequence[Outside],
    threshold: float | None,
    parts: Sequence[PartPair],
    *,
    as_json: bool,
) -> None:
    """Print the comparison as text or as JSON."""
    if as_json:
        told = join_parts(differences.join_dicts(as_dicts(rows, known), pairs), parts)
        for row in told:
            row["external"] = external_of(outside, row["name"])
        for row in told:
            values = worth.get(row["name"], {})
            row["ranking_value"] = {of: describe(*both) for of, both in values.items()} or None
        print_json(told)
    else:
        _print_tables(comparison_tables.lines(rows, known), studies, pairs)
        _print_parts(parts)
        _print_more(rows, worth, threshold)
        for found in outside:
            _print_outside(found)


def _print_parts(parts: Sequence[PartPair]) -> None:
    """Print differences that are paired over parts."""
    if cells := part_cells(parts):
        print_line("")
        print_line(f"means over parts less those of {parts[0].against}, paired, 95 % bootstrap")
        for line in align(cells):
            print_line(line)
    for line in part_remarks(parts):
        print_line(line)


def _print_reported(file: Path, *, as_json: bool) -> None:
    """Print what a file of reported figures says of scores from outside, without any study."""
    found = find_outside([reported.read_reported_file(file)], [])
    if not found:
        raise HpoError(
            f"{file}: no experiment has both scores = {{ score = … }} and external = …; without "
            "names of studies there is nothing else to compare"
        )
    if as_json:
        print_json([as_dict(one.line, one.external.target) for one in found])
        return
    for one in found:
        _print_outside(one)


def _print_more(rows: Sequence[Row], worth: Mapping[str, Values], threshold: float | None) -> None:
    """Print Pareto fronts, variants of studies side by side, and what rankings find."""
    for fronts in compare_fronts(rows):
        print_line("")
        print_line(describe_fronts(fronts))
        for line in align(front_cells(fronts)):
            print_line(line)
    if varied := variant_cells(rows):
        print_line("")
        print_line("variants side by side")
        for line in align(varied):
            print_line(line)
    if worth:
        print_line("")
        print_line(f"how well values above {threshold:g} are found, with 95 % intervals")
        for line in align(screening_cells(worth)):
            print_line(line)


def _print_outside(found: Outside) -> None:

    print_line("")
    print_line(f"{found.external.name} against the score, {found.of}")
    for line in describe_line(found.line, found.external.name, found.external.target):
        print_line(line)
    if found.scores:
        cells = prediction_cells(found.line, found.scores, found.external.measured)
        for line in align(cells):
            print_line(line)


def _value(
    records: Sequence[StudyRecord], studies: Sequence[ScoredStudy], threshold: float | None
) -> Mapping[str, Values]:
    """Return what the rankings are worth, of those studies that have a table."""
    if threshold is None:
        return {}

    found: dict[str, Values] = {}
    by_name = {record.name: record for record in records}
    for study in studies:
        targets = by_name[study.name].read_targets() if study.rows else ()
        if any(rows.targets for rows in study.rows.values()):
            raise SpecError(
                f"--threshold {threshold:g}: is of one target, and study '{study.name}' has "
                "several; hpo rank --by NAME --threshold says it of one"
            )
        # Of classes the report says by itself how well they are found.
        if not targets or targets[0].classes:
            continue
        if values := value_study(study.rows, on_scale(threshold, targets[0])):
            found[study.name] = values
    return found


def _print_tables(
    scores: Sequence[str], studies: Sequence[ScoredStudy], pairs: Sequence[Pair]
) -> None:

    for line in scores:
        print_line(line)
    if any(pair.metrics for pair in pairs):
        print_line("")
        print_line(f"differences to {pairs[0].against}, with paired 95 % bootstrap intervals")
        for title, cells in difference_tables(pairs, studies):
            for line in (*([title] if title else []), *align(cells)):
                print_line(line)
    for line in remarks(studies, pairs):
        print_line(line)
