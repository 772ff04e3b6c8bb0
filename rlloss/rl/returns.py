"""Returns and advantages of time-major trajectories ``(T, ...)``.

``discount`` is gamma * (1 - terminated), as in RLax. ``next_value[t]`` is the value of the true successor of step t: at
a truncated step that of the final observation, not of the observation after the reset. ``truncated`` stops the
recursion and still bootstraps: time limits are not terminations. The last step always bootstraps.

These are plain differentiable functions; a loss that takes their result detaches it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlloss.core.checks import (
    check_broadcastable,
    check_float,
    check_mask,
    check_ndim,
    check_number,
    check_positive,
    check_same_shape,
    check_tensor,
)
from rlloss.core.reduction import fill_masked, promote


def _prepare(function: str, truncated: Tensor | None, **tensors: Tensor) -> tuple[Tensor, ...]:
    """Check trajectories of one shape ``(T, ...)`` and convert them to the computing dtype."""
    check_float(function, **tensors)
    check_same_shape(function, **tensors)
    for name, tensor in tensors.items():
        check_ndim(function, name, tensor, 1, "(T, ...)")
    if truncated is not None:
        check_tensor(function, truncated=truncated)
        if truncated.dtype != torch.bool:
            raise ValueError(f"{function}: truncated must have dtype torch.bool, got {truncated.dtype}")
        shape = tuple(next(iter(tensors.values())).shape)
        check_broadcastable(function, "truncated", truncated, shape)
    return promote(*tensors.values())


def _trace(like: Tensor, lambda_: float, truncated: Tensor | None) -> Tensor:
    """How much of the next step's return each step takes: lambda, and 0 where the recursion stops."""
    trace = torch.full_like(like, lambda_)
    return trace if truncated is None else trace.masked_fill(truncated, 0.0)


def _reverse_scan(addend: Tensor, factor: Tensor) -> Tensor:
    """``x_t = addend_t + factor_t x_{t+1}`` from the last step to the first, with ``x_T = 0``."""
    if addend.shape[0] == 0:
        return addend
    carry = addend[-1]
    results = [carry]
    for t in range(addend.shape[0] - 2, -1, -1):
        carry = torch.addcmul(addend[t], factor[t], carry)
        results.append(carry)
    return torch.stack(results[::-1])


def lambda_returns(
    reward: Tensor,
    discount: Tensor,
    next_value: Tensor,
    *,
    lambda_: float = 1.0,
    truncated: Tensor | None = None,
) -> Tensor:
    """TD(lambda) returns: ``G_t = r_t + d_t ((1 - lambda) v_{t+1} + lambda G_{t+1})``, ``G_T = v_T``.

    ``lambda_=1`` gives the discounted return, ``lambda_=0`` the one-step target. At a truncated step
    ``G_t = r_t + d_t v_{t+1}``.

    Args:
        reward: ``(T, ...)``, floating-point.
        discount: ``(T, ...)``, gamma * (1 - terminated), in [0, 1].
        next_value: ``(T, ...)``, value of each step's true successor.
        lambda_: In [0, 1].
        truncated: Bool, broadcastable to ``(T, ...)``; True where a time limit cut the episode.

    Returns:
        Returns ``(T, ...)``, in the units of the reward.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, ``lambda_`` outside [0, 1].

    Reference:
        Sutton and Barto, "Reinforcement Learning: An Introduction", 2nd edition, 2018, chapter 12.

    Example:
        >>> lambda_returns(torch.ones(3), torch.full((3,), 0.5), torch.full((3,), 2.0))
        tensor([2., 2., 2.])
    """
    check_number("lambda_returns", "lambda_", lambda_, low=0.0, high=1.0)
    reward, discount, next_value = _prepare(
        "lambda_returns", truncated, reward=reward, discount=discount, next_value=next_value
    )
    trace = _trace(reward, lambda_, truncated)
    # The last step takes its bootstrap value whole, since no return follows it.
    last = torch.arange(reward.shape[0], device=reward.device) == reward.shape[0] - 1
    trace = trace.masked_fill(last.view(-1, *[1] * (reward.ndim - 1)), 0.0)
    return _reverse_scan(reward + discount * (1.0 - trace) * next_value, discount * trace)


def n_step_returns(
    reward: Tensor,
    discount: Tensor,
    next_value: Tensor,
    *,
    n: int,
    truncated: Tensor | None = None,
) -> Tensor:
    """n-step returns: ``G_t = r_t + d_t r_{t+1} + ... + d_t ... d_{t+n-1} v_{t+n}``.

    The sum stops early, with a bootstrap, at a truncated step and at the last step.

    Args:
        reward: ``(T, ...)``, floating-point.
        discount: ``(T, ...)``, gamma * (1 - terminated), in [0, 1].
        next_value: ``(T, ...)``, value of each step's true successor.
        n: Number of rewards, >= 1; n >= T gives the return up to the end.
        truncated: Bool, broadcastable to ``(T, ...)``; True where a time limit cut the episode.

    Returns:
        Returns ``(T, ...)``, in the units of the reward.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, ``n`` < 1.

    Reference:
        Sutton and Barto, "Reinforcement Learning: An Introduction", 2nd edition, 2018, chapter 7.

    Example:
        >>> n_step_returns(torch.ones(3), torch.full((3,), 0.5), torch.full((3,), 4.0), n=2)
        tensor([2.5000, 2.5000, 3.0000])
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n_step_returns: n must be an integer >= 1, got {n!r}")
    reward, discount, next_value = _prepare(
        "n_step_returns", truncated, reward=reward, discount=discount, next_value=next_value
    )
    one_step = reward + discount * next_value
    # A step whose recursion goes on swaps its bootstrap value for the successor's return of one step less.
    factor = (discount * _trace(reward, 1.0, truncated))[:-1]
    returns = one_step
    for _ in range(min(n, reward.shape[0]) - 1):
        longer = one_step[:-1] + factor * (returns[1:] - next_value[:-1])
        returns = torch.cat([longer, one_step[-1:]])
    return returns


def gae(
    reward: Tensor,
    discount: Tensor,
    value: Tensor,
    next_value: Tensor,
    *,
    lambda_: float = 0.95,
    truncated: Tensor | None = None,
) -> Tensor:
    """Generalised advantage estimation: ``A_t = delta_t + d_t lambda A_{t+1}``, ``delta_t = r_t + d_t v_{t+1} - v_t``.

    At a truncated step ``A_t = delta_t``. ``value + gae(...)`` is the matching value target.

    Args:
        reward: ``(T, ...)``, floating-point.
        discount: ``(T, ...)``, gamma * (1 - terminated), in [0, 1].
        value: ``(T, ...)``, value of each step's observation.
        next_value: ``(T, ...)``, value of each step's true successor.
        lambda_: In [0, 1]; 0 has the least variance, 1 the least bias.
        truncated: Bool, broadcastable to ``(T, ...)``; True where a time limit cut the episode.

    Returns:
        Advantages ``(T, ...)``, in the units of the reward.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, ``lambda_`` outside [0, 1].

    Reference:
        Schulman et al., "High-Dimensional Continuous Control Using Generalized Advantage Estimation", ICLR 2016.

    Example:
        >>> gae(torch.ones(2), torch.full((2,), 0.5), torch.zeros(2), torch.zeros(2), lambda_=1.0)
        tensor([1.5000, 1.0000])
    """
    check_number("gae", "lambda_", lambda_, low=0.0, high=1.0)
    reward, discount, value, next_value = _prepare(
        "gae", truncated, reward=reward, discount=discount, value=value, next_value=next_value
    )
    delta = reward + discount * next_value - value
    return _reverse_scan(delta, discount * _trace(reward, lambda_, truncated))


def normalize_advantage(advantage: Tensor, *, mask: Tensor | None = None, eps: float = 1e-8) -> Tensor:
    """Standardise advantages: ``(A - mean) / (std + eps)`` over all elements that the mask keeps.

    The standard deviation is that of the population, so that one element gives 0 and not NaN.

    Args:
        advantage: Any shape, floating-point.
        mask: Bool, broadcastable to ``advantage``; what it removes becomes 0.
        eps: Added to the standard deviation, > 0, in the units of ``advantage``.

    Returns:
        The shape of ``advantage``, without a unit.

    Raises:
        ValueError: A wrong dtype or shape, ``eps`` <= 0.

    Example:
        >>> normalize_advantage(torch.tensor([1.0, 3.0]))
        tensor([-1.,  1.])
    """
    check_positive("normalize_advantage", eps=eps)
    check_float("normalize_advantage", advantage=advantage)
    check_mask("normalize_advantage", mask, tuple(advantage.shape))
    (advantage,) = promote(advantage)
    advantage = fill_masked(mask, advantage)
    count = fill_masked(mask, torch.ones_like(advantage)).sum().clamp(min=1.0)
    centred = fill_masked(mask, advantage - advantage.sum() / count)
    variance = centred.square().sum() / count
    positive = variance > 0
    deviation = torch.where(positive, torch.where(positive, variance, 1.0).sqrt(), 0.0)
    return centred / (deviation + eps)
