"""Returns and advantages of time-major trajectories ``(T, ...)``.

``discount`` is gamma * (1 - terminated), as in RLax. ``next_value[t]`` is the value of the true successor of step t: at
a truncated step that of the final observation, not of the observation after the reset. ``truncated`` stops the
recursion and still bootstraps: time limits are not terminations. The last step always bootstraps. Values have to be
finite everywhere, also where a discount or a lambda leaves them out.

Off-policy, ``log_rho`` is the log-probability of the action taken under the policy that is evaluated minus that under
the policy that acted, and every importance weight belongs to the step whose action it weighs.

These are plain differentiable functions; a loss that takes their result detaches it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rlloss.core.checks import (
    check_broadcastable,
    check_float,
    check_integer,
    check_mask,
    check_ndim,
    check_number,
    check_positive,
    check_same_shape,
    check_shape,
    check_tensor,
)
from rlloss.core.reduction import fill_masked, promote

# So few steps are sooner taken one by one than by doubling.
SHORT = 8


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
        if truncated.ndim != len(shape):  # (T,) would be spread along the batch where that has T elements
            raise ValueError(
                f"{function}: truncated must have {len(shape)} dimensions, as in {shape}, got shape "
                f"{tuple(truncated.shape)}"
            )
        check_broadcastable(function, "truncated", truncated, shape)
    return promote(*tensors.values())


def _stop(trace: Tensor, truncated: Tensor | None) -> Tensor:
    """Set to 0 what truncated steps take of the step after them."""
    return trace if truncated is None else trace.masked_fill(truncated, 0.0)


def _successor(x: Tensor) -> Tensor:
    """The next step's ``x``; 0 at the last step."""
    return torch.cat([x[1:], torch.zeros_like(x[:1])])


def _after(addend: Tensor, factor: Tensor, x: Tensor, steps: int) -> Tensor:
    """``addend_t + factor_t x_{t+steps}``, and ``addend_t`` where that is past the end."""
    return torch.cat([torch.addcmul(addend[:-steps], factor, x[steps:]), addend[-steps:]])


def _reverse_scan(addend: Tensor, factor: Tensor) -> Tensor:
    """``x_t = addend_t + factor_t x_{t+1}`` from the last step to the first, with ``x_T = 0``.

    A step is an affine map, and maps compose: each pass doubles how many steps lie in one map, so that a thousand steps
    take ten passes (Hillis and Steele, "Data parallel algorithms", 1986). Factors are multiplied and never divided by,
    so 0 is one like any other; a product of many stays finite, since 0 of another episode times infinity is NaN.
    """
    length, largest = addend.shape[0], torch.finfo(addend.dtype).max
    if 0 < length <= SHORT:
        carry = addend[-1]
        results = [carry]
        for t in range(length - 2, -1, -1):
            carry = torch.addcmul(addend[t], factor[t], carry)
            results.append(carry)
        return torch.stack(results[::-1])
    steps, factor = 1, factor[:-1]
    while steps < length:
        addend = _after(addend, factor, addend, steps)
        factor = (factor[:-steps] * factor[steps:]).clamp(-largest, largest)
        steps *= 2
    return addend


def _returns(
    reward: Tensor,
    discount: Tensor,
    next_value: Tensor,
    trace: Tensor,
    truncated: Tensor | None,
    *,
    next_q: Tensor | None = None,
) -> Tensor:
    """``G_t = r_t + d_t (v_{t+1} + c_t (G_{t+1} - q_{t+1}))``, with ``c_t`` 0 at truncated steps and the last.

    ``next_q`` is ``next_value`` where none is given.
    """
    trace = _stop(torch.cat([trace[:-1], torch.zeros_like(trace[-1:])]), truncated)
    next_q = next_value if next_q is None else next_q
    return _reverse_scan(reward + discount * (next_value - trace * next_q), discount * trace)


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
    return _returns(reward, discount, next_value, torch.full_like(reward, lambda_), truncated)


def n_step_returns(
    reward: Tensor,
    discount: Tensor,
    next_value: Tensor,
    *,
    n: int,
    lambda_: float = 1.0,
    truncated: Tensor | None = None,
) -> Tensor:
    """n-step returns: ``G_t = r_t + d_t r_{t+1} + ... + d_t ... d_{t+n-1} v_{t+n}``.

    The sum stops early, with a bootstrap, at a truncated step and at the last step. ``lambda_ < 1`` mixes the returns
    of 1 to n steps: :func:`lambda_returns` that stop after n steps.

    Args:
        reward: ``(T, ...)``, floating-point.
        discount: ``(T, ...)``, gamma * (1 - terminated), in [0, 1].
        next_value: ``(T, ...)``, value of each step's true successor.
        n: Number of rewards, >= 1; n >= T gives the return up to the end.
        lambda_: In [0, 1].
        truncated: Bool, broadcastable to ``(T, ...)``; True where a time limit cut the episode.

    Returns:
        Returns ``(T, ...)``, in the units of the reward.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, ``n`` < 1, ``lambda_`` outside [0, 1].

    Reference:
        Sutton and Barto, "Reinforcement Learning: An Introduction", 2nd edition, 2018, chapter 7.

    Example:
        >>> n_step_returns(torch.ones(3), torch.full((3,), 0.5), torch.full((3,), 4.0), n=2)
        tensor([2.5000, 2.5000, 3.0000])
    """
    check_integer("n_step_returns", "n", n, low=1)
    check_number("n_step_returns", "lambda_", lambda_, low=0.0, high=1.0)
    reward, discount, next_value = _prepare(
        "n_step_returns", truncated, reward=reward, discount=discount, next_value=next_value
    )
    factor = _stop(discount * lambda_, truncated)
    # Of all steps but the last, which takes no return of a step after it.
    addend, factor = (reward + (discount - factor) * next_value)[:-1], factor[:-1]
    returns = reward + discount * next_value
    last, left = returns[-1:], min(n, reward.shape[0]) - 1
    if n <= SHORT:
        for _ in range(left):
            returns = torch.cat([torch.addcmul(addend, factor, returns[1:]), last])
        return returns
    # Maps of 1, 2, 4 ... steps, as in the scan; those whose lengths add up to n - 1 go before a last step of one.
    steps, addend = 1, torch.cat([addend, last])
    while left > 0:
        if left % 2 == 1:
            returns = _after(addend, factor, returns, steps)
        if left > 1:
            addend, factor = _after(addend, factor, addend, steps), factor[:-steps] * factor[steps:]
        steps, left = 2 * steps, left // 2
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
    return _reverse_scan(delta, _stop(discount * lambda_, truncated))


def q_lambda_returns(
    reward: Tensor,
    discount: Tensor,
    next_q: Tensor,
    *,
    lambda_: float = 1.0,
    truncated: Tensor | None = None,
) -> Tensor:
    """Peng's Q(lambda): ``G_t = r_t + d_t ((1 - lambda) max_a q(s_{t+1}, a) + lambda G_{t+1})``.

    :func:`lambda_returns` of greedy values. The rewards of exploring actions are not corrected for; Watkins' Q(lambda),
    which stops before them, and Harutyunyan's, which corrects for them, are cases of :func:`off_policy_returns`.

    Args:
        reward: ``(T, ...)``, floating-point.
        discount: ``(T, ...)``, gamma * (1 - terminated), in [0, 1].
        next_q: ``(T, ..., A)``, action values of each step's true successor.
        lambda_: In [0, 1].
        truncated: Bool, broadcastable to ``(T, ...)``; True where a time limit cut the episode.

    Returns:
        Targets ``(T, ...)`` for the values of the actions taken, in the units of the reward.

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype, ``lambda_`` outside [0, 1].

    Reference:
        Peng and Williams, "Incremental Multi-Step Q-Learning", Machine Learning, 1996.

    Example:
        >>> next_q = torch.tensor([[2.0, 0.0], [1.0, 4.0]])
        >>> q_lambda_returns(torch.ones(2), torch.full((2,), 0.5), next_q, lambda_=0.5)
        tensor([2.2500, 3.0000])
    """
    check_number("q_lambda_returns", "lambda_", lambda_, low=0.0, high=1.0)
    check_float("q_lambda_returns", reward=reward, discount=discount, next_q=next_q)
    check_ndim("q_lambda_returns", "next_q", next_q, 2, "(T, ..., A)")
    check_same_shape("q_lambda_returns", reward=reward, discount=discount)
    check_shape("q_lambda_returns", "reward", reward, tuple(next_q.shape[:-1]), "next_q without its action dimension")
    reward, discount, next_value = _prepare(
        "q_lambda_returns", truncated, reward=reward, discount=discount, next_q=next_q.amax(-1)
    )
    return _returns(reward, discount, next_value, torch.full_like(reward, lambda_), truncated)


def upgo_returns(reward: Tensor, discount: Tensor, next_value: Tensor, *, truncated: Tensor | None = None) -> Tensor:
    """Upgoing returns: follow the trajectory while it goes better than expected, else bootstrap.

    ``G_t = r_t + d_t G_{t+1}`` where the next step is at least as good as its state's value,
    ``r_{t+1} + d_{t+1} v_{t+2} >= v_{t+1}``, and ``G_t = r_t + d_t v_{t+1}`` elsewhere, at truncated steps, and at the
    last. In AlphaStar, the policy learns from ``min(rho_t, 1) (G_t - v_t)`` beside the advantages of :func:`vtrace`.

    Args:
        reward: ``(T, ...)``, floating-point.
        discount: ``(T, ...)``, gamma * (1 - terminated), in [0, 1].
        next_value: ``(T, ...)``, value of each step's true successor.
        truncated: Bool, broadcastable to ``(T, ...)``; True where a time limit cut the episode.

    Returns:
        Returns ``(T, ...)``, in the units of the reward.

    Raises:
        ValueError: Shapes that differ, a wrong dtype.

    Reference:
        Vinyals et al., "Grandmaster level in StarCraft II using multi-agent reinforcement learning", Nature, 2019.

    Example:
        >>> upgo_returns(torch.tensor([1.0, 0.0, 5.0]), torch.ones(3), torch.tensor([2.0, 2.0, 2.0]))
        tensor([8., 7., 7.])
        >>> upgo_returns(torch.tensor([1.0, 0.0, 0.0]), torch.ones(3), torch.tensor([2.0, 1.0, 0.0]))
        tensor([3., 1., 0.])
    """
    reward, discount, next_value = _prepare(
        "upgo_returns", truncated, reward=reward, discount=discount, next_value=next_value
    )
    better = _successor(reward + discount * next_value) >= next_value
    return _returns(reward, discount, next_value, better.to(reward.dtype), truncated)


def off_policy_returns(
    trace: Tensor,
    reward: Tensor,
    discount: Tensor,
    q: Tensor,
    next_value: Tensor,
    *,
    truncated: Tensor | None = None,
) -> Tensor:
    """Off-policy returns: ``G_t = r_t + d_t (v_{t+1} + c_{t+1} (G_{t+1} - q_{t+1}))``, ``c`` the trace coefficients.

    At truncated steps and at the last ``G_t = r_t + d_t v_{t+1}``. The coefficient of a step's own action does not
    enter its return, which takes that action as given: that of the next step does, so ``trace[0]`` is not used. With pi
    the policy that is evaluated, mu the one that acted, and ``v_{t+1}`` the expectation of ``q`` under pi:

    * ``pi / mu``: importance sampling, a decision at a time;
    * ``lambda min(1, pi / mu)``: :func:`retrace`;
    * ``lambda pi``: tree backup;
    * ``lambda``: Harutyunyan's Q(lambda);
    * ``lambda`` where the action is greedy and 0 elsewhere, ``v`` the largest action value: Watkins' Q(lambda).

    With state values for ``q``, the trace is a ``lambda`` that may differ from step to step, as in ``lambda_returns``.

    Args:
        trace: ``(T, ...)``, coefficient of each step's action, >= 0, floating-point.
        reward: ``(T, ...)``, floating-point.
        discount: ``(T, ...)``, gamma * (1 - terminated), in [0, 1].
        q: ``(T, ...)``, value of the action taken.
        next_value: ``(T, ...)``, value of each step's true successor under the policy that is evaluated.
        truncated: Bool, broadcastable to ``(T, ...)``; True where a time limit cut the episode.

    Returns:
        Targets ``(T, ...)`` for ``q``, in the units of the reward.

    Raises:
        ValueError: Shapes that differ, a wrong dtype.

    Reference:
        Munos et al., "Safe and Efficient Off-Policy Reinforcement Learning", NeurIPS 2016.

    Example:
        >>> reward, discount, q, next_value = torch.ones(2), torch.full((2,), 0.5), torch.ones(2), torch.full((2,), 4.0)
        >>> off_policy_returns(torch.tensor([1.0, 0.5]), reward, discount, q, next_value)
        tensor([3.5000, 3.0000])
    """
    trace, reward, discount, q, next_value = _prepare(
        "off_policy_returns", truncated, trace=trace, reward=reward, discount=discount, q=q, next_value=next_value
    )
    return _returns(reward, discount, next_value, _successor(trace), truncated, next_q=_successor(q))


def _importance_weight(log_rho: Tensor, clip: float, leak: float = 0.0) -> Tensor:
    """``(1 - leak) min(rho, clip) + leak rho``; the bound is put on the logarithm, so that no gradient overflows."""
    clipped = log_rho.clamp(max=math.log(clip)).exp()
    return clipped if leak == 0.0 else (1.0 - leak) * clipped + leak * log_rho.exp()


def retrace(
    log_rho: Tensor,
    reward: Tensor,
    discount: Tensor,
    q: Tensor,
    next_value: Tensor,
    *,
    lambda_: float = 1.0,
    truncated: Tensor | None = None,
) -> Tensor:
    """Retrace(lambda): :func:`off_policy_returns` with ``c_t = lambda min(1, rho_t)``.

    ``G_t = r_t + d_t (v_{t+1} + c_{t+1} (G_{t+1} - q_{t+1}))``: the weight is that of the next step's action, so
    ``log_rho[0]`` is not used. At truncated steps and at the last ``G_t = r_t + d_t v_{t+1}``.

    Args:
        log_rho: ``(T, ...)``, log pi(a|s) - log mu(a|s) of the action taken, floating-point.
        reward: ``(T, ...)``, floating-point.
        discount: ``(T, ...)``, gamma * (1 - terminated), in [0, 1].
        q: ``(T, ...)``, value of the action taken.
        next_value: ``(T, ...)``, expectation of the action values of each step's true successor under pi.
        lambda_: In [0, 1]; 0 gives the one-step target.
        truncated: Bool, broadcastable to ``(T, ...)``; True where a time limit cut the episode.

    Returns:
        Targets ``(T, ...)`` for ``q``, in the units of the reward.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, ``lambda_`` outside [0, 1].

    Reference:
        Munos et al., "Safe and Efficient Off-Policy Reinforcement Learning", NeurIPS 2016.

    Example:
        >>> log_rho, q, next_value = torch.tensor([0.0, 0.5]).log(), torch.ones(2), torch.full((2,), 4.0)
        >>> retrace(log_rho, torch.ones(2), torch.full((2,), 0.5), q, next_value)
        tensor([3.5000, 3.0000])
    """
    check_number("retrace", "lambda_", lambda_, low=0.0, high=1.0)
    log_rho, reward, discount, q, next_value = _prepare(
        "retrace", truncated, log_rho=log_rho, reward=reward, discount=discount, q=q, next_value=next_value
    )
    trace = lambda_ * _importance_weight(log_rho, 1.0)
    return _returns(reward, discount, next_value, _successor(trace), truncated, next_q=_successor(q))


class VTrace(NamedTuple):
    """What :func:`vtrace` returns: targets of the values, and advantages of the actions taken."""

    target: Tensor
    advantage: Tensor


def vtrace(
    log_rho: Tensor,
    reward: Tensor,
    discount: Tensor,
    value: Tensor,
    next_value: Tensor,
    *,
    lambda_: float = 1.0,
    clip_rho: float = 1.0,
    clip_c: float = 1.0,
    clip_pg_rho: float = 1.0,
    leak: float = 0.0,
    truncated: Tensor | None = None,
) -> VTrace:
    """V-trace: value targets and policy advantages of steps that another policy took.

    ``target_t = v_t + delta_t + d_t c_t (target_{t+1} - v_{t+1})``, with
    ``delta_t = min(rho_t, clip_rho) (r_t + d_t v_{t+1} - v_t)`` and ``c_t = lambda min(rho_t, clip_c)``.

    ``advantage_t = min(rho_t, clip_pg_rho) (r_t + d_t (lambda target_{t+1} + (1 - lambda) v_{t+1}) - v_t)``. At
    truncated steps and at the last, ``c_t`` is 0 and ``next_value`` itself stands for the target that follows.

    On-policy (rho = 1), the targets are :func:`lambda_returns` and the advantages :func:`gae`, where each step's
    successor is the next step's observation. ``leak > 0`` is leaky V-trace: each ``min(rho, clip)`` becomes
    ``(1 - leak) min(rho, clip) + leak rho``, up to importance sampling at ``leak=1``.

    Args:
        log_rho: ``(T, ...)``, log pi(a|s) - log mu(a|s) of the action taken, floating-point.
        reward: ``(T, ...)``, floating-point.
        discount: ``(T, ...)``, gamma * (1 - terminated), in [0, 1].
        value: ``(T, ...)``, value of each step's observation.
        next_value: ``(T, ...)``, value of each step's true successor.
        lambda_: In [0, 1].
        clip_rho: Largest weight of a TD error, > 0; which policy's values are learnt: the larger, the nearer to
            those of pi.
        clip_c: Largest trace coefficient, > 0; how fast they are learnt. The paper has ``clip_c <= clip_rho``.
        clip_pg_rho: Largest weight of an advantage, > 0.
        leak: Share of the unclipped weight, in [0, 1]; the paper's alpha is ``1 - leak``. Weights far above 1 over
            many steps in a row may overflow to NaN.
        truncated: Bool, broadcastable to ``(T, ...)``; True where a time limit cut the episode.

    Returns:
        :class:`VTrace` of targets and advantages ``(T, ...)``, in the units of the reward.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, ``lambda_`` or ``leak`` outside [0, 1], a bound <= 0.

    Reference:
        Espeholt et al., "IMPALA: Scalable Distributed Deep-RL with Importance Weighted Actor-Learner Architectures",
        ICML 2018.
        Zahavy et al., "A Self-Tuning Actor-Critic Algorithm", NeurIPS 2020 (leaky V-trace).

    Example:
        >>> log_rho, reward, discount = torch.tensor([0.5, 2.0]).log(), torch.ones(2), torch.full((2,), 0.5)
        >>> target, advantage = vtrace(log_rho, reward, discount, torch.zeros(2), torch.zeros(2))
        >>> target, advantage
        (tensor([0.7500, 1.0000]), tensor([0.7500, 1.0000]))
    """
    for name, number in (("lambda_", lambda_), ("leak", leak)):
        check_number("vtrace", name, number, low=0.0, high=1.0)
    check_positive("vtrace", clip_rho=clip_rho, clip_c=clip_c, clip_pg_rho=clip_pg_rho)
    log_rho, reward, discount, value, next_value = _prepare(
        "vtrace", truncated, log_rho=log_rho, reward=reward, discount=discount, value=value, next_value=next_value
    )
    rho, c, pg_rho = (_importance_weight(log_rho, clip, leak) for clip in (clip_rho, clip_c, clip_pg_rho))
    delta = rho * (reward + discount * next_value - value)
    error = _reverse_scan(delta, _stop(lambda_ * discount * c, truncated))
    target = value + error
    bootstrap = torch.cat([lambda_ * target[1:] + (1.0 - lambda_) * value[1:], next_value[-1:]])
    if truncated is not None:
        bootstrap = torch.where(truncated, next_value, bootstrap)
    return VTrace(target, pg_rho * (reward + discount * bootstrap - value))


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
    # Once more, since what rounding leaves of equal advantages would be all there is to divide by the deviation.
    centred = fill_masked(mask, centred - centred.sum() / count)
    variance = centred.square().sum() / count
    positive = variance > 0
    deviation = torch.where(positive, torch.where(positive, variance, 1.0).sqrt(), 0.0)
    return centred / (deviation + eps)
