"""The bare cost of training on CartPole: stepping the environments, and gradient steps by hand. Nothing else.

No action is chosen, no transition stored, none drawn, nothing logged: what a training loop takes beyond this is its
own. The gradient steps are torch operations on one flat tensor of parameters, without autograd; before they are timed
they are compared with autograd and torch.optim.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import task
import torch
import torch.nn.functional as F
from timing import Result, seconds_of
from torch import Tensor, nn

from agents.parts.envs import make_vec


class HandMLP:
    """An MLP whose parameters and gradients are views of flat tensors, with its backward pass written out.

    Args:
        sizes: Widths from input to output.
        activation: Of the hidden layers.
        flat: Holds the parameters, layer by layer, weight ``(out, in)`` and bias: the order of ``nn.Sequential``.
        gradient: Holds their gradients.
    """

    def __init__(self, sizes: Sequence[int], activation: Literal["relu", "tanh"], flat: Tensor, gradient: Tensor):
        self.relu = activation == "relu"
        self.layers: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        offset = 0
        for inputs, outputs in pairwise(sizes):
            weights, biases = slice(offset, offset + inputs * outputs), inputs * outputs + offset
            offset = biases + outputs
            self.layers.append(
                (
                    flat[weights].view(outputs, inputs),
                    flat[biases:offset],
                    gradient[weights].view(outputs, inputs),
                    gradient[biases:offset],
                )
            )

    def forward(self, x: Tensor) -> list[Tensor]:
        """The input and what each layer makes of it, the output last."""
        values = [x]
        for weight, bias, _, _ in self.layers[:-1]:
            x = torch.addmm(bias, x, weight.t())
            values.append(x.relu_() if self.relu else x.tanh_())
        weight, bias, _, _ = self.layers[-1]
        return [*values, torch.addmm(bias, values[-1], weight.t())]

    def backward(self, values: list[Tensor], d_output: Tensor) -> None:
        """Write the gradients, from that of the output and from what :meth:`forward` returned."""
        d = d_output
        for index in range(len(self.layers) - 1, -1, -1):
            weight, _, d_weight, d_bias = self.layers[index]
            x = values[index]
            torch.mm(d.t(), x, out=d_weight)
            torch.sum(d, 0, out=d_bias)
            if index > 0:
                d = d @ weight
                d.mul_(x > 0 if self.relu else torch.addcmul(torch.ones((), dtype=x.dtype), x, x, value=-1))


class Update(ABC):
    """A gradient step by hand. ``parameters`` are copied into one flat tensor."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.flat = torch.cat([p.detach().flatten() for p in parameters])
        self.gradient = torch.zeros_like(self.flat)
        self.square = torch.zeros_like(self.flat)

    @abstractmethod
    def step(self, *batch: Tensor) -> None:
        """Take it."""

    def clip(self, largest: float) -> None:
        """Scale the gradient down to a norm, without asking for its value."""
        self.gradient.mul_((largest / (self.gradient.norm() + 1e-6)).clamp_(max=1.0))


class DQNUpdate(Update):
    """DQN's: smooth L1 loss of the TD error, Adam."""

    def __init__(self, sizes: Sequence[int], parameters: Sequence[Tensor], target_parameters: Sequence[Tensor]) -> None:
        super().__init__(parameters)
        self.mean = torch.zeros_like(self.flat)
        self.steps = 0
        self.online = HandMLP(sizes, "relu", self.flat, self.gradient)
        target = torch.cat([p.detach().flatten() for p in target_parameters])
        self.target = HandMLP(sizes, "relu", target, self.gradient)

    def step(self, *batch: Tensor) -> None:
        """From observations, actions ``(B, 1)``, rewards, discounts and next observations."""
        observation, action, reward, discount, next_observation = batch
        target = torch.addcmul(reward, discount, self.target.forward(next_observation)[-1].amax(-1))
        values = self.online.forward(observation)
        error = values[-1].gather(1, action).squeeze(1).sub_(target).clamp_(-1.0, 1.0).div_(len(target))
        d_output = torch.zeros_like(values[-1]).scatter_(1, action, error.unsqueeze(1))
        self.online.backward(values, d_output)
        self.clip(task.DQN_MAX_GRAD_NORM)
        self.steps += 1
        self.mean.lerp_(self.gradient, 0.1)
        self.square.mul_(0.999).addcmul_(self.gradient, self.gradient, value=0.001)
        root = self.square.sqrt().div_((1 - 0.999**self.steps) ** 0.5).add_(1e-8)
        self.flat.addcdiv_(self.mean, root, value=-task.DQN_LEARNING_RATE / (1 - 0.9**self.steps))


class A2CUpdate(Update):
    """A2C's: policy gradient with the advantage of the n-step return, squared error of the critic, RMSprop.

    (Episodes that a time limit cut, one step in hundreds, are not bootstrapped apart.)
    """

    def __init__(self, sizes: Sequence[int], policy: Sequence[Tensor], critic: Sequence[Tensor]) -> None:
        super().__init__([*policy, *critic])
        split = sum(p.numel() for p in policy)
        self.policy = HandMLP([*sizes, 2], "tanh", self.flat[:split], self.gradient[:split])
        self.critic = HandMLP([*sizes, 1], "tanh", self.flat[split:], self.gradient[split:])

    def step(self, *batch: Tensor) -> None:
        """From observations ``(T, N, F)``, actions, rewards and discounts ``(T, N)``, and the last observations."""
        observation, action, reward, discount, last_observation = batch
        x = observation.flatten(0, 1)
        critic, policy = self.critic.forward(x), self.policy.forward(x)
        value = critic[-1].squeeze(1)
        following = self.critic.forward(last_observation)[-1].squeeze(1)
        returns = torch.empty_like(reward)
        for t in range(len(reward) - 1, -1, -1):
            following = torch.addcmul(reward[t], discount[t], following, out=returns[t])
        advantage = returns.flatten().sub_(value)
        size = len(value)
        d_logits = policy[-1].softmax(-1)
        d_logits.scatter_add_(1, action.view(-1, 1), d_logits.new_full((size, 1), -1.0))
        self.policy.backward(policy, d_logits.mul_(advantage.unsqueeze(1)).div_(size))
        self.critic.backward(critic, advantage.unsqueeze(1).mul_(-2 * task.VALUE_COEFFICIENT / size))
        self.clip(task.A2C_MAX_GRAD_NORM)
        self.square.mul_(task.RMSPROP_DECAY).addcmul_(self.gradient, self.gradient, value=1 - task.RMSPROP_DECAY)
        self.flat.addcdiv_(self.gradient, self.square.sqrt().add_(task.RMSPROP_EPS), value=-task.A2C_LEARNING_RATE)


def make_mlp(sizes: Sequence[int], activation: type[nn.Module]) -> nn.Sequential:
    """The same MLP in torch."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


def make_dqn(dtype: torch.dtype = torch.float32) -> tuple[DQNUpdate, list[Tensor], nn.Sequential, nn.Sequential]:
    """The update, a batch for it, and the networks that it started from."""
    sizes = [4, *task.DQN_NET, 2]
    online, target = (make_mlp(sizes, nn.ReLU).to(dtype) for _ in range(2))
    batch = [torch.randn(task.BATCH_SIZE, 4), torch.randint(2, (task.BATCH_SIZE, 1)), torch.ones(task.BATCH_SIZE)]
    batch += [torch.full((task.BATCH_SIZE,), task.DISCOUNT), torch.randn(task.BATCH_SIZE, 4)]
    update = DQNUpdate(sizes, list(online.parameters()), list(target.parameters()))
    return update, _converted(batch, dtype), online, target


def make_a2c(
    num_envs: int, dtype: torch.dtype = torch.float32
) -> tuple[A2CUpdate, list[Tensor], nn.Sequential, nn.Sequential]:
    """The update, a rollout for it, and the networks that it started from."""
    shape = (task.ROLLOUT_LENGTH, num_envs)
    policy, critic = (make_mlp([4, *task.A2C_NET, outputs], nn.Tanh).to(dtype) for outputs in (2, 1))
    batch = [torch.randn(*shape, 4), torch.randint(2, shape), torch.ones(shape), torch.full(shape, task.DISCOUNT)]
    batch.append(torch.randn(num_envs, 4))
    update = A2CUpdate([4, *task.A2C_NET], list(policy.parameters()), list(critic.parameters()))
    return update, _converted(batch, dtype), policy, critic


def _converted(batch: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [x.to(dtype) if x.is_floating_point() else x for x in batch]


def check() -> None:
    """Compare three gradient steps of each kind, in float64, with autograd and torch.optim."""
    dqn, batch, online, target = make_dqn(torch.float64)
    adam = torch.optim.Adam(online.parameters(), lr=task.DQN_LEARNING_RATE)
    _compare(
        dqn, batch, adam, lambda: _dqn_loss(online, target, *batch), list(online.parameters()), task.DQN_MAX_GRAD_NORM
    )
    a2c, batch, policy, critic = make_a2c(8, torch.float64)
    both = [*policy.parameters(), *critic.parameters()]
    rmsprop = torch.optim.RMSprop(both, lr=task.A2C_LEARNING_RATE, alpha=task.RMSPROP_DECAY, eps=task.RMSPROP_EPS)
    _compare(a2c, batch, rmsprop, lambda: _a2c_loss(policy, critic, *batch), both, task.A2C_MAX_GRAD_NORM)


def _dqn_loss(online: nn.Module, target: nn.Module, *batch: Tensor) -> Tensor:
    observation, action, reward, discount, next_observation = batch
    with torch.no_grad():
        wanted = reward + discount * target(next_observation).amax(-1)
    return F.smooth_l1_loss(online(observation).gather(1, action).squeeze(1), wanted)


def _a2c_loss(policy: nn.Module, critic: nn.Module, *batch: Tensor) -> Tensor:
    observation, action, reward, discount, last_observation = batch
    value = critic(observation).squeeze(-1)
    with torch.no_grad():
        following, returns = critic(last_observation).squeeze(-1), list[Tensor]()
        for t in range(len(reward) - 1, -1, -1):
            following = reward[t] + discount[t] * following
            returns.insert(0, following)
        wanted = torch.stack(returns)
    log_prob = policy(observation).log_softmax(-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)
    policy_loss = -(log_prob * (wanted - value.detach())).mean()
    loss: Tensor = policy_loss + task.VALUE_COEFFICIENT * F.mse_loss(value, wanted)
    return loss


def _compare(
    update: Update,
    batch: list[Tensor],
    optimizer: torch.optim.Optimizer,
    compute_loss: Callable[[], Tensor],
    parameters: list[nn.Parameter],
    largest: float,
) -> None:
    for _ in range(3):
        optimizer.zero_grad()
        compute_loss().backward()  # type: ignore[no-untyped-call, unused-ignore]
        nn.utils.clip_grad_norm_(parameters, largest)
        optimizer.step()
        with torch.no_grad():
            update.step(*batch)
    torch.testing.assert_close(update.flat, torch.cat([p.detach().flatten() for p in parameters]))


def time_envs(num_envs: int, seed: int) -> float:
    """Seconds of one step of all of Gymnasium's environments, those that ours trains in."""
    envs = make_vec(task.ENV, num_envs)
    envs.reset(seed=seed)
    envs.action_space.seed(seed)
    actions = envs.action_space.sample()
    return seconds_of(lambda: envs.step(actions))


@torch.no_grad()
def floor_dqn(num_envs: int, steps: int, seed: int) -> Result:
    """Environment steps per second of DQN's floor; ``steps`` makes no difference."""
    update, batch, _, _ = make_dqn()
    return _floor(time_envs(num_envs, seed) / num_envs, seconds_of(lambda: update.step(*batch)) / task.STEPS_PER_UPDATE)


@torch.no_grad()
def floor_a2c(num_envs: int, steps: int, seed: int) -> Result:
    """Environment steps per second of A2C's floor; ``steps`` makes no difference."""
    update, batch, _, _ = make_a2c(num_envs)
    of_a_step = seconds_of(lambda: update.step(*batch)) / (task.ROLLOUT_LENGTH * num_envs)
    return _floor(time_envs(num_envs, seed) / num_envs, of_a_step)


def _floor(env_seconds: float, update_seconds: float) -> Result:
    speed = 1 / (env_seconds + update_seconds)
    return Result(speed, speed, float("nan"))
