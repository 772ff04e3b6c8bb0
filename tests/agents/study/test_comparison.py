"""Runs side by side: grouped by configuration, with intervals that are Student's, as text and as pictures."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import scipy.stats
import yaml

from agents import A2C, train
from agents.__main__ import main
from agents.study.comparison import compare, make_groups, make_panels, mean_interval, read_run

CONFIG: dict[str, Any] = {
    "agent": {
        "class_path": "agents.dqn.DQN",
        "init_args": {
            "learning_rate": 0.001,
            "loss": {
                "class_path": "rlloss.rl.value.TDLoss",
                "init_args": {"criterion": {"class_path": "rlloss.HuberLoss", "init_args": {"delta": 1.0}}},
            },
        },
    },
    "env": "CartPole-v1",
    "env_kwargs": {},
    "num_envs": 1,
    "vectorization": "auto",
    "steps": 3000,
    "seed": 0,
    "eval_episodes": 4,
}
METRICS = """step,episodes,return_mean,eval_return_mean,eval_return_std,seconds,steps_per_second
1000,50,20.5,{0},5.0,2.0,500.0
2000,90,22.0,,,4.0,500.0
3000,120,23.5,{1},10.0,6.0,500.0
"""


def write_run(directory: Path, *, seed: int = 0, returns: tuple[float, float] = (30.0, 90.0), **changes: Any) -> Path:
    config = copy.deepcopy(CONFIG)
    loss = config["agent"]["init_args"]["loss"]["init_args"]
    loss["criterion"] = changes.pop("criterion", loss["criterion"])
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(yaml.safe_dump({**config, "seed": seed, **changes}))
    (directory / "metrics.csv").write_text(METRICS.format(*returns))
    return directory


MSE = {"class_path": "rlloss.MSELoss", "init_args": {}}


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Huber with seeds 0 and 3, and MSE."""
    return [
        write_run(tmp_path / "huber-s0"),
        write_run(tmp_path / "mse-s0", criterion=MSE, returns=(40.0, 120.0)),
        write_run(tmp_path / "huber-s3", seed=3, returns=(50.0, 100.0)),
    ]


def test_seeds_are_grouped(runs: list[Path]) -> None:
    huber, mse = make_groups([read_run(run) for run in runs])
    assert [run.config["seed"] for run in huber.runs] == [0, 3] and len(mse.runs) == 1
    assert huber.differing == {"agent.loss.criterion": "HuberLoss"} and mse.differing == {
        "agent.loss.criterion": "MSELoss"
    }
    assert (huber.label, mse.label) == ("A: criterion=HuberLoss", "B: criterion=MSELoss")


def test_intervals(runs: list[Path]) -> None:
    """Over the runs' means where there are several, over the episodes of the last evaluation for one."""
    huber, mse = (group.final_return for group in make_groups([read_run(run) for run in runs]))
    expected = scipy.stats.t.interval(0.95, 1, loc=95.0, scale=np.std([90.0, 100.0], ddof=1) / np.sqrt(2))
    assert huber == pytest.approx((95.0, *expected))
    assert mse == pytest.approx((120.0, *scipy.stats.t.interval(0.95, 3, loc=120.0, scale=10.0 / 2)))
    assert np.isnan(mean_interval([1.0]).low)


def test_table(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *map(str, runs)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert f"A: criterion=HuberLoss, {runs[0]} and 1 more, seeds 0, 3" in lines
    assert "agent.loss.criterion: MSELoss" in lines
    assert "B: criterion=MSELoss 1 120.0 [104.1, 135.9] 23.5 3,000 6.00 500" in lines
    assert not any("delta" in line for line in lines), "it came with the criterion, which differs itself"


def test_runs_of_other_lengths_say_so(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    text = (runs[2] / "metrics.csv").read_text()
    (runs[2] / "metrics.csv").write_text(text.replace("\n3000,", "\n2500,"))
    assert main(["compare", *map(str, runs)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "A: criterion=HuberLoss 2 95.0" in text
    assert " 2,500 to 3,000 " in text and text.count(" to ") == 1


def test_settings_of_one_class_are_told_apart(tmp_path: Path) -> None:
    other = {"class_path": "rlloss.HuberLoss", "init_args": {"delta": 2.0}}
    runs = [
        write_run(tmp_path / "a"), write_run(tmp_path / "b", criterion=other), write_run(tmp_path / "c", criterion=MSE),
    ]  # fmt: skip
    settings = [group.differing for group in make_groups([read_run(run) for run in runs])]
    assert [each["agent.loss.criterion.delta"] for each in settings] == ["1.0", "2.0", "–"]


def test_empty_arguments_differ_too(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", env_kwargs={"gravity": 3})]
    assert [group.differing for group in make_groups([read_run(run) for run in runs])] == [
        {"env_kwargs.gravity": "–"}, {"env_kwargs.gravity": "3"},
    ]  # fmt: skip


def test_panels(runs: list[Path], tmp_path: Path) -> None:
    """A panel an environment; evaluations where all runs have them, else the returns of training."""
    once = write_run(tmp_path / "once", env="Acrobot-v1")
    metrics = (once / "metrics.csv").read_text()
    (once / "metrics.csv").write_text(metrics.replace(",30.0,5.0", ",,"))
    cartpole, acrobot = make_panels(make_groups([read_run(run) for run in [*runs, once]]))
    huber = cartpole.items[0]
    assert cartpole.y_label == "return, evaluations" and huber.x.tolist() == [1000, 3000]  # type: ignore[union-attr]
    assert huber.y.value.tolist() == [40.0, 95.0]  # type: ignore[union-attr]
    assert acrobot.y_label == "return, training"
    assert acrobot.items[0].y.value.tolist() == [20.5, 22.0, 23.5]  # type: ignore[union-attr]


@pytest.mark.parametrize("ending", ["png", "svg", "html"])
def test_pictures(runs: list[Path], tmp_path: Path, ending: str) -> None:
    path = tmp_path / "new folder" / f"curves.{ending}"
    compare(runs, output=path)
    if ending == "png":
        assert matplotlib.image.imread(path).std() > 0.02
    else:
        text = path.read_text("utf-8")
        assert text.lstrip().startswith("<!DOCTYPE html>" if ending == "html" else "<?xml")
        assert ("B: criterion=MSELoss</th>" in "".join(text.split("\n"))) == (ending == "html")
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_refuses(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in [
        ([], "compare needs runs"),
        ([str(runs[0]), str(runs[1]), f"{runs[0]}/"], "comes twice, which would count its returns twice"),
        (["nowhere"], "nowhere is not a run directory: it has no config.yaml"),
        ([str(runs[0]), "--output", "curves.txt"], "output must end in .png, .svg, .pdf or .html, got curves.txt"),
        ([str(runs[0]), "--output", str(runs[0] / "config.yaml" / "x.png")], "cannot write"),
    ]:
        assert main(["compare", *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and message in captured.err and len(captured.err.splitlines()) == 1
    for content in ["", METRICS.splitlines()[0] + "\n", "step,seconds\n1,x\n"]:
        (runs[0] / "metrics.csv").write_text(content)
        assert main(["compare", str(runs[0])]) == 2
    (runs[0] / "metrics.csv").unlink()
    assert main(["compare", str(runs[0])]) == 2


def test_real_run(tmp_path: Path) -> None:
    """What train leaves behind is what is read: one evaluation, of which the table has the mean and its interval."""
    run = train(
        A2C(), "CartPole-v1", steps=200, log_every=100, eval_episodes=3, run_dir=str(tmp_path), progress=False,
        tensorboard=False,
    )  # fmt: skip
    (group,) = make_groups([read_run(run)])
    interval = group.final_return
    assert interval.low < interval.value < interval.high
    assert "A: run-s0" in compare([run]) and make_panels([group])[0].y_label == "return, training"
