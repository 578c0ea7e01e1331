"""Tables that compare studies: errors of different targets never stand in one column."""

from __future__ import annotations

from features.table import Target
from hpo.analysis.comparison.studies import METRIC_NAMES, Row
from hpo.report.comparison_tables import tables_of

GAP, SIGMA = Target("gap", "eV"), Target("sigma (S/cm)", "S/cm", log10=True)


def row(name: str, *targets: Target, more: tuple[str, ...] = ()) -> Row:
    names = (*METRIC_NAMES, *more)
    if len(targets) > 1:
        names += tuple(f"{metric}_{t.name}" for metric in METRIC_NAMES for t in targets)
    cv = {metric: k / 8 for k, metric in enumerate(names)}
    return Row(name, "finished", cv=cv, targets=targets)


def test_errors_in_different_units_are_in_different_tables_that_name_them() -> None:
    begun = Row("begun", "running", targets=(GAP,))
    rows = [begun, row("a", SIGMA), row("b", GAP), row("both", GAP, SIGMA), row("c", SIGMA)]
    found = {title: [line[0] for line in cells[1:]] for title, cells in tables_of(rows, {})}
    of_sigma = "log₁₀ sigma (S/cm)"
    assert found == {
        f"{of_sigma}: RMSE and MAE in decades": ["begun", "a", "both", "c"],
        "gap (eV): RMSE and MAE in eV": ["b", "both"],
        f"means over gap (eV), {of_sigma}: RMSE and MAE in standard deviations": ["both"],
    }


def test_distances_to_intervals_are_no_errors_of_values() -> None:
    rows = [row("values", SIGMA), row("intervals", SIGMA, more=("concordance",)), row("c", SIGMA)]
    values, intervals = tables_of(rows, {})
    assert [line[0] for line in values.cells] == ["study", "values", "c"]
    assert [line[0] for line in intervals.cells] == ["study", "intervals"]
    assert intervals.title.endswith("in decades from what is known as intervals")
    assert ("CV C index" in intervals.cells[0], "CV C index" in values.cells[0]) == (True, False)


def test_a_table_of_one_kind_needs_no_title() -> None:
    assert [table.title for table in tables_of([row("a", GAP), row("b", GAP)], {})] == [""]
    assert [len(table.cells) for table in tables_of([], {})] == [1]
