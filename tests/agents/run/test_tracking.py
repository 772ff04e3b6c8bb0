"""What a run writes down."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import rlloss
from agents import DQN, train
from agents.parts.errors import DivergedError
from agents.run.tracking import RECENT_EPISODES, WALL_CLOCK, Progress, Tracker
from rlloss import HuberLoss, TDLoss
from tests.agents.run.probes import a2c, dqn

METRICS = ["loss", "q_value", "td_error", "grad_norm"]
COLUMNS = [
    *["step", "episodes", "return_mean", "length_mean", *METRICS, "epsilon", "updates"],
    *["eval_return_mean", "eval_return_std", "seconds", "steps_per_second"],
]
STATUS = {"epsilon": 0.5, "updates": 3}


def tracker(run: Path, *, tensorboard: bool = False, **options: Any) -> Tracker:
    return Tracker(run, dqn(), list(STATUS), tensorboard=tensorboard, **options)


def metrics(loss: float) -> list[Tensor]:
    return [torch.tensor([loss, 1.0, 2.0, 3.0])]


def read(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_rows(tmp_path: Path) -> None:
    t = tracker(tmp_path)
    t.log(10, STATUS, {})
    t.update(metrics(2.0) + metrics(4.0))
    t.update([])
    t.episode(5.0, 7)
    t.episode(6.0, 8)
    t.log(20, STATUS, {"eval_return_mean": 9.0, "eval_return_std": 0.5})
    t.log(30, STATUS, {})
    assert (tmp_path / "metrics.csv").read_text().splitlines()[0].split(",") == COLUMNS
    first, second, third = ({k: v for k, v in row.items() if k not in WALL_CLOCK} for row in read(tmp_path))
    names = COLUMNS[:-2]
    assert list(first.values()) == ["10", "0", "", "", "", "", "", "", "0.5", "3", "", ""]
    expected = ["20", "2", "5.5", "7.5", "3.0", "1.0", "2.0", "3.0", "0.5", "3", "9.0", "0.5"]
    assert second == dict(zip(names, expected, strict=True))
    assert third["loss"] == "" and third["return_mean"] == "5.5", "metrics are of the interval, returns of late"
    seconds = [float(row["seconds"]) for row in read(tmp_path)]
    assert seconds == sorted(seconds)
    assert all(float(row["steps_per_second"]) > 0 for row in read(tmp_path))


def test_columns_are_those_of_the_agent(tmp_path: Path) -> None:
    agent = a2c()
    Tracker(tmp_path, agent, ["updates"], tensorboard=False).log(1, {"updates": 0}, {})
    (row,) = read(tmp_path)
    assert set(agent.metric_names) < set(row)
    assert "epsilon" not in row


def test_unknown_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="temperature"):
        tracker(tmp_path).log(1, STATUS | {"temperature": 1.0}, {})


def test_returns_are_of_the_last_episodes(tmp_path: Path) -> None:
    t = tracker(tmp_path)
    assert math.isnan(t.return_mean)
    for i in range(RECENT_EPISODES + 5):
        t.episode(float(i), i)
    assert t.return_mean == sum(range(5, RECENT_EPISODES + 5)) / RECENT_EPISODES
    assert t.episodes == RECENT_EPISODES + 5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("column", range(4))
def test_metric_that_is_not_finite(bad: float, column: int, tmp_path: Path) -> None:
    t = tracker(tmp_path)
    t.update(metrics(1.0))
    t.log(10, STATUS, {})
    broken = metrics(1.0)[0]
    broken[column] = bad
    t.update([*metrics(1.0), broken, *metrics(1.0)])
    name = METRICS[column]
    for _ in range(2):  # looking does not forget
        with pytest.raises(DivergedError, match=f"{name} is {bad} at step 20"):
            t.check(20)
    with pytest.raises(DivergedError):
        t.log(20, STATUS, {})
    assert [row["step"] for row in read(tmp_path)] == ["10"]


def _filled(run: Path) -> tuple[Tracker, dict[str, Any]]:
    """A tracker with rows at 10 and 20, and its state in between, at 15."""
    t = tracker(run)
    t.episode(1.0, 2)
    t.update(metrics(1.0))
    t.log(10, STATUS, {})
    t.update(metrics(2.0))
    t.episode(3.0, 4)
    state = t.state_dict()
    t.update(metrics(4.0))
    t.log(20, STATUS, {})
    return t, state


def test_resume_drops_the_rows_after_the_checkpoint(tmp_path: Path) -> None:
    _, state = _filled(tmp_path)
    before = read(tmp_path)
    t = tracker(tmp_path)
    t.load_state_dict(state, 15)
    assert read(tmp_path) == before[:1]
    t.update(metrics(4.0))
    t.log(20, STATUS, {})
    again = read(tmp_path)
    assert again[0] == before[0]
    assert [{k: v for k, v in row.items() if k not in WALL_CLOCK} for row in again[1:]] == [
        {k: v for k, v in row.items() if k not in WALL_CLOCK} for row in before[1:]
    ]
    assert float(again[1]["seconds"]) >= float(state["seconds"])


@pytest.mark.parametrize("step", [10, 15])
def test_row_of_the_checkpoint_itself_is_kept(step: int, tmp_path: Path) -> None:
    _, state = _filled(tmp_path)
    tracker(tmp_path).load_state_dict(state, step)
    assert [row["step"] for row in read(tmp_path)] == ["10"]


@pytest.mark.parametrize("half", ["1", "12,1", "12,1,2.0,2.0,1.0", "12345,1,2"])
def test_half_written_last_line_is_dropped(half: str, tmp_path: Path) -> None:
    filled, _ = _filled(tmp_path)
    whole = (tmp_path / "metrics.csv").read_text()
    (tmp_path / "metrics.csv").write_text(whole + half)
    tracker(tmp_path).load_state_dict(filled.state_dict(), 99_999)
    assert (tmp_path / "metrics.csv").read_text() == whole


@pytest.mark.parametrize("content", ["", "step,epi"])
def test_half_written_header_is_written_again(content: str, tmp_path: Path) -> None:
    _, state = _filled(tmp_path)
    (tmp_path / "metrics.csv").write_text(content)
    t = tracker(tmp_path)
    t.load_state_dict(state, 5)
    t.log(10, STATUS, {})
    assert list(read(tmp_path)[0]) == COLUMNS
    assert [row["step"] for row in read(tmp_path)] == ["10"]


def test_resume_without_rows(tmp_path: Path) -> None:
    state = tracker(tmp_path).state_dict()
    t = tracker(tmp_path)
    t.load_state_dict(state, 5)
    assert not (tmp_path / "metrics.csv").exists()
    assert t.check(5) == {}


def test_tensorboard_holds_the_same_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    t = tracker(tmp_path, tensorboard=True)
    t.episode(5.0, 7)
    t.update(metrics(2.0))
    t.log(10, STATUS, {"eval_return_mean": 9.0, "eval_return_std": 0.5})
    t.log(20, STATUS, {})
    t.close()
    resumed = tracker(tmp_path, tensorboard=True, purge_step=16)
    resumed.load_state_dict(t.state_dict(), 15)
    resumed.log(30, STATUS, {})
    resumed.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {
        "episode/return_mean",
        "episode/length_mean",
        "train/loss",
        "train/grad_norm",
        "train/epsilon",
        "evaluation/return_mean",
        "time/steps_per_second",
    } <= set(events.Tags()["scalars"])
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(10, 2.0)]
    assert [e.step for e in events.Scalars("train/epsilon")] == [10, 30], "step 20 is void after resuming from 15"


def test_progress_shows_what_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    t = tracker(tmp_path)
    bar = Progress(100, 0, enabled=True)
    bar._bar.mininterval = 0.0
    bar.update(10, t, lambda: {"updates": 1.0})
    shown = str(bar._bar.postfix)
    assert "return" not in shown and "loss" not in shown
    t.episode(21.0, 21)
    t.update(metrics(0.125))
    t.check(10)
    bar.update(40, t, lambda: {"epsilon": 0.25})
    bar.update(48, t, lambda: {"epsilon": 0.25})
    bar.update(8, t, lambda: {"epsilon": 0.25})
    bar.close()
    shown = capsys.readouterr().err
    assert "return=21.0, loss=0.125, epsilon=0.25" in shown
    assert "98/100" in shown and "100/100" in shown and "106/" not in shown
    Progress(100, 0, enabled=False).update(10, t, dict)
    assert capsys.readouterr().err == ""


def test_tensorboard_compares_hyperparameters(tmp_path: Path) -> None:
    """Those of all runs, not of the first alone, and which of them differ."""
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams.backend_context import Context

    for number, loss in enumerate((TDLoss(HuberLoss(delta=2.0)), rlloss.TwoHotTDLoss(low=0.0, high=9.0))):
        train(
            DQN(loss=loss, batch_size=4, learning_starts=8, hidden_sizes=[4]), "CartPole-v1", steps=16 * (number + 1),
            eval_episodes=1, progress=False, run_dir=str(tmp_path), name=f"run{number}",
        )  # fmt: skip
    events = EventMultiplexer()
    events.AddRunsFromDirectory(str(tmp_path))
    events.Reload()
    context, request = (
        Context(TBContext(data_provider=MultiplexerDataProvider(events, str(tmp_path)))),
        RequestContext(),
    )
    runs = context.hparams_metadata(request, "")
    experiment = context.experiment_from_metadata(request, "", True, runs, [])
    found = {info.name: info.differs for info in experiment.hparam_infos}
    assert found["agent.loss"] and found["agent.loss.criterion.delta"] is False and "agent.loss.num_bins" in found
    assert found["steps"] and not found["agent.batch_size"] and len(runs) == 2
    assert {info.name.tag for info in experiment.metric_infos} >= {"evaluation/return_mean", "train/loss"}
