"""Running moments: observations of mean 0 and variance 1, rewards whose discounted sums have variance 1.

The moments are tensors on the device. Whoever trains moves them on; acting alone leaves them as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agents.parts.spaces import Box, Space
from rlloss.core.distributed import sum_over_processes
from rlloss.rl.returns import lambda_returns

_EPSILON = 1e-8  # added to a variance, as in Gymnasium and Stable-Baselines3
_LARGEST = 10.0  # bound of what was normalised, as in Stable-Baselines3


class RunningMoments(nn.Module):
    """Elementwise mean and variance of all values so far, in float64; 0 and 1 before the first.

    Batches are merged as wholes, which gives the moments of all values together, those of all processes.

    Args:
        shape: Shape of a value.

    Reference:
        Chan et al., "Updating formulae and a pairwise algorithm for computing sample variances", 1979.

    Example:
        >>> moments = RunningMoments(())
        >>> moments.update(torch.tensor([1.0, 2.0]))
        >>> moments.update(torch.tensor([6.0]))
        >>> moments.mean.item(), round(moments.variance.item(), 4)
        (3.0, 4.6667)
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, x: Tensor, mask: Tensor | None = None) -> None:
        """Take in values ``(..., *shape)``, of which those count where the mask ``(...)`` is True."""
        x = x.double().reshape(-1, *self.mean.shape)
        weight = x.new_ones(len(x)) if mask is None else mask.flatten().double()
        count = sum_over_processes(weight.sum())
        weight = weight.view(-1, *[1] * self.mean.ndim)
        mean = sum_over_processes((weight * x).sum(0)) / count.clamp(min=1.0)
        variance = sum_over_processes((weight * (x - mean).square()).sum(0)) / count.clamp(min=1.0)
        share = count / (self.count + count).clamp(min=1.0)
        self.variance.lerp_(variance, share).add_((mean - self.mean).square() * share * (1.0 - share))
        self.mean.lerp_(mean, share)
        self.count.add_(count)


class ObservationNormalizer(RunningMoments):
    """Observations less their mean, divided by their standard deviation, within +-10."""

    def forward(self, observation: Tensor) -> Tensor:
        """``(..., *shape)`` to float32 of the same shape."""
        scaled = (observation - self.mean) * (self.variance + _EPSILON).rsqrt()
        return scaled.clamp(-_LARGEST, _LARGEST).float()


def make_normalizer(owner: str, space: Space) -> ObservationNormalizer:
    """The normaliser of a space's observations.

    Raises:
        ValueError: Observations that are no Box of numbers.
    """
    if not isinstance(space, Box) or space.dtype != torch.float32:
        raise ValueError(f"{owner}: normalize_observations needs observations that are a Box of numbers, got {space}")
    return ObservationNormalizer(space.shape)


class RewardNormalizer(nn.Module):
    """Rewards divided by the standard deviation of the discounted sums of rewards, within +-10.

    The sum of an environment runs over the rewards so far in its episode, ``R_t = discount * R_{t-1} + r_t``. It begins
    anew after an episode's last step, however the episode ended, as in Stable-Baselines3. (Gymnasium's wrapper drops it
    at a terminal step already, so that this step's reward counts for the episode after it, and keeps it at a time
    limit.) The mean is not taken off, which would change what is optimal.

    Args:
        num_envs: Environments, N.
        discount: gamma, in [0, 1].
    """

    returns: Tensor

    def __init__(self, num_envs: int, discount: float) -> None:
        super().__init__()
        self.discount = discount
        self.moments = RunningMoments(())
        self.register_buffer("returns", torch.zeros(num_envs, dtype=torch.float64))

    @torch.no_grad()
    def update(self, reward: Tensor, ended: Tensor, mask: Tensor | None = None) -> None:
        """Take in steps ``(T, N)`` in their order: rewards, which ended an episode, and which are transitions."""
        # Returns in reversed time: what was summed before the first step is the value after the last.
        goes_on = ~torch.cat([torch.zeros_like(ended[:1]), ended[:-1]])
        discount, before = self.discount * goes_on.double(), self.returns.expand(reward.shape)
        returns = lambda_returns(reward.double().flip(0), discount.flip(0), before).flip(0)
        self.returns.copy_(torch.where(ended[-1], 0.0, returns[-1]))
        self.moments.update(returns, mask)

    def cut(self) -> None:
        """Begin all sums anew: what follows belongs to other episodes."""
        self.returns.zero_()

    def forward(self, reward: Tensor) -> Tensor:
        """Any shape to float32 of the same shape."""
        return (reward * (self.moments.variance + _EPSILON).rsqrt()).clamp(-_LARGEST, _LARGEST).float()
