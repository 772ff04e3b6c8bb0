"""No transition crosses an episode, and a time limit is no termination: every autoreset mode, both agents, n-step."""

import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from agents import A2C, DQN
from agents.agent import Agent
from agents.parts.envs import Envs
from agents.parts.transition import Transitions
from tests.agents.counting import EVERY_MODE, Endless, vector

LENGTHS = ((3, -4, 1), (-2, 5), (2, 2, -3))


def play(agent: Agent, envs: Envs, steps: int) -> list[Transitions]:
    """Step, and keep a copy of each step's transitions."""
    seen = []
    for _ in range(steps):
        transitions = envs.step(agent.act(envs.observation))
        agent.observe(transitions)
        seen.append(Transitions(transitions.packed.clone(), transitions.layout, transitions.count))
    return seen


def assert_within_episodes(rows: Transitions) -> None:
    valid = torch.ones_like(rows.terminated) if rows.mask is None else rows.mask
    observation, successor = rows.observation[valid], rows.next_observation[valid]
    assert torch.equal(observation[:, 0], successor[:, 0]), "a transition crosses an episode"
    assert torch.equal(observation[:, 1] + 1, successor[:, 1]), "a transition skips a step"


@pytest.mark.parametrize("mode", EVERY_MODE)
def test_transitions_stay_in_their_episode(mode: AutoresetMode) -> None:
    envs = Envs(vector(mode, *LENGTHS))
    envs.reset(0)
    agent = A2C(hidden_sizes=[4], rollout_length=40).build(envs.spec)
    seen = play(agent, envs, 40)
    total = 0
    ends = []
    for rows in seen:
        assert_within_episodes(rows)
        valid = [True] * 3 if rows.mask is None else rows.mask.tolist()
        total += sum(valid)
        assert rows.count == sum(valid)
        for env in range(3):
            if not valid[env]:
                continue
            episode, step = (int(x) for x in rows.next_observation[env])
            length = LENGTHS[env][episode % len(LENGTHS[env])]
            assert bool(rows.terminated[env]) == (step == length)
            assert bool(rows.truncated[env]) == (step == -length)
            assert float(rows.reward[env]) == 1.0
            ends.append(step == abs(length))
    assert envs.steps == total
    assert any(ends) and not all(ends)
    # In mode NEXT_STEP every end but those of the last step was followed by a row that only resets.
    last = sum(bool(flag) for flag in (seen[-1].terminated | seen[-1].truncated))
    assert 3 * 40 - total == (sum(ends) - last if mode is AutoresetMode.NEXT_STEP else 0)


@pytest.mark.parametrize("mode", EVERY_MODE)
def test_episode_statistics(mode: AutoresetMode) -> None:
    envs = Envs(vector(mode, (3, -4, 1)))
    envs.reset(0)
    finished = []
    for _ in range(20):
        envs.step(torch.zeros(1, dtype=torch.int64))
        finished += envs.finished
    assert finished[:4] == [(0, 3.0, 3), (0, 4.0, 4), (0, 1.0, 1), (0, 3.0, 3)]


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("mode", EVERY_MODE)
def test_replay_windows_stay_in_their_episode(mode: AutoresetMode, n_step: int) -> None:
    envs = Envs(vector(mode, *LENGTHS))
    envs.reset(0)
    agent = DQN(hidden_sizes=[4], n_step=n_step, replay_capacity=90, batch_size=64).build(envs.spec)
    play(agent, envs, 50)  # 150 rows: the ring has wrapped
    assert agent.replay is not None
    discount = 0.5
    index = agent.replay.draw(2_000, n_step, agent.generator)
    batch = agent.replay.gather(index, discount)
    mask = torch.ones(2_000, dtype=torch.bool) if batch.mask is None else batch.mask
    assert mask.float().mean() > 0.5
    for row in mask.nonzero().flatten().tolist():
        episode, start = (int(x) for x in batch.observation[row])
        assert int(batch.next_observation[row, 0]) == episode, "a window crosses an episode"
        covered = int(batch.next_observation[row, 1]) - start
        length = [own[episode % len(own)] for own in LENGTHS if start + covered <= abs(own[episode % len(own)])]
        assert 1 <= covered <= n_step and length
        assert float(batch.reward[row]) == pytest.approx(sum(discount**k for k in range(covered)))
        # A window shorter than n ended with its episode; discount 0 says that it terminated.
        assert float(batch.discount[row]) in (0.0, pytest.approx(discount**covered))
        assert covered == n_step or any(start + covered == abs(own) for own in length)


def endless(mode: AutoresetMode) -> Envs:
    envs = Envs(SyncVectorEnv([Endless, Endless], autoreset_mode=mode))
    envs.reset(0)
    return envs


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("mode", EVERY_MODE)
def test_dqn_values_an_endless_reward_at_its_sum(mode: AutoresetMode, n_step: int) -> None:
    envs = endless(mode)
    agent = DQN(
        discount=0.8, n_step=n_step, hidden_sizes=[16], learning_rate=5e-3, batch_size=32, replay_ratio=0.5,
        learning_starts=20, target_update_every=10, epsilon_end=1.0,
    ).build(envs.spec)  # fmt: skip
    for _ in range(900):
        agent.observe(envs.step(agent.act(envs.observation)))
        agent.update()
    with torch.no_grad():
        values = agent.network(torch.tensor([[1.0], [-1.0]]))
    torch.testing.assert_close(values, torch.full((2, 2), 1 / (1 - 0.8)), atol=0.15, rtol=0.0)


@pytest.mark.parametrize("mode", EVERY_MODE)
def test_critic_values_an_endless_reward_at_its_sum(mode: AutoresetMode) -> None:
    envs = endless(mode)
    agent = A2C(discount=0.8, gae_lambda=0.9, rollout_length=7, hidden_sizes=[16], learning_rate=5e-3).build(envs.spec)
    for _ in range(2_500):
        agent.observe(envs.step(agent.act(envs.observation)))
        agent.update()
    with torch.no_grad():
        values = agent.critic(torch.tensor([[1.0], [-1.0]]))
    torch.testing.assert_close(values, torch.full((2,), 1 / (1 - 0.8)), atol=0.15, rtol=0.0)
