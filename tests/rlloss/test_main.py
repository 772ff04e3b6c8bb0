"""The command line: the catalogue, the pictures, and one clear line for every mistake."""

from __future__ import annotations

import inspect
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlloss import functional
from rlloss.__main__ import main
from rlloss.catalogue import catalogue
from rlloss.plot import AXES, DRAWINGS, Curve, PlotError, _limits, _line, _parse, plot

PNG = b"\x89PNG"
DRAWABLE = [(name, axis) for name in DRAWINGS for axis in DRAWINGS[name].inputs]


# list


def test_list_prints_every_function(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert max(map(len, lines)) <= 100
    for name in functional.__all__:
        assert sum(line.startswith(f"  {name} ") for line in lines) == 1
    families = [line for line in lines if line and not line.startswith(" ")]
    assert families == sorted(set(families)) and {"classification", "regression", "angular", "policy"} <= set(families)
    huber = next(number for number, line in enumerate(lines) if line.startswith("  huber_loss "))
    assert "a^2 / 2 where |a| <= delta, delta (|a| - delta / 2) elsewhere" in lines[huber]
    assert 'Huber, "Robust Estimation of a Location Parameter"' in lines[huber + 1]
    assert "``" not in printed and ":func:" not in printed


def test_list_ends_quietly_when_nobody_reads_on() -> None:
    command = [sys.executable, "-m", "rlloss", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path.cwd()) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()  # before anything is printed
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_catalogue_reads_every_docstring_to_the_end() -> None:
    """One formula each, and every word of the section Reference belongs to a paper."""
    for entry in catalogue():
        text = inspect.getdoc(getattr(functional, entry.name)) or ""
        assert len(entry.formula) > 2, entry
        _, _, rest = text.partition("\nReference:\n")
        assert " ".join(entry.papers) == " ".join(rest.split("\n\n")[0].replace("``", "").split()), entry.name
    by_name = {entry.name: entry for entry in catalogue()}
    assert (
        by_name["asymmetric_huber_loss"].formula == "With h the Huber loss: alpha h(a) where a < -delta, h(a) elsewhere"
    )
    assert by_name["kl_divergence"].family == "classification"
    assert len(by_name["kl_divergence"].papers) == 2


# plot


def test_every_loss_can_be_drawn() -> None:
    losses = {
        name for name in functional.__all__ if "reduction" in inspect.signature(getattr(functional, name)).parameters
    }
    assert losses == set(DRAWINGS)


@pytest.mark.parametrize(("name", "axis"), DRAWABLE)
def test_every_drawing(name: str, axis: str) -> None:
    """Each loss depends on what its axis says, and the gradient is the slope of what is drawn."""
    line = _line(Curve(name, name, {}), axis)
    loss, gradient, shown = (
        torch.tensor(values, dtype=torch.float64) for values in (line.loss, line.gradient, line.shown)
    )
    good = loss.isfinite() & gradient.isfinite()
    assert good.double().mean() > 0.8, "most of the line is there"
    assert float(loss[good].max() - loss[good].min()) > 0.1
    assert bool((shown.diff() > 0).all())
    x = torch.linspace(AXES[axis].low, AXES[axis].high, len(loss), dtype=torch.float64)
    slope = loss.diff() / x.diff()
    between = (gradient[1:] + gradient[:-1]) / 2
    near = (slope - between).abs() <= 1e-2 * (1.0 + between.abs())
    assert near[good[1:] & good[:-1]].double().mean() > 0.95, "but for jumps and corners"


def test_lines_are_the_losses() -> None:
    huber = _line(_parse("huber_loss:delta=2"), "error")
    assert huber.shown[0] == -3.0 and huber.shown[-1] == 3.0
    assert huber.loss[0] == pytest.approx(2 * (3 - 1)) and huber.gradient[0] == pytest.approx(-2.0)
    entropy = _line(_parse("cross_entropy"), "probability")
    for p, loss, gradient in zip(*entropy, strict=True):
        assert loss == pytest.approx(-math.log(p)) and gradient == pytest.approx(p - 1.0, abs=1e-12)
    clipped = _line(_parse("clipped_surrogate_loss:advantage=-1,clip=0.1"), "ratio")
    assert clipped.loss[0] == pytest.approx(0.9) and clipped.loss[-1] == pytest.approx(3.0)


def test_the_issues_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "losses.png"
    assert main(["plot", "huber_loss", "mse_loss", "log_cosh_loss", "huber_loss:delta=2", "--out", str(out)]) == 0
    assert out.read_bytes().startswith(PNG)
    assert capsys.readouterr().out.strip() == str(out)


def test_formats_and_the_axis_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "losses.svg"
    plot(["cross_entropy", "hinge_loss"], str(out))
    assert "margin" in out.read_text()
    plot(["cross_entropy"], str(out), over="margin")
    assert "margin" in out.read_text()
    plot(["cross_entropy", "poly_loss:epsilon=[1,2]"], str(out))
    text = out.read_text()
    assert "probability of the true class" in text and "epsilon=[1, 2]" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hubr_loss"], "there is no loss named 'hubr_loss'; did you mean huber_loss?"),
        (["nonsense"], "there is no loss named 'nonsense'; 'python -m rlloss list' prints the names"),
        (["gae"], "gae cannot be drawn over one number"),
        (["huber_loss:detla=2"], "huber_loss has no hyper-parameter 'detla' to set; it has delta"),
        (["mse_loss:delta=2"], "mse_loss has no hyper-parameter 'delta' to set; it has none"),
        (["huber_loss:delta=-1"], "huber_loss: delta must be in (0, inf), got -1"),
        (["huber_loss:delta=two"], "huber_loss: delta must be a number or a list of numbers, got two"),
        (["huber_loss:delta=[1,2"], "huber_loss: delta must be a number or a list of numbers, got [1"),
        (["cross_entropy:ignore_index=x"], "cross_entropy: ignore_index must be a number or a list of numbers, got x"),
        (["cross_entropy:ignore_index=1.5"], "cross_entropy: ignore_index must be an integer, got 1.5 (float)"),
        (["huber_loss:delta={[]:1}"], "huber_loss: delta must be a number or a list of numbers, got {[]:1}"),
        (["huber_loss:delta=1,delta=2"], "huber_loss: a hyper-parameter is given twice"),
        (["huber_loss:delta="], "huber_loss: delta needs a value: delta=..."),
        (["huber_loss:delta"], "huber_loss: delta needs a value: delta=..."),
        (["dice_loss:squared=1"], "dice_loss: squared must be True or False, got 1"),
        (["gaussian_nll_loss:var=big"], "gaussian_nll_loss: var must be a number or a list of numbers, got big"),
        (
            ["mse_loss", "cross_entropy"],
            "these losses share no axis (mse_loss: error; cross_entropy: probability, margin)",
        ),
        (["mse_loss", "--over", "margin"], "these losses cannot all be drawn over 'margin' (mse_loss: error)"),
    ],
)
def test_mistakes_end_with_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "losses.png"
    assert main(["plot", *arguments, "--out", str(out)]) == 2
    printed = capsys.readouterr()
    assert printed.err == f"python -m rlloss plot: {message}\n" and not printed.out
    assert not out.exists()


@pytest.mark.parametrize("name", ["losses.nonsense", "no/such/folder/losses.png", "losses", "."])
def test_a_file_that_cannot_be_written(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", "mse_loss", "--out", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("python -m rlloss plot: cannot write ") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_without_matplotlib(tmp_path: Path) -> None:
    """Everything else works, and one line says what to install."""
    hide = (
        "import sys; sys.modules['matplotlib'] = None; from rlloss.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", hide, *arguments], capture_output=True, text=True, cwd=Path.cwd())

    done = run("plot", "mse_loss", "--out", str(tmp_path / "losses.png"))
    assert done.returncode == 1
    assert done.stderr == "python -m rlloss plot: matplotlib is missing: pip install matplotlib\n"


def test_importing_the_library_imports_no_picture() -> None:
    check = "import sys, rlloss; assert not {'rlloss.plot', 'rlloss.catalogue', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, cwd=Path.cwd())


def test_a_curve_that_runs_away_does_not_hide_the_others() -> None:
    calm = [math.sin(number / 50) for number in range(600)]
    low, high = _limits([calm, [1e6] * 5 + calm[5:]])
    assert low == pytest.approx(-1.0, abs=0.5) and 1.0 < high < 5.0
    low, high = _limits([calm])
    assert low < -1.0 < -0.9 and 1.0 < high < 1.2
    assert _limits([[math.nan]]) == (-1.0, 1.0)


def test_plot_errors_are_value_errors() -> None:
    with pytest.raises(PlotError, match="no loss named"):
        plot(["nothing"], "never.png")
    assert issubclass(PlotError, ValueError)
