"""The report as a reader meets it: what is on the page, and how it behaves in a browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.__main__ import main
from agents.study.report import report
from tests.agents.study.studies import AWKWARD, ENVIRONMENTS, ERROR, FEWER, NEVER, VARIANTS, write_study

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
# Without these Chromium asks for hosts that a test has no business with.
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(write_study(tmp_path_factory.mktemp("study")))


def without_scripts(page: Path) -> str:
    """The page's own text: plotly's has addresses and words of all kinds."""
    return re.sub(r"<script>.*?</script>", "", page.read_text(), flags=re.DOTALL)


def test_the_page_is_self_contained_and_complete(page: Path) -> None:
    own = without_scripts(page)
    assert not re.findall(r"(?:src|href)=[\"'](?!data:|#)", own)
    for variant in VARIANTS:
        assert variant.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&#34;") in own
    assert AWKWARD not in own and ERROR not in own, "not escaped"
    assert "207 of 210 runs finished, 1 failed" in own
    for environment in ENVIRONMENTS:
        assert f"<h3>{environment}" in own
    assert "not supported" in own and "supported: higher" in own and "2.13.0" in own


def test_figures_are_files(page: Path) -> None:
    for name in ("learning_curves", "scores", "performance_profiles", "probability_of_improvement"):
        assert (page.parent / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (page.parent / "figures" / f"{name}.svg").read_text()


def test_few_runs_are_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_study(tmp_path, variants=[NEVER, FEWER], seeds=1)
    assert main(["report", str(tmp_path), "--output", str(tmp_path / "elsewhere" / "page.html")]) == 0
    assert capsys.readouterr().out == f"report: {tmp_path / 'elsewhere' / 'page.html'}\n"
    assert "supported: " not in without_scripts(tmp_path / "elsewhere" / "page.html")


def test_not_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path} is not a study's directory: it has no study.yaml\n"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs chromium and chromedriver, which the project does not install")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def visible(browser: Any) -> list[set[str]]:
    """The variants that each panel shows."""
    shown = browser.execute_script(
        "return [...document.querySelectorAll('.plot')].map(plot => plot.data"
        ".filter(trace => trace.visible !== false && trace.legendgroup).map(trace => trace.legendgroup));"
    )
    return [set(names) for names in shown]


@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(page: Path, browser: Any, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())
    panels, everything = visible(browser), {str(number) for number in range(len(VARIANTS))}
    # The base is no variant that improves on itself.
    assert len(panels) == len(ENVIRONMENTS) + 4 and all(names >= everything - {"0"} for names in panels)
    assert sum(names == everything for names in panels) >= len(panels) - 1
    button = browser.find_element("css selector", ".legend button[data-variant='1']")
    assert "MSE" in button.text
    button.click()
    assert visible(browser) == [names - {"1"} for names in panels]
    button.click()
    assert visible(browser) == panels
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
