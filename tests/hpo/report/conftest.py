"""Studies to report, and a browser."""

from __future__ import annotations

import functools
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import hpo.analysis.best_model
from hpo.analysis.bootstrap import bootstrap_intervals
from hpo.study.record import StudyRecord, find
from tests.support.pages import work
from tests.support.requirements import unavailable

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every interval a tenth of its resamples: the code is the same, and the time is not."""
    few = functools.partial(bootstrap_intervals, n_resamples=200)
    monkeypatch.setattr(hpo.analysis.best_model, "bootstrap_intervals", few)


@pytest.fixture
def run(begin_study: Callable[..., StudyRecord]) -> Iterator[Callable[..., StudyRecord]]:
    """Run a study in this process, and give the process its signals back."""
    numbers = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
    handlers = {number: signal.getsignal(number) for number in numbers}

    def run_with(meddle: Callable[[int], None] | None = None, **changes: Any) -> StudyRecord:
        record = begin_study(**changes)
        work(record, meddle)
        return find(record.storage, record.name)

    yield run_with
    for signal_number, handler in handlers.items():
        signal.signal(signal_number, handler)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chrome]:
    """A headless Chromium with a profile of its own."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        unavailable("browser", "install chromium and chromedriver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()
