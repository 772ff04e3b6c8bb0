"""Environments of the extras, a smoke run of each: pip install -e '.[atari,minatar,mujoco]', pytest -m slow."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from agents import A2C, DQN, evaluate, train
from agents.parts.envs import Envs, make_vec
from agents.parts.spaces import Box
from rlloss import MunchausenLoss

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("game", ["Breakout", "Asterix", "Freeway", "Seaquest", "SpaceInvaders"])
def test_minatar(game: str, tmp_path: Path) -> None:
    pytest.importorskip("minatar")
    agent = DQN(loss=MunchausenLoss(), hidden_sizes=[128], learning_starts=500, replay_ratio=0.25, batch_size=32)
    run = train(agent, f"MinAtar/{game}-v1", num_envs=4, steps=1500, eval_episodes=2, run_dir=str(tmp_path))
    assert evaluate(run, episodes=2).episodes == 2


def test_atari_frames_stay_bytes(tmp_path: Path) -> None:
    """ALE steps its own vector environment, whose rows after an episode's end only reset."""
    pytest.importorskip("ale_py")
    envs = Envs(make_vec("ALE/Pong-v5", 3))
    envs.reset(0)
    assert envs.spec.observation == Box((4, 84, 84), torch.uint8) and envs.spec.has_reset_steps
    agent = DQN(replay_capacity=600, batch_size=8, learning_starts=60, replay_ratio=0.2)
    agent.build(envs.spec)
    while agent.updates < 3:
        agent.observe(envs.step(agent.act(envs.observation)))
        assert all(metrics.isfinite().all() for metrics in agent.update())
    assert agent.replay is not None and agent.replay.rows.dtype == torch.uint8
    stored = agent.replay.rows.numel() / 600
    assert stored < 2 * 4 * 84 * 84 * 1.01, "two observations of bytes and a few numbers"
    run = train(
        A2C(rollout_length=8), "ALE/Pong-v5", num_envs=2, steps=64, eval_episodes=1, run_dir=str(tmp_path),
        env_kwargs={"max_num_frames_per_episode": 400},
    )  # fmt: skip
    assert evaluate(run, episodes=1).episodes == 1
    envs.close()


@pytest.mark.parametrize("squash", [False, True])
def test_mujoco(squash: bool, tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    agent = A2C(squash=squash, normalize_observations=True, normalize_rewards=True, rollout_length=16)
    run = train(agent, "HalfCheetah-v5", num_envs=2, steps=640, eval_episodes=2, run_dir=str(tmp_path))
    assert evaluate(run, episodes=2).episodes == 2
