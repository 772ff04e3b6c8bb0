"""The report of a made-up study: what it says follows from the data, and a browser shows it without complaint."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from agents.__main__ import main
from agents.study.figures import Curve, Panel, heights, look, plotly_panel
from agents.study.page import format_interval, format_number, join_names
from agents.study.report import Analysis, report, verdict
from agents.study.results import read_results
from agents.study.statistics import Band, Difference, Interval, interquartile_mean
from agents.study.variants import Variant
from tests.agents.study.studies import AWKWARD, ENVIRONMENTS, ERROR, FEWER, NEVER, VARIANTS, write_study

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
BROWSER_OPTIONS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_study(tmp_path_factory.mktemp("study"))
    report(directory)
    return directory


@pytest.fixture(scope="module")
def analysis(directory: Path) -> Analysis:
    return Analysis(read_results(directory))


class Reader(HTMLParser):
    """Text of the page outside of scripts, its table rows, and every address that it refers to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.rows: list[list[str]] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        inside = [tag for tag in self.tags if tag.lstrip("/") in ("script", "style", "tr")]
        if inside and inside[-1] in ("script", "style"):
            return
        self.text.append(data)
        if inside and inside[-1] == "tr" and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


@pytest.fixture(scope="module")
def page(directory: Path) -> Reader:
    return Reader((directory / "report.html").read_text("utf-8"))


def test_page_needs_no_other_file(page: Reader) -> None:
    assert all(address.startswith("data:") for address in page.addresses)


def test_names_and_errors_are_text(directory: Path, page: Reader) -> None:
    """A name with markup in it is shown as it is written, and makes no element."""
    text = "".join(page.text)
    assert AWKWARD in text and ERROR in text
    raw = (directory / "report.html").read_text("utf-8")
    assert "<script>alert" not in raw and '<b>"0.1"</b>' not in raw


def test_final_returns_are_those_of_the_data(directory: Path, page: Reader) -> None:
    with (directory / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    for environment in ENVIRONMENTS:
        for variant in VARIANTS:
            returns = [
                float(r["final_return"]) for r in rows if (r["environment"], r["variant"]) == (environment, variant)
            ]
            expected = format_number(float(interquartile_mean([np.array(returns)])), 1)
            label = f"{variant} (base)" if variant == "Huber" else variant
            assert any(row[0] == label and len(row) == 7 and row[2].startswith(expected) for row in page.rows), (
                environment,
                variant,
            )


def test_verdicts(analysis: Analysis) -> None:
    """What the study was made of: MSE learns more than Huber, LogCosh and Quantile less, the others as much."""
    rows = {row[0]: row[1] for row in analysis.page()["aggregate"].rows}
    assert rows["Huber (base)"] == "the base"
    assert rows["MSE"] == "supported: higher"
    assert rows[NEVER] == rows[FEWER] == "supported: lower"
    assert rows[AWKWARD] == rows["Asymmetric Huber, continuous"] == "not supported"


def test_summary_follows_the_data(analysis: Analysis) -> None:
    text = " ".join(analysis.page()["summary"])
    assert "The data support that these score higher than Huber: MSE (by" in text
    assert f"lower than Huber: {NEVER} (by" in text
    assert f"do not support a difference to Huber, in either direction, for {AWKWARD}; Asymmetric" in text
    assert "207 of 210 runs finished, 1 failed, 2 are not there yet." in text


def test_another_base(directory: Path, analysis: Analysis, capsys: pytest.CaptureFixture[str]) -> None:
    """The same difference, seen from the other side."""
    other = Analysis(read_results(directory), base="MSE")
    forth, back = analysis.differences["MSE"].interval, other.differences[analysis.base].interval
    assert analysis.base != "MSE" and back.value == pytest.approx(-forth.value)
    assert other.page()["aggregate"].rows[list(VARIANTS).index("MSE")][1] == "the base"
    assert main(["report", str(directory), "--base", "Nobody"]) == 2
    assert "base must be one of" in capsys.readouterr().err


def test_thresholds(analysis: Analysis) -> None:
    for item in analysis.page()["thresholds"]:
        rows = {row[0]: row[1:] for row in item["table"].rows}
        assert rows[NEVER] == ("0 of 10", "never", "never")
    assert rows["MSE"][0] == "10 of 10" and rows["MSE"][1].startswith("50,000 [")


def test_changes(analysis: Analysis) -> None:
    rows = analysis.page()["changes"].rows
    assert ("Huber (base)", "nothing", "", "", "") in rows
    number = rows.index(("MSE", "agent.loss.criterion", "HuberLoss", "MSELoss", "everywhere"))
    assert rows[number + 1] == ("", "agent.loss.criterion.delta", "1.0", "–", "everywhere"), "what comes with the class"
    assert ("", "agent.loss.criterion.delta", "1.0", "0.1", "everywhere") in rows
    assert (AWKWARD, "agent.learning_rate", "0.0003", "0.001", "everywhere") in rows


def test_changes_in_one_environment(analysis: Analysis) -> None:
    """A variant that changes something somewhere is not the base."""
    own = Variant("C51", {}, {"Acrobot-v1": {"agent.learning_rate": 0.1}})
    configurations = deepcopy(analysis.results.study.configurations)
    for configs in configurations.values():
        configs["C51"] = deepcopy(configs["Huber"])
    configurations["Acrobot-v1"]["C51"]["agent"]["init_args"]["learning_rate"] = 0.1
    variants = [own, *analysis.results.study.variants]
    study = replace(analysis.results.study, variants=variants, configurations=configurations)
    changed = Analysis(replace(analysis.results, study=study))
    assert changed.base == "Huber"
    assert changed.page()["changes"].rows[0] == ("C51", "agent.learning_rate", "0.0003", "0.1", "Acrobot-v1")


def test_figures(directory: Path) -> None:
    names = {path.name for path in (directory / "figures").iterdir()}
    figures = ("learning_curves", "performance_profiles", "probability_of_improvement", "scores")
    assert names == {f"{figure}.{ending}" for figure in figures for ending in ("png", "svg")}
    for name in figures:
        pixels = matplotlib.image.imread(directory / "figures" / f"{name}.png")
        assert pixels.shape[1] > 1000 and pixels.std() > 0.02, "something is drawn"


def test_same_data_same_files(directory: Path, tmp_path: Path) -> None:
    """Committed results do not change when they are reported again."""
    report(directory, output=tmp_path / "report.html")
    again = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.*"))
    assert len(again) == 9
    for path in again:
        assert (tmp_path / path).read_bytes() == (directory / path).read_bytes(), path


def test_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page lies where it was asked for, its figures beside it, and the study's directory is left alone."""
    study, target = write_study(tmp_path / "study", variants=["Huber"], seeds=1), tmp_path / "new/page.html"
    before = sorted(study.iterdir())
    assert main(["report", str(study), "--output", str(target)]) == 0
    assert capsys.readouterr().out == f"report: {target}\n"
    assert target.exists() and (target.parent / "figures/scores.svg").exists() and sorted(study.iterdir()) == before
    assert main(["report", str(study), "--output", str(target / "page.html")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_a_variant_looks_the_same_everywhere(analysis: Analysis) -> None:
    for panels in analysis.figures().values():
        for panel in panels:
            for trace in plotly_panel(panel, analysis.variants)["traces"]:
                number = int(trace["legendgroup"])
                color = trace["fillcolor"][:7] if "fillcolor" in trace else trace.get("line", trace["marker"])["color"]
                assert color == look(number).color
    assert len({look(number) for number in range(100)}) == 100


def test_plotly_knows_every_property(analysis: Analysis) -> None:
    """Plotly's own validation; the page's script would ignore what it does not know."""
    from plotly.graph_objects import Figure

    for panels in analysis.figures().values():
        for panel in panels:
            content = plotly_panel(panel, analysis.variants)
            Figure(data=content["traces"], layout=content["layout"])
            json.dumps(content, allow_nan=False)


def test_intervals_that_are_unknown_are_left_out() -> None:
    nan = np.array([np.nan, np.nan])
    panel = Panel(
        "one run", "steps", "return", [Curve("A", np.array([1.0, 2.0]), Band(np.array([3.0, 4.0]), nan, nan))]
    )
    band, line = plotly_panel(panel, ["A"])["traces"]
    assert band["x"] == [] and line["y"] == [3.0, 4.0] and line["customdata"] == [[None, None]] * 2


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_runs(tmp_path: Path, seeds: int) -> None:
    """One run has no interval, and two runs a side support nothing in an environment, however far apart."""
    content = Analysis(read_results(write_study(tmp_path, variants=["Huber", NEVER], seeds=seeds))).page()
    for item in content["by_environment"]:
        base, variant = item["table"].rows
        assert variant[1] == "too few runs"
        assert ("too few runs for an interval" in base[2]) == (seeds == 1)
    text = " ".join(content["summary"])
    # 2 of 4 runs in each of three environments are 216 deals; 1 of 2 are 8.
    assert ("too few runs for any difference to Huber to be supported" in text) == (seeds == 1)
    assert f"has {seeds} runs of a variant: read the intervals as too narrow" in text


def test_runs_that_are_not_asked_for(tmp_path: Path) -> None:
    """Those of other seeds and variants stay in the files, and are in no number of the page."""
    whole = read_results(write_study(tmp_path))
    study = replace(whole.study, seeds=[0, 1], variants=whole.study.variants[:2])
    analysis = Analysis(replace(whole, study=study))
    assert len(analysis.finished) == 2 * 2 * 3 < len(whole.runs)
    assert len(analysis.page()["runs"].rows) == 12 and "12 of 12 runs finished" in " ".join(analysis.page()["summary"])


def test_damaged_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message names the file."""
    directory = write_study(tmp_path, variants=["Huber"], seeds=2)
    for name, old, new, complaint in [
        (
            "curves.csv",
            "CartPole-v1,Huber,1,",
            "CartPole-v1,Huber,7,",
            "does not hold all of CartPole-v1, Huber, seed 1",
        ),
        ("curves.csv", "eval_return", "return", "it lacks 'eval_return'"),
        ("curves.csv", ",50000,", ",50000,nan", "could not convert|must be finite"),
        ("study.yaml", "variants:", "varieties:", "it lacks 'variants'"),
        ("versions.json", "{", "[", "damaged"),
    ]:
        path = directory / name
        whole = path.read_text()
        path.write_text(whole.replace(old, new))
        assert main(["report", str(directory)]) == 2
        error = capsys.readouterr().err
        assert "is damaged" in error and re.search(complaint, error), error
        path.write_text(whole)
    assert main(["report", str(directory)]) == 0


def test_bands_that_go_far_beyond_the_lines_are_cut() -> None:
    x, line = np.array([1.0, 2.0]), np.array([0.0, 10.0])
    wide = Curve("A", x, Band(line, line - 1000, line + 1000))
    near = Curve("A", x, Band(line, line - 1, line + 2))
    assert heights(Panel("", "", "", [wide])) == (-5 - 1, 15 + 1)
    assert heights(Panel("", "", "", [near])) == pytest.approx((-1 - 0.65, 12 + 0.65))
    assert heights(Panel("", "", "", [near], mark=19)) == pytest.approx((-1 - 1, 19 + 1))


def test_a_variant_without_runs_somewhere(tmp_path: Path) -> None:
    """It gets no score over all environments, and the page says why."""
    directory = write_study(tmp_path, variants=["Huber", "MSE"], seeds=1)
    lines = (directory / "results.csv").read_text().splitlines(keepends=True)

    def page_without(removed: str) -> dict[str, Any]:
        kept = [line for line in lines if not line.startswith(removed)]
        (directory / "results.csv").write_text("".join(kept))
        return Analysis(read_results(directory)).page()

    content = page_without("Acrobot-v1,MSE,")
    assert content["aggregate"].rows[1][1] == "no run in some environment"
    assert "Without a finished run in some environment, and so without a score over all: MSE." in content["summary"]
    assert page_without("Acrobot-v1,Huber,")["aggregate"].rows[1][1] == "the base has no run"
    text = "".join(Reader(report(directory).read_text("utf-8")).text)
    assert "the base has no run" in text and "No variant has the runs for this picture." in text


def test_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    directory = write_study(tmp_path / "empty", seeds=0)
    assert main(["report", str(directory)]) == 2
    assert "holds no finished run" in capsys.readouterr().err


def test_text() -> None:
    assert format_interval(Interval(-0.001, -0.02, 0.0)) == "0.00 [−0.02, 0.00]"
    assert format_interval(Interval(12345.6, 9000.0, float("inf"))) == "12,346 [9,000, never]"
    assert join_names(["one"]) == "one" and join_names(["a", "b, c"]) == "a and b, c"
    assert verdict(Difference(Interval(-1.0, -2.0, -0.5), 0.01)) == "supported: lower"
    assert verdict(Difference(Interval(-1.0, -2.0, -0.5), 0.01, decidable=False)) == "too few runs"


# In a browser.


@pytest.fixture(scope="module")
def browser(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if not CHROMIUM or not CHROMEDRIVER:
        pytest.skip(
            "no chromium and chromedriver on PATH, and the project installs none (Debian: chromium, chromium-driver)"
        )
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in [*BROWSER_OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    try:
        driver.get((directory / "report.html").as_uri())
        yield driver
    finally:
        driver.quit()


# How many elements of each variant are drawn in each panel, read from what plotly has put on the page.
DRAWN = """
return [...document.querySelectorAll(".plot")].map(plot => {
  const counts = Array(arguments[0]).fill(0);
  plot._fullData.forEach(trace => {
    if (trace.visible !== true) return;
    const element = [...plot.querySelectorAll(".scatterlayer .trace")].find(e => e.__data__[0].trace.uid === trace.uid);
    if (element && element.getBoundingClientRect().width > 0) counts[trace.legendgroup] += 1;
  });
  return counts;
});
"""


def drawn(browser: Any) -> np.ndarray[Any, Any]:
    """Panels x variants."""
    return np.array(browser.execute_script(DRAWN, len(VARIANTS)))


def test_browser_draws_every_variant_and_hides_it_everywhere(browser: Any) -> None:
    before = drawn(browser)
    # Scores, four of curves, profile, probability: there the base is not compared to itself.
    assert before.shape == (7, 7)
    assert (before[:6] > 0).all() and (before[6, 1:] > 0).all() and before[6, 0] == 0
    buttons = browser.find_elements("css selector", ".legend button[data-variant]")
    assert [button.text for button in buttons] == list(VARIANTS)
    for number, button in enumerate(buttons):
        button.click()
        assert button.get_attribute("aria-pressed") == "false"
        after = drawn(browser)
        assert (after[:, : number + 1] == 0).all(), "hidden in every panel"
        assert (after[:, number + 1 :] == before[:, number + 1 :]).all(), "the others are where they were"
    everything = browser.find_element("css selector", ".legend .all")
    assert everything.text == "Show all"
    buttons[2].click()
    assert (drawn(browser)[:, 2] == before[:, 2]).all() and everything.text == "Hide all"
    everything.click()
    assert (drawn(browser) == 0).all()
    everything.click()
    assert (drawn(browser) == before).all()


def test_browser_has_nothing_to_complain_about(browser: Any, directory: Path) -> None:
    browser.get((directory / "report.html").as_uri())
    drawn(browser)
    assert browser.get_log("browser") == []
    requests = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert not [name for name in requests if not name.startswith("data:")]


def test_browser_shows_names_as_they_are_written(browser: Any) -> None:
    ticks = browser.execute_script("return [...document.querySelectorAll('.plot .ytick text')].map(e => e.textContent)")
    assert any(re.fullmatch(re.escape(AWKWARD[:10]) + ".*…?", tick) for tick in ticks)


@pytest.mark.parametrize("width", [1280, 390])
def test_browser_needs_no_sideways_scrolling(browser: Any, directory: Path, width: int) -> None:
    """Tables scroll in themselves, and plots are as wide as their place."""
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        browser.get((directory / "report.html").as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        widths = browser.execute_script(
            "return [...document.querySelectorAll('.plot .main-svg')].map(e => e.getBoundingClientRect().width)"
        )
        assert widths and max(widths) <= width and min(widths) > 0.8 * min(width, 500)
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_browser_prints_pictures(browser: Any) -> None:
    """On paper the plain pictures stand where the interactive ones were."""
    shown = "return [...document.querySelectorAll(arguments[0])].map(e => e.getBoundingClientRect().height > 0)"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert all(browser.execute_script(shown, ".static"))
        assert not any(browser.execute_script(shown, ".plot, .legend"))
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert not any(browser.execute_script(shown, ".static"))
