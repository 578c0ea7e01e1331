"""Pages as a browser shows and prints them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hpo.commands.results.compare import print_comparison
from hpo.report.study_page import write_report
from hpo.study.record import StudyRecord
from tests.support.pages import FOREST, MODEL_FIGURES, SEARCH_FIGURES, SPACE, flat

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


def open_page(browser: Chrome, path: Path, width: int) -> None:
    """Open a page in a window of some width; a console message of an error fails the test."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(path.as_uri())
    errors = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert errors == []


RENDERED = """
return [...document.querySelectorAll(".plot")].map(plot => {
  const svg = plot.querySelector("svg.main-svg"), box = svg?.getBoundingClientRect();
  const marks = plot.querySelectorAll(".point, .js-line, .contour, .bars path").length;
  return [plot.closest("figure").id, box?.width ?? 0, box?.height ?? 0, marks];
});
"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 420])
def test_a_browser_shows_every_figure(
    run: Callable[..., StudyRecord], tmp_path: Path, browser: Chrome, width: int
) -> None:
    description = "A long word: " + "conductivity" * 12
    path = write_report(run(trials=12, description=description, **FOREST), tmp_path)
    open_page(browser, path, width)
    assert browser.title == "small – study report"
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    rendered = browser.execute_script(RENDERED)
    assert len(rendered) == sum(MODEL_FIGURES.values()) + len(SEARCH_FIGURES) - 1 + len(SPACE)
    for figure, plot_width, plot_height, marks in rendered:
        assert plot_width > 200, figure
        assert plot_height > 150, figure
        assert marks > 0, figure
    sizes = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    content, window = browser.execute_script(sizes)
    assert content <= window


@pytest.mark.slow
def test_a_browser_shows_a_comparison(
    run: Callable[..., StudyRecord], tmp_path: Path, browser: Chrome
) -> None:
    records = [run(name=name, trials=1) for name in ("a_first_study", "a_second_study" * 3)]
    for record in records:
        write_report(record, tmp_path)
    print_comparison(records, reports_dir=tmp_path)
    for width in (1280, 420):
        open_page(browser, tmp_path / "comparison.html", width)
        rendered = browser.execute_script(RENDERED)
        assert len(rendered) == 2 + 2 + 1 + 1 + 2 + 4
        for figure, plot_width, plot_height, marks in rendered:
            assert min(plot_width, plot_height) > 150, figure
            assert marks > 0, figure
        sizes = "const d = document.documentElement; return [d.scrollWidth, d.clientWidth]"
        content, window = browser.execute_script(sizes)
        assert content <= window


@pytest.mark.slow
def test_printed_figures_fit_the_paper(
    run: Callable[..., StudyRecord], tmp_path: Path, browser: Chrome
) -> None:
    open_page(browser, write_report(run(trials=12, **FOREST), tmp_path), 1280)
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    paper = browser.execute_script("return document.querySelector('main').clientWidth")
    widths = {figure: width for figure, width, _, _ in browser.execute_script(RENDERED)}
    assert paper < 700
    assert max(widths.values()) <= paper
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    after = {figure: width for figure, width, _, _ in browser.execute_script(RENDERED)}
    assert after["parallel"] > paper


@pytest.mark.slow
@pytest.mark.parametrize("fields", [flat() | {"trials": 1, "space": {}}, FOREST])
def test_a_browser_shows_a_study_without_trials(
    begin_study: Callable[..., StudyRecord],
    tmp_path: Path,
    browser: Chrome,
    fields: dict[str, Any],
) -> None:
    open_page(browser, write_report(begin_study(**fields), tmp_path), 420)
    assert browser.execute_script("return document.querySelectorAll('.plot').length") == 0
