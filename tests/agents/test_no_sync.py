"""No hidden synchronisation: nothing is read back from the device but the actions."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from agents import A2C, DQN
from agents.agent import Agent
from agents.parts.spaces import Box, Discrete, EnvSpec, MultiDiscrete
from agents.parts.transition import pack
from rlloss import AllActionPolicyGradientLoss, ClippedSurrogateLoss, HuberLoss, TDLoss

N = 4
SPEC = EnvSpec(Box((3,), torch.float32), Discrete(2), num_envs=N, has_reset_steps=True)
BOX_SPEC = EnvSpec(Box((3,), torch.float32), Box((2,), torch.float32, (-1.0, -1.0), (1.0, 1.0)), num_envs=N)
SQUASHED_SPEC = EnvSpec(Box((3,), torch.float32), Box((1,), torch.float32, (-1.0,), (1.0,), squashed=True), num_envs=N)
MASKED_SPEC = EnvSpec(Box((3,), torch.float32), Discrete(3), num_envs=N, has_action_mask=True)
MULTI_SPEC = EnvSpec(Box((3,), torch.float32), MultiDiscrete((2, 3)), num_envs=N)
# Operators whose result is a value or a shape that the host has to wait for.
READS = {
    "_local_scalar_dense", "item", "nonzero", "nonzero_numpy", "is_nonzero", "equal", "allclose", "masked_select",
    "unique_dim", "_unique2", "unique_consecutive",
}  # fmt: skip


class Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts value reads."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        boolean_index = name.startswith("index") and any(
            isinstance(i, torch.Tensor) and i.dtype == torch.bool
            for i in (args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else [])
        )
        if name in READS or boolean_index:
            self.seen.append(name)
        return function(*args, **(kwargs or {}))


def test_the_counter_counts() -> None:
    with Reads() as reads:
        tensor = torch.arange(3)
        tensor.sum().item()
        tensor[tensor > 1]
        bool(tensor[0] == 0)
    assert len(reads.seen) >= 3


AGENTS = {
    "dqn": (DQN(batch_size=8, learning_starts=0, replay_ratio=0.5), SPEC),
    "dqn n-step double dueling": (
        DQN(
            loss=TDLoss(HuberLoss(), double=True), dueling=True, n_step=3, batch_size=8, learning_starts=0,
            replay_ratio=0.5, target_update_every=1, target_update_rate=0.1, optimizer="AdamW",
        ),
        SPEC,
    ),
    "dqn prioritized noisy": (
        DQN(
            loss=TDLoss(HuberLoss(), double=True), dueling=True, n_step=3, batch_size=8, learning_starts=0,
            replay_ratio=0.5, priority_exponent=0.5, noisy=True, replay_capacity=20,
        ),
        SPEC,
    ),
    "a2c": (A2C(rollout_length=3, normalize_advantages=True), SPEC),
    "ppo": (A2C(policy_loss=ClippedSurrogateLoss(), rollout_length=4, epochs=2, minibatches=3, optimizer="Adam"), SPEC),
    "a2c all actions": (A2C(rollout_length=3, epochs=2, policy_loss=AllActionPolicyGradientLoss()), SPEC),
    "a2c box": (A2C(rollout_length=3, entropy_coefficient=0.1), BOX_SPEC),
    "a2c schedule": (
        A2C(rollout_length=3, shared_trunk=True, learning_rate_end=0.0, learning_rate_steps=40), SPEC,
    ),
    "a2c squashed": (A2C(rollout_length=3, entropy_coefficient=0.1, squash=True), SQUASHED_SPEC),
    "a2c normalized": (A2C(rollout_length=3, normalize_observations=True, normalize_rewards=True), SPEC),
    "a2c masks": (A2C(rollout_length=3, policy_loss=ClippedSurrogateLoss()), MASKED_SPEC),
    "a2c multi": (A2C(rollout_length=3, entropy_coefficient=0.1), MULTI_SPEC),
}  # fmt: skip


def _count_calls(monkeypatch: pytest.MonkeyPatch, method: str, calls: list[str]) -> None:
    original = getattr(torch.Tensor, method)

    def counted(self: torch.Tensor, *arguments: Any) -> Any:
        calls.append(method)
        return original(self, *arguments)

    monkeypatch.setattr(torch.Tensor, method, counted)


@pytest.mark.parametrize("on_host", [False, True], ids=["as on a GPU", "on the host"])
@pytest.mark.parametrize("name", AGENTS)
def test_one_transfer_in_act_and_none_elsewhere(name: str, on_host: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not on_host:  # where nothing can be read without a transfer
        monkeypatch.setattr("agents.parts.acting.on_host", lambda x: False)
    agent, spec = AGENTS[name]
    agent.build(spec)
    transfers: list[str] = []
    for method in ("cpu", "item", "tolist", "numpy"):
        _count_calls(monkeypatch, method, transfers)
    updates = 0
    for step in range(12):
        observation = torch.randn(N, 3)
        mask = torch.arange(3).expand(N, 3) != step % 3
        with Reads() as reads:
            action = agent.act_among(observation, mask) if spec.has_action_mask else agent.act(observation)
        # After the one transfer the host has the actions, and may look at them; on the host all can be looked at.
        assert on_host or transfers in (["cpu"], ["cpu", "numpy"])
        assert not {"item", "tolist"} & {*transfers} and reads.seen == []
        transfers.clear()
        flags = [step % 5 == env for env in range(N)]
        transitions = _pack(agent, observation, action, flags)
        transfers.clear()
        with Reads() as reads:
            agent.observe(transitions)
            updates += len(agent.update())
        assert (on_host and {*transfers} == {"numpy"}) or transfers == []
        assert reads.seen == []
    assert updates > 2


def _pack(agent: Agent, observation: torch.Tensor, action: torch.Tensor, ended: list[bool]) -> Any:
    return pack(
        agent.layout, observation=observation.numpy(), action=action.numpy(), reward=[1.0] * N,
        next_observation=observation.numpy(), terminated=ended, truncated=[False] * N, valid=[True] * N,
    )  # fmt: skip
