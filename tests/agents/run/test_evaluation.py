"""Whole episodes, a fair share each, and an honest interval."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from agents import DQN, evaluate, train
from agents.parts.envs import Envs, make_vec
from agents.run import evaluation
from agents.run.evaluation import play, summarize
from tests.agents.run.probes import dqn, model_bytes


class LengthEnv(gymnasium.Env[np.ndarray, Any]):
    """Environment i plays episodes of ``1 + 10 i`` steps with reward 1, whatever is done."""

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)
        self.length = 1

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.length = 1 + 10 * seed
        self.time = 0
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return np.zeros(1, dtype=np.float32), 1.0, self.time == self.length, False, {}


gymnasium.register("Length-v0", f"{__name__}:LengthEnv")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = str(tmp_path_factory.mktemp("runs"))
    return train(
        dqn(), "CartPole-v1", steps=150, eval_episodes=1, tensorboard=False, progress=False, run_dir=folder, seed=2
    )


@pytest.mark.parametrize(
    ("episodes", "expected"), [(4, [1, 11, 21, 31]), (6, [1, 1, 11, 11, 21, 31]), (3, [1, 11, 21]), (1, [1])]
)
def test_short_episodes_are_not_favoured(episodes: int, expected: list[int]) -> None:
    """Taking what finishes first would fill the evaluation with episodes of one step."""
    envs = Envs(make_vec("Length-v0", 4))
    result = play(dqn().build(envs.spec), envs, episodes, seed=0)
    assert sorted(result.returns) == expected
    assert result.length_mean == result.mean == sum(expected) / episodes
    assert result.episodes == episodes


def test_an_episode_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "MAX_EPISODE_STEPS", 25)
    envs = Envs(make_vec("Length-v0", 4))
    with pytest.warns(UserWarning, match="an episode was cut after 25 steps"):
        result = play(dqn().build(envs.spec), envs, 8, seed=0)
    assert sorted(result.returns) == [1, 1, 11, 11, 21, 21, 25], "the last environment plays no second episode"


def test_exploration_is_that_of_the_end_of_training(tmp_path: Path) -> None:
    agent = dqn(epsilon_start=1.0, epsilon_end=0.0, epsilon_steps=50)
    run = train(agent, "CartPole-v1", steps=100, progress=False, tensorboard=False, run_dir=str(tmp_path))
    assert evaluate(run, episodes=5, greedy=False).returns == evaluate(run, episodes=5).returns


@pytest.mark.parametrize("n", [2, 3, 10, 100])
def test_interval_is_student_s(n: int) -> None:
    returns = np.random.default_rng(n).normal(30.0, 12.0, n).tolist()
    result = summarize(returns, list(range(n)))
    expected = scipy.stats.t.interval(0.95, n - 1, loc=np.mean(returns), scale=scipy.stats.sem(returns))
    assert (result.ci_low, result.ci_high) == pytest.approx(expected, rel=1e-12)
    assert result.std == pytest.approx(math.sqrt(sum((r - result.mean) ** 2 for r in returns) / (n - 1)), rel=1e-12)
    assert result.length_mean == (n - 1) / 2


def test_interval_by_hand() -> None:
    result = summarize([1.0, 2.0, 3.0], [5, 5, 8])
    half = 4.302652729911275 / math.sqrt(3)  # the t table: 97.5%, 2 degrees of freedom; the deviation is 1
    assert (result.mean, result.std, result.length_mean) == (2.0, 1.0, 6.0)
    assert (result.ci_low, result.ci_high) == pytest.approx((2.0 - half, 2.0 + half), rel=1e-9)
    assert str(result) == ("return 2.00 ± 1.00 (standard deviation), 95% CI [-0.48, 4.48], 3 episodes, mean length 6.0")


def test_one_episode_has_no_interval(run: Path) -> None:
    result = evaluate(run, episodes=1)
    assert result.std == 0.0
    assert math.isnan(result.ci_low) and math.isnan(result.ci_high)
    data = result.to_json()
    assert data["ci_low"] is None and data["ci_high"] is None
    assert "nan" not in str(result)


@pytest.mark.parametrize("episodes", [1, 5])
def test_json_is_valid(episodes: int, run: Path) -> None:
    result = evaluate(run, episodes=episodes)
    data = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert data["returns"] == list(result.returns)
    assert data["mean"] == result.mean
    assert set(data) == {"episodes", "mean", "std", "ci_low", "ci_high", "length_mean", "returns"}


def test_same_seed_same_returns(run: Path) -> None:
    assert evaluate(run, episodes=7, seed=3) == evaluate(run, episodes=7, seed=3)
    assert evaluate(run, episodes=7, seed=3).returns != evaluate(run, episodes=7, seed=4).returns
    assert evaluate(run, episodes=7, seed=3, greedy=False) == evaluate(run, episodes=7, seed=3, greedy=False)


@pytest.mark.parametrize("greedy", [True, False])
def test_greedy_does_not_explore(greedy: bool, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    act, seen = DQN.act, set()

    def spy(self: DQN, observation: Tensor, *, explore: bool = True) -> Tensor:
        seen.add(explore)
        return act(self, observation, explore=explore)

    monkeypatch.setattr(DQN, "act", spy)
    evaluate(run, episodes=2, greedy=greedy)
    assert seen == {not greedy}


def test_environments_are_at_most_a_hundred(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def spy(env: str, num_envs: int, **options: Any) -> Any:
        made.append(num_envs)
        return make_vec(env, num_envs, **options)

    monkeypatch.setattr(evaluation, "make_vec", spy)
    assert evaluate(run, episodes=205).episodes == 205
    evaluate(run, episodes=2)
    assert made == [100, 2]


def test_nothing_is_unpickled_or_changed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in run.iterdir()}

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("something was unpickled")

    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (cloudpickle, "loads")):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)
    evaluate(run, episodes=2)
    assert {path: path.read_bytes() for path in run.iterdir()} == before


def test_checkpoint_is_not_needed(run: Path, tmp_path: Path) -> None:
    for name in ("config.yaml", "model.safetensors"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    assert evaluate(tmp_path, episodes=3) == evaluate(run, episodes=3)


def test_model_of_the_run_is_what_plays(run: Path, tmp_path: Path) -> None:
    config = (run / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(config)
    other = dqn().build(Envs(make_vec("CartPole-v1", 1)).spec, seed=8)
    evaluation_of_other = _play_saved(other, tmp_path)
    assert model_bytes(tmp_path) != model_bytes(run)
    assert evaluation_of_other != evaluate(run, episodes=20).returns


def _play_saved(agent: DQN, folder: Path) -> tuple[float, ...]:
    from agents.run.checkpoint import save_model

    save_model(folder / "model.safetensors", agent.model)
    envs = Envs(make_vec("CartPole-v1", 20))
    result = play(agent, envs, 20, seed=10_000)
    assert evaluate(folder, episodes=20).returns == result.returns
    return result.returns


def test_video_is_filmed(run: Path) -> None:
    pytest.importorskip("moviepy")
    pytest.importorskip("pygame")
    result = evaluate(run, episodes=2, video=True)
    (film,) = (run / "videos").glob("*.mp4")
    assert film.stat().st_size > 1_000
    film.unlink()
    (run / "videos").rmdir()
    assert result == evaluate(run, episodes=2)


@pytest.mark.parametrize(
    "changes", [{"seed": -1}, {"seed": 2**32}, {"device": "tpu"}, {"model": "first"}, {"episodes": 2.5}]
)
def test_arguments_out_of_range(changes: dict[str, Any], run: Path) -> None:
    with pytest.raises((ValueError, TypeError), match=f"evaluate: {next(iter(changes))} must be"):
        evaluate(run, **changes)


@pytest.mark.parametrize("episodes", [0, -3])
def test_episodes_out_of_range(episodes: int, run: Path) -> None:
    with pytest.raises(ValueError, match=f"episodes must be >= 1, got {episodes}"):
        evaluate(run, episodes=episodes)


def test_not_a_run_directory(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a run directory"):
        evaluate(tmp_path / "nothing")
