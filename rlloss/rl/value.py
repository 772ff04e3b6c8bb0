"""Value learning: Bellman targets on action values ``(..., A)``, and losses against them.

``discount`` is gamma * (1 - terminated); for n-step targets gamma^n * (1 - terminated) beside the summed reward.
``*_target`` functions are plain and differentiable; the losses detach the target, so gradients reach the predicted
values and nothing else. A discount of 0 multiplies the successor's values, so these have to be finite at an episode's
end too.

In order: targets; the rescaling of values; the loss of action values; :class:`TDLoss` and its kin, which an agent
takes. A distribution in place of each value is the subject of :mod:`rlloss.rl.distributional`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rlloss.core.actions import at_action
from rlloss.core.checks import (
    check_float,
    check_indices,
    check_labels,
    check_mask,
    check_ndim,
    check_non_negative,
    check_number,
    check_positive,
    check_range,
    check_real,
    check_same_shape,
    check_shape,
)
from rlloss.core.module import show_hyper_parameters
from rlloss.core.reduction import Reduction, fill_masked, promote
from rlloss.supervised.regression import HuberLoss, RegressionLoss, mse_loss


def _check_bootstrap(function: str, reward: Tensor, discount: Tensor, next_q: Tensor) -> None:
    check_float(function, reward=reward, discount=discount, next_q=next_q)
    check_ndim(function, "next_q", next_q, 1, "(..., A)")
    check_same_shape(function, reward=reward, discount=discount)
    check_shape(function, "reward", reward, tuple(next_q.shape[:-1]), "next_q without its action dimension")


def _check_action(
    function: str, name: str, action: Tensor, q: Tensor, mask: Tensor | None = None, *, of: str = "q"
) -> None:
    check_indices(function, **{name: action})
    check_shape(function, name, action, tuple(q.shape[:-1]), f"{of} without its action dimension")
    check_labels(function, name, action, q.shape[-1], mask)


def td_target(reward: Tensor, discount: Tensor, next_value: Tensor) -> Tensor:
    """TD(0) target of state values: ``r + d v(s')``; of action values too, as QV-learning has it.

    Args:
        reward: ``(...)``, floating-point.
        discount: ``(...)``, gamma * (1 - terminated), in [0, 1].
        next_value: ``(...)``, value of the successor.

    Returns:
        Targets ``(...)``, in the units of the reward.

    Raises:
        ValueError: Shapes that differ, a wrong dtype.

    Reference:
        Sutton, "Learning to Predict by the Methods of Temporal Differences", Machine Learning, 1988.
        Wiering, "QV(lambda)-learning: A New On-policy Reinforcement Learning Algorithm", EWRL 2005.

    Example:
        >>> td_target(torch.tensor([1.0]), torch.tensor([0.5]), torch.tensor([4.0]))
        tensor([3.])
    """
    check_float("td_target", reward=reward, discount=discount, next_value=next_value)
    check_same_shape("td_target", reward=reward, discount=discount, next_value=next_value)
    reward, discount, next_value = promote(reward, discount, next_value)
    return reward + discount * next_value


def q_learning_target(reward: Tensor, discount: Tensor, next_q: Tensor, *, selector_q: Tensor | None = None) -> Tensor:
    """Q-learning target: ``r + d max_a q(s', a)``; double Q-learning when a selector is given.

    With ``selector_q`` the target is ``r + d next_q[argmax_a selector_q]``: one network chooses the action, another
    values it.

    Args:
        reward: ``(...)``, floating-point.
        discount: ``(...)``, gamma * (1 - terminated), in [0, 1].
        next_q: ``(..., A)``, action values of the successor, by the target network.
        selector_q: ``(..., A)``, action values of the successor, by the online network.

    Returns:
        Targets ``(...)``, in the units of the reward.

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype.

    Reference:
        Watkins and Dayan, "Q-learning", Machine Learning, 1992.
        van Hasselt et al., "Deep Reinforcement Learning with Double Q-learning", AAAI 2016.

    Example:
        >>> reward, discount, next_q = torch.tensor([1.0]), torch.tensor([0.5]), torch.tensor([[2.0, 4.0]])
        >>> q_learning_target(reward, discount, next_q)
        tensor([3.])
        >>> q_learning_target(reward, discount, next_q, selector_q=torch.tensor([[1.0, 0.0]]))
        tensor([2.])
    """
    _check_bootstrap("q_learning_target", reward, discount, next_q)
    if selector_q is None:
        reward, discount, next_q = promote(reward, discount, next_q)
        return reward + discount * next_q.amax(-1)
    check_float("q_learning_target", selector_q=selector_q)
    check_same_shape("q_learning_target", next_q=next_q, selector_q=selector_q)
    reward, discount, next_q = promote(reward, discount, next_q)
    return reward + discount * at_action(next_q, selector_q.argmax(-1))


def sarsa_target(reward: Tensor, discount: Tensor, next_q: Tensor, next_action: Tensor) -> Tensor:
    """SARSA's target: ``r + d q(s', a')`` with the action that was taken next.

    Args:
        reward: ``(...)``, floating-point.
        discount: ``(...)``, gamma * (1 - terminated), in [0, 1].
        next_q: ``(..., A)``, action values of the successor.
        next_action: ``(...)``, the action taken there, integers in [0, A).

    Returns:
        Targets ``(...)``, in the units of the reward.

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype.

    Reference:
        Rummery and Niranjan, "On-line Q-learning Using Connectionist Systems", 1994.

    Example:
        >>> next_q = torch.tensor([[2.0, 4.0]])
        >>> sarsa_target(torch.tensor([1.0]), torch.tensor([0.5]), next_q, torch.tensor([0]))
        tensor([2.])
    """
    _check_bootstrap("sarsa_target", reward, discount, next_q)
    _check_action("sarsa_target", "next_action", next_action, next_q)
    reward, discount, next_q = promote(reward, discount, next_q)
    return reward + discount * at_action(next_q, next_action)


def expected_sarsa_target(reward: Tensor, discount: Tensor, next_q: Tensor, next_probs: Tensor) -> Tensor:
    """Expected SARSA's target: ``r + d sum_a pi(a|s') q(s', a)``.

    The greedy policy's probabilities give :func:`q_learning_target`.

    Args:
        reward: ``(...)``, floating-point.
        discount: ``(...)``, gamma * (1 - terminated), in [0, 1].
        next_q: ``(..., A)``, action values of the successor.
        next_probs: ``(..., A)``, the policy's probabilities there. Where one is 0 the value does not count, be it
            infinite.

    Returns:
        Targets ``(...)``, in the units of the reward.

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype.

    Reference:
        van Seijen et al., "A Theoretical and Empirical Analysis of Expected Sarsa", ADPRL 2009.

    Example:
        >>> next_q, next_probs = torch.tensor([[2.0, 4.0]]), torch.tensor([[0.5, 0.5]])
        >>> expected_sarsa_target(torch.tensor([1.0]), torch.tensor([0.5]), next_q, next_probs)
        tensor([2.5000])
    """
    _check_bootstrap("expected_sarsa_target", reward, discount, next_q)
    check_float("expected_sarsa_target", next_probs=next_probs)
    check_same_shape("expected_sarsa_target", next_q=next_q, next_probs=next_probs)
    check_range("expected_sarsa_target", "next_probs", next_probs, None, high=1.0)
    reward, discount, next_q, next_probs = promote(reward, discount, next_q, next_probs)
    return reward + discount * _expectation(next_probs, next_q)


def _expectation(probs: Tensor, values: Tensor) -> Tensor:
    return (probs * torch.where(probs > 0, values, 0.0)).sum(-1)


def soft_q_target(reward: Tensor, discount: Tensor, next_q: Tensor, *, temperature: float) -> Tensor:
    """Soft Q-learning's target: ``r + d T log sum_a exp(q(s', a) / T)``.

    The soft maximum is the value plus T times the entropy of the policy ``softmax(q / T)``; for T to 0 it is the
    maximum. An action with a value of -inf is impossible and counts nothing.

    Args:
        reward: ``(...)``, floating-point.
        discount: ``(...)``, gamma * (1 - terminated), in [0, 1].
        next_q: ``(..., A)``, action values of the successor.
        temperature: T, > 0, in the units of the reward.

    Returns:
        Targets ``(...)``, in the units of the reward.

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype, ``temperature`` <= 0.

    Reference:
        Haarnoja et al., "Reinforcement Learning with Deep Energy-Based Policies", ICML 2017.

    Example:
        >>> soft_q_target(torch.tensor([1.0]), torch.tensor([1.0]), torch.tensor([[2.0, 2.0]]), temperature=1.0)
        tensor([3.6931])
    """
    check_positive("soft_q_target", temperature=temperature)
    _check_bootstrap("soft_q_target", reward, discount, next_q)
    reward, discount, next_q = promote(reward, discount, next_q)
    return reward + discount * _soft_maximum(next_q, temperature)


def _soft_maximum(q: Tensor, temperature: float) -> Tensor:
    return temperature * torch.logsumexp(q / temperature, dim=-1)


def munchausen_target(
    reward: Tensor,
    discount: Tensor,
    q: Tensor,
    action: Tensor,
    next_q: Tensor,
    *,
    temperature: float = 0.03,
    alpha: float = 0.9,
    clip: float = -1.0,
) -> Tensor:
    """Munchausen target: ``r + alpha max(clip, T log pi(a|s)) + d T log sum_a' exp(q(s', a') / T)``.

    ``pi = softmax(q / T)``: soft Q-learning that rewards the agent for being sure of what it did. ``alpha = 0`` gives
    :func:`soft_q_target`.

    Args:
        reward: ``(...)``, floating-point.
        discount: ``(...)``, gamma * (1 - terminated), in [0, 1].
        q: ``(..., A)``, action values where the action was taken, by the target network.
        action: ``(...)``, the action taken, integers in [0, A).
        next_q: ``(..., A)``, action values of the successor, by the target network.
        temperature: T, > 0, in the units of the reward.
        alpha: Share of the logarithm that is added to the reward, in [0, 1].
        clip: Lowest value of ``T log pi``, <= 0.

    Returns:
        Targets ``(...)``, in the units of the reward.

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype, a hyper-parameter out of range.

    Reference:
        Vieillard, Pietquin and Geist, "Munchausen Reinforcement Learning", NeurIPS 2020.

    Example:
        >>> reward, discount, q = torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([[0.0, 0.0]])
        >>> munchausen_target(reward, discount, q, torch.tensor([0]), q, temperature=1.0)
        tensor([0.3762])
    """
    _check_munchausen("munchausen_target", temperature, alpha, clip)
    _check_bootstrap("munchausen_target", reward, discount, next_q)
    check_float("munchausen_target", q=q)
    check_same_shape("munchausen_target", q=q, next_q=next_q)
    _check_action("munchausen_target", "action", action, q)
    reward, discount, q, next_q = promote(reward, discount, q, next_q)
    bonus = temperature * at_action(torch.log_softmax(q / temperature, dim=-1), action)
    return reward + alpha * bonus.clamp(min=clip) + discount * _soft_maximum(next_q, temperature)


def _check_munchausen(function: str, temperature: float, alpha: float, clip: float) -> None:
    check_positive(function, temperature=temperature)
    check_number(function, "alpha", alpha, low=0.0, high=1.0)
    check_number(function, "clip", clip, high=0.0)


def advantage_learning_target(
    reward: Tensor,
    discount: Tensor,
    q: Tensor,
    action: Tensor,
    next_q: Tensor,
    *,
    alpha: float = 0.9,
    persistent: bool = False,
) -> Tensor:
    """Advantage learning: ``y - alpha (max_b q(s, b) - q(s, a))`` with Q-learning's ``y = r + d max_b q(s', b)``.

    It widens the gap between the best action and the others. ``persistent=True`` is persistent advantage learning,
    ``y - alpha min(max_b q(s, b) - q(s, a), max_b q(s', b) - q(s', a))``, which spares an action that is good to
    repeat; the second gap is left out where the discount is 0.

    Args:
        reward: ``(...)``, floating-point.
        discount: ``(...)``, gamma * (1 - terminated), in [0, 1].
        q: ``(..., A)``, action values where the action was taken, by the target network.
        action: ``(...)``, the action taken, integers in [0, A).
        next_q: ``(..., A)``, action values of the successor, by the target network.
        alpha: Share of the gap that is taken away, in [0, 1]; 0 gives Q-learning.
        persistent: Whether an action that is good to repeat is spared.

    Returns:
        Targets ``(...)``, in the units of the reward.

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype, ``alpha`` outside [0, 1].

    Reference:
        Baird, "Reinforcement Learning Through Gradient Descent", 1999.
        Bellemare et al., "Increasing the Action Gap: New Operators for Reinforcement Learning", AAAI 2016.

    Example:
        >>> reward, discount, q = torch.tensor([1.0]), torch.tensor([0.5]), torch.tensor([[2.0, 4.0]])
        >>> advantage_learning_target(reward, discount, q, torch.tensor([0]), q, alpha=0.5)
        tensor([2.])
    """
    check_number("advantage_learning_target", "alpha", alpha, low=0.0, high=1.0)
    _check_bootstrap("advantage_learning_target", reward, discount, next_q)
    check_float("advantage_learning_target", q=q)
    check_same_shape("advantage_learning_target", q=q, next_q=next_q)
    _check_action("advantage_learning_target", "action", action, q)
    reward, discount, q, next_q = promote(reward, discount, q, next_q)
    gap = _gap(q, action)
    if persistent:
        gap = torch.where(discount > 0, torch.minimum(gap, _gap(next_q, action)), gap)
    return reward + discount * next_q.amax(-1) - alpha * gap


def _gap(q: Tensor, action: Tensor) -> Tensor:
    """By how much the best action is better."""
    return q.amax(-1) - at_action(q, action)


def persistent_target(reward: Tensor, discount: Tensor, action: Tensor, next_q: Tensor, *, alpha: float) -> Tensor:
    """Target of a policy that repeats actions: ``r + d ((1 - alpha) max_b q(s', b) + alpha q(s', a))``.

    Args:
        reward: ``(...)``, floating-point.
        discount: ``(...)``, gamma * (1 - terminated), in [0, 1].
        action: ``(...)``, the action taken, integers in [0, A).
        next_q: ``(..., A)``, action values of the successor.
        alpha: How much of the successor's value is that of repeating the action, in [0, 1]; 0 gives Q-learning.

    Returns:
        Targets ``(...)``, in the units of the reward.

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype, ``alpha`` outside [0, 1].

    Reference:
        Bellemare et al., "Increasing the Action Gap: New Operators for Reinforcement Learning", AAAI 2016.

    Example:
        >>> reward, discount, next_q = torch.tensor([1.0]), torch.tensor([0.5]), torch.tensor([[2.0, 4.0]])
        >>> persistent_target(reward, discount, torch.tensor([0]), next_q, alpha=0.5)
        tensor([2.5000])
    """
    check_number("persistent_target", "alpha", alpha, low=0.0, high=1.0)
    _check_bootstrap("persistent_target", reward, discount, next_q)
    _check_action("persistent_target", "action", action, next_q)
    reward, discount, next_q = promote(reward, discount, next_q)
    return reward + discount * (next_q.amax(-1) - alpha * _gap(next_q, action))


def signed_hyperbolic(x: Tensor, *, eps: float = 1e-3) -> Tensor:
    """Compress large values: ``h(x) = sign(x) (sqrt(|x| + 1) - 1) + eps x``.

    Args:
        x: Any shape, floating-point.
        eps: Slope that is left for large values, >= 0.

    Returns:
        The shape of ``x``.

    Raises:
        ValueError: A wrong dtype, ``eps`` < 0.

    Reference:
        Pohlen et al., "Observe and Look Further: Achieving Consistent Performance on Atari", 2018.

    Example:
        >>> signed_hyperbolic(torch.tensor([-8.0, 0.0, 99.0]), eps=0.0)
        tensor([-2.,  0.,  9.])
    """
    check_non_negative("signed_hyperbolic", eps=eps)
    check_float("signed_hyperbolic", x=x)
    (x,) = promote(x)
    # The same as the formula, without its cancellation near 0 and with its derivative there.
    return x / ((x.abs() + 1.0).sqrt() + 1.0) + eps * x


def signed_parabolic(x: Tensor, *, eps: float = 1e-3) -> Tensor:
    """Inverse of :func:`signed_hyperbolic`: ``sign(x) (u^2 - 1)`` with ``eps u^2 + u = 1 + eps + |x|``.

    Args:
        x: Any shape, floating-point.
        eps: That of the function it undoes, >= 0.

    Returns:
        The shape of ``x``.

    Raises:
        ValueError: A wrong dtype, ``eps`` < 0.

    Reference:
        Pohlen et al., "Observe and Look Further: Achieving Consistent Performance on Atari", 2018.

    Example:
        >>> signed_parabolic(torch.tensor([-2.0, 0.0, 9.0]), eps=0.0)
        tensor([-8.,  0., 99.])
    """
    check_non_negative("signed_parabolic", eps=eps)
    check_float("signed_parabolic", x=x)
    (x,) = promote(x)
    # u - 1, with the sign of x, by the form of the quadratic's solution that does not cancel.
    linear = 1.0 + 2.0 * eps
    root = 2.0 * x / (linear + (linear**2 + 4.0 * eps * x.abs()).sqrt())
    return root * (root.abs() + 2.0)


def _chosen_value(function: str, name: str, q: Tensor, action: Tensor, mask: Tensor | None) -> Tensor:
    """The values of the actions taken, ``(...)``; ``name`` is what the caller calls ``q``."""
    check_float(function, **{name: q})
    check_ndim(function, name, q, 1, "(..., A)")
    check_mask(function, mask, tuple(q.shape[:-1]))
    _check_action(function, "action", action, q, mask, of=name)
    # A masked-out action may be any number, a padding of -1 for instance.
    return at_action(q, fill_masked(mask, action, 0))


def q_value_loss(
    q: Tensor,
    action: Tensor,
    target: Tensor,
    *,
    criterion: Callable[..., Tensor] = mse_loss,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Regression of the value of the action taken on its Bellman target: ``criterion(q[a], target)``.

    With the default criterion this is the source article's Q-value loss, ``E[(Q(s, a) - target)^2]`` without 1/2.

    Args:
        q: ``(..., A)``, predicted action values, floating-point.
        action: ``(...)``, actions taken, integers in [0, A).
        target: ``(...)``, Bellman targets; no gradient flows to them.
        criterion: Any elementwise regression function of :mod:`rlloss.functional`.
        weight: Factor per element, such as the importance weights of prioritised replay.
        mask: Bool, broadcastable to ``action``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or ``(...)`` for ``"none"``.

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype, an unknown reduction.

    Reference:
        Mnih et al., "Human-level control through deep reinforcement learning", Nature, 2015.

    Example:
        >>> q_value_loss(torch.tensor([[1.0, 5.0]]), torch.tensor([1]), torch.tensor([2.0]))
        tensor(9.)
    """
    chosen = _chosen_value("q_value_loss", "q", q, action, mask)
    check_real("q_value_loss", target=target)
    check_shape("q_value_loss", "target", target, tuple(action.shape), "the shape of action")
    return criterion(chosen, target.detach(), weight=weight, mask=mask, reduction=reduction)


class ValueLossOutput(NamedTuple):
    """What a value loss returns: the loss, and the detached TD error of each sample, ``target - q``.

    With ``rescale`` the error is that of the rescaled values, which is what the loss is made of.
    """

    loss: Tensor
    td_error: Tensor


class ValueLoss(nn.Module, ABC):
    """How a Q-network's outputs are read and how they learn.

    The loss owns the meaning of the outputs: an agent asks it how many outputs an action has, which action values the
    outputs mean, and what the loss against a Bellman target is. It never asks which loss it has.

    Attributes:
        outputs_per_action: How many numbers the network gives per action, K. Outputs have shape ``(..., A)``
            where K is 1 and ``(..., A, K)`` elsewhere.
        double: Whether the online network chooses the successor's action (double Q-learning).
        needs_target_outputs: Whether the target network's outputs where the action was taken are wanted.
        needs_next_action: Whether the action that was taken next is wanted.
    """

    outputs_per_action: int = 1
    double: bool = False  # type: ignore[assignment]  # hides Module.double(), a cast that no value loss needs
    needs_target_outputs: bool = False
    needs_next_action: bool = False

    def extra_repr(self) -> str:
        """The hyper-parameters, as in the constructor call."""
        return show_hyper_parameters(self)

    @abstractmethod
    def q_values(self, outputs: Tensor) -> Tensor:
        """Action values ``(..., A)`` of the network's outputs."""

    @abstractmethod
    def forward(
        self,
        outputs: Tensor,
        action: Tensor,
        reward: Tensor,
        discount: Tensor,
        next_outputs: Tensor,
        *,
        selector_outputs: Tensor | None = None,
        target_outputs: Tensor | None = None,
        next_action: Tensor | None = None,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> ValueLossOutput:
        """Loss of ``outputs`` against the Bellman target.

        Args:
            outputs: Online network at the observation.
            action: ``(...)``, actions taken.
            reward: ``(...)``, reward, or the discounted sum of n rewards.
            discount: ``(...)``, gamma^n * (1 - terminated).
            next_outputs: Target network at the successor.
            selector_outputs: Online network at the successor; wanted when ``double`` is true.
            target_outputs: Target network at the observation; wanted when ``needs_target_outputs`` is true.
            next_action: ``(...)``, the action taken at the successor; wanted when ``needs_next_action`` is true.
            weight: ``(...)``, factor per sample.
            mask: ``(...)``, bool; False removes.
        """

    def _chosen(self, outputs: Tensor, action: Tensor, mask: Tensor | None) -> Tensor:
        """The outputs of the actions taken: ``(...)``, or ``(..., K)`` where an action has several."""
        name, number = type(self).__name__, self.outputs_per_action
        if number == 1:
            return _chosen_value(name, "outputs", outputs, action, mask)
        check_float(name, outputs=outputs)
        check_indices(name, action=action)
        if outputs.ndim != action.ndim + 2 or outputs.shape[-1] != number:
            raise ValueError(
                f"{name}: outputs must have shape (..., A, {number}), got outputs {tuple(outputs.shape)} with action "
                f"{tuple(action.shape)}"
            )
        check_mask(name, mask, tuple(outputs.shape[:-2]))
        _check_action(name, "action", action, outputs[..., 0], mask, of="outputs")
        return at_action(outputs, fill_masked(mask, action, 0))

    def _check_wanted(self, outputs: Tensor, **others: tuple[bool, Tensor | None]) -> None:
        """Raise a ValueError unless each further output of a network that is wanted is there, and fits the first."""
        name = type(self).__name__
        for key, (wanted, tensor) in others.items():
            if not wanted:
                continue
            if tensor is None:
                raise ValueError(f"{name}: {key} must be given, see ValueLoss.forward")
            check_float(name, **{key: tensor})
            check_same_shape(name, **{"outputs": outputs, key: tensor})


class Successor(NamedTuple):
    """What a Bellman target is made of, all of it constant; the values are in the units of the reward.

    Attributes:
        action: ``(...)``, action taken.
        reward: ``(...)``, reward, or the discounted sum of n rewards.
        discount: ``(...)``, gamma^n * (1 - terminated).
        next_q: ``(..., A)``, values of the successor by the target network.
        selector_q: The same by the online network, None unless the loss is double.
        q: ``(..., A)``, values where the action was taken by the target network, None unless the loss needs them.
        next_action: ``(...)``, the action taken next, None unless the loss needs it.
    """

    action: Tensor
    reward: Tensor
    discount: Tensor
    next_q: Tensor
    selector_q: Tensor | None
    q: Tensor | None
    next_action: Tensor | None


class TDLoss(ValueLoss):
    """Temporal-difference loss with any regression criterion: ``criterion(q(s, a), r + d max_a' q(s', a'))``.

    The maximum becomes double Q-learning's choice with ``double=True``. A subclass has a target of its own,
    :meth:`target`, and the rest is the same: SARSA, Munchausen and so on.

    With ``rescale=True`` the outputs are values under :func:`signed_hyperbolic` h, and learn
    ``h(r + d max_a' h^-1(q(s', a')))``, which keeps returns of any size near 1 without clipping rewards. With a
    criterion that has several outputs per value (``HLGaussLoss``) the network predicts a distribution of each.

    Args:
        criterion: How the error is measured, any :class:`~rlloss.supervised.regression.RegressionLoss`.
            Its ``reduction`` is the loss's.
        double: Let the online network choose the successor's action.
        rescale: Whether the outputs are values under ``signed_hyperbolic``.

    Raises:
        TypeError: ``criterion`` is not a regression loss.
        ValueError: ``double`` without ``selector_outputs``; shapes that do not fit.

    Reference:
        Mnih et al., "Human-level control through deep reinforcement learning", Nature, 2015.
        van Hasselt et al., "Deep Reinforcement Learning with Double Q-learning", AAAI 2016.
        Pohlen et al., "Observe and Look Further: Achieving Consistent Performance on Atari", 2018, for ``rescale``.

    Example:
        >>> q, next_q = torch.tensor([[1.0, 5.0]]), torch.tensor([[2.0, 4.0]])
        >>> action, reward, discount = torch.tensor([1]), torch.tensor([1.0]), torch.tensor([0.5])
        >>> TDLoss(HuberLoss(delta=1.0))(q, action, reward, discount, next_q)
        ValueLossOutput(loss=tensor(1.5000), td_error=tensor([-2.]))
    """

    def __init__(self, criterion: RegressionLoss | None = None, *, double: bool = False, rescale: bool = False) -> None:
        super().__init__()
        criterion = HuberLoss() if criterion is None else criterion
        if not isinstance(criterion, RegressionLoss):
            raise TypeError(
                f"{type(self).__name__}: criterion must be a RegressionLoss, got {type(criterion).__name__}"
            )
        self.criterion = criterion
        self.double = double
        self.rescale = rescale
        self.outputs_per_action = criterion.num_outputs

    def target(self, successor: Successor) -> Tensor:
        """The Bellman target ``(...)``, in the units of the reward: here Q-learning's."""
        s = successor
        return q_learning_target(s.reward, s.discount, s.next_q, selector_q=s.selector_q)

    def q_values(self, outputs: Tensor) -> Tensor:
        """What the criterion makes of the outputs."""
        value = self.criterion.value(outputs)
        return signed_parabolic(value) if self.rescale else value

    def forward(
        self,
        outputs: Tensor,
        action: Tensor,
        reward: Tensor,
        discount: Tensor,
        next_outputs: Tensor,
        *,
        selector_outputs: Tensor | None = None,
        target_outputs: Tensor | None = None,
        next_action: Tensor | None = None,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> ValueLossOutput:
        """See :meth:`ValueLoss.forward`."""
        chosen = self._chosen(outputs, action, mask)
        self._check_wanted(
            outputs,
            next_outputs=(True, next_outputs),
            selector_outputs=(self.double, selector_outputs),
            target_outputs=(self.needs_target_outputs, target_outputs),
        )
        if self.needs_next_action:
            if next_action is None:
                raise ValueError(f"{type(self).__name__}: next_action must be given, the action taken at the successor")
            check_indices(type(self).__name__, next_action=next_action)
            check_same_shape(type(self).__name__, action=action, next_action=next_action)
        with torch.no_grad():
            successor = Successor(
                fill_masked(mask, action, 0),
                reward,
                discount,
                promote(self.q_values(next_outputs))[0],
                self._values_if(self.double, selector_outputs),
                self._values_if(self.needs_target_outputs, target_outputs),
                fill_masked(mask, next_action, 0) if self.needs_next_action and next_action is not None else None,
            )
            target = self.target(successor)
            if self.rescale:
                target = signed_hyperbolic(target)
            td_error = fill_masked(mask, target - self.criterion.value(chosen))
        return ValueLossOutput(self.criterion(chosen, target, weight=weight, mask=mask), td_error)

    def _values_if(self, wanted: bool, outputs: Tensor | None) -> Tensor | None:
        return promote(self.q_values(outputs))[0] if wanted and outputs is not None else None


class SarsaLoss(TDLoss):
    """SARSA: :func:`sarsa_target` with the action that was taken next; learns the values of the policy that acted.

    Args:
        criterion: How the error is measured.
        rescale: As in :class:`TDLoss`.

    Reference:
        Rummery and Niranjan, "On-line Q-learning Using Connectionist Systems", 1994.

    Example:
        >>> q, action, one = torch.tensor([[1.0, 5.0]]), torch.tensor([0]), torch.tensor([1.0])
        >>> SarsaLoss()(q, action, one, one, q, next_action=torch.tensor([0])).td_error
        tensor([1.])
    """

    needs_next_action = True

    def __init__(self, criterion: RegressionLoss | None = None, *, rescale: bool = False) -> None:
        super().__init__(criterion, rescale=rescale)

    def target(self, successor: Successor) -> Tensor:
        """:func:`sarsa_target`."""
        s = successor
        assert s.next_action is not None
        return sarsa_target(s.reward, s.discount, s.next_q, s.next_action)


class ExpectedSarsaLoss(TDLoss):
    """Expected SARSA of the epsilon-greedy policy: :func:`expected_sarsa_target`.

    Args:
        criterion: How the error is measured.
        epsilon: Probability of a random action of the policy whose values are learned, in [0, 1]; 0 is Q-learning.
        double: Let the online network say which action is greedy.
        rescale: As in :class:`TDLoss`.

    Raises:
        ValueError: ``epsilon`` outside [0, 1].

    Reference:
        van Seijen et al., "A Theoretical and Empirical Analysis of Expected Sarsa", ADPRL 2009.

    Example:
        >>> q, action, one = torch.tensor([[1.0, 5.0]]), torch.tensor([0]), torch.tensor([1.0])
        >>> ExpectedSarsaLoss(epsilon=0.5)(q, action, one, one, q).td_error
        tensor([4.])
    """

    def __init__(
        self,
        criterion: RegressionLoss | None = None,
        *,
        epsilon: float = 0.05,
        double: bool = False,
        rescale: bool = False,
    ) -> None:
        super().__init__(criterion, double=double, rescale=rescale)
        check_number("ExpectedSarsaLoss", "epsilon", epsilon, low=0.0, high=1.0)
        self.epsilon = epsilon

    def target(self, successor: Successor) -> Tensor:
        """:func:`expected_sarsa_target`."""
        s = successor
        selector = s.next_q if s.selector_q is None else s.selector_q
        greedy = torch.zeros_like(selector).scatter(-1, selector.argmax(-1, keepdim=True), 1.0 - self.epsilon)
        return expected_sarsa_target(s.reward, s.discount, s.next_q, greedy + self.epsilon / selector.shape[-1])


class SoftQLoss(TDLoss):
    """Soft Q-learning: :func:`soft_q_target`.

    Args:
        criterion: How the error is measured.
        temperature: T, > 0, in the units of the reward.
        rescale: As in :class:`TDLoss`.

    Raises:
        ValueError: ``temperature`` <= 0.

    Reference:
        Haarnoja et al., "Reinforcement Learning with Deep Energy-Based Policies", ICML 2017.

    Example:
        >>> q, action, one = torch.tensor([[2.0, 2.0]]), torch.tensor([0]), torch.tensor([1.0])
        >>> SoftQLoss(temperature=1.0)(q, action, one, one, q).td_error
        tensor([1.6931])
    """

    def __init__(
        self, criterion: RegressionLoss | None = None, *, temperature: float = 0.03, rescale: bool = False
    ) -> None:
        super().__init__(criterion, rescale=rescale)
        check_positive("SoftQLoss", temperature=temperature)
        self.temperature = temperature

    def target(self, successor: Successor) -> Tensor:
        """:func:`soft_q_target`."""
        s = successor
        return soft_q_target(s.reward, s.discount, s.next_q, temperature=self.temperature)


class MunchausenLoss(TDLoss):
    """Munchausen DQN: :func:`munchausen_target`.

    Args:
        criterion: How the error is measured.
        temperature: T, > 0, in the units of the reward.
        alpha: Share of ``T log pi(a|s)`` that is added to the reward, in [0, 1].
        clip: Lowest value of ``T log pi(a|s)``, <= 0.
        rescale: As in :class:`TDLoss`.

    Raises:
        ValueError: A hyper-parameter out of range.

    Reference:
        Vieillard, Pietquin and Geist, "Munchausen Reinforcement Learning", NeurIPS 2020.

    Example:
        >>> q, action, one = torch.tensor([[2.0, 2.0]]), torch.tensor([0]), torch.tensor([1.0])
        >>> MunchausenLoss(temperature=1.0, alpha=0.5)(q, action, one, one, q, target_outputs=q).td_error
        tensor([1.3466])
    """

    needs_target_outputs = True

    def __init__(
        self,
        criterion: RegressionLoss | None = None,
        *,
        temperature: float = 0.03,
        alpha: float = 0.9,
        clip: float = -1.0,
        rescale: bool = False,
    ) -> None:
        super().__init__(criterion, rescale=rescale)
        _check_munchausen("MunchausenLoss", temperature, alpha, clip)
        self.temperature = temperature
        self.alpha = alpha
        self.clip = clip

    def target(self, successor: Successor) -> Tensor:
        """:func:`munchausen_target`."""
        s = successor
        assert s.q is not None
        return munchausen_target(
            s.reward,
            s.discount,
            s.q,
            s.action,
            s.next_q,
            temperature=self.temperature,
            alpha=self.alpha,
            clip=self.clip,
        )


class AdvantageLearningLoss(TDLoss):
    """Advantage learning, persistent or not: :func:`advantage_learning_target`.

    Args:
        criterion: How the error is measured.
        alpha: Share of the action gap that is taken away, in [0, 1].
        persistent: Whether an action that is good to repeat is spared.
        rescale: As in :class:`TDLoss`.

    Raises:
        ValueError: ``alpha`` outside [0, 1].

    Reference:
        Bellemare et al., "Increasing the Action Gap: New Operators for Reinforcement Learning", AAAI 2016.

    Example:
        >>> q, action, one = torch.tensor([[2.0, 4.0]]), torch.tensor([0]), torch.tensor([1.0])
        >>> AdvantageLearningLoss(alpha=0.5)(q, action, one, one, q, target_outputs=q).td_error
        tensor([2.])
    """

    needs_target_outputs = True

    def __init__(
        self,
        criterion: RegressionLoss | None = None,
        *,
        alpha: float = 0.9,
        persistent: bool = False,
        rescale: bool = False,
    ) -> None:
        super().__init__(criterion, rescale=rescale)
        check_number("AdvantageLearningLoss", "alpha", alpha, low=0.0, high=1.0)
        self.alpha = alpha
        self.persistent = persistent

    def target(self, successor: Successor) -> Tensor:
        """:func:`advantage_learning_target`."""
        s = successor
        assert s.q is not None
        return advantage_learning_target(
            s.reward, s.discount, s.q, s.action, s.next_q, alpha=self.alpha, persistent=self.persistent
        )


class PersistentLoss(TDLoss):
    """Q-learning of a policy that repeats its actions: :func:`persistent_target`.

    Args:
        criterion: How the error is measured.
        alpha: How much of the successor's value is that of repeating the action, in [0, 1].
        rescale: As in :class:`TDLoss`.

    Raises:
        ValueError: ``alpha`` outside [0, 1].

    Reference:
        Bellemare et al., "Increasing the Action Gap: New Operators for Reinforcement Learning", AAAI 2016.

    Example:
        >>> q, action, one = torch.tensor([[2.0, 4.0]]), torch.tensor([0]), torch.tensor([1.0])
        >>> PersistentLoss(alpha=0.5)(q, action, one, one, q).td_error
        tensor([2.])
    """

    def __init__(self, criterion: RegressionLoss | None = None, *, alpha: float = 0.1, rescale: bool = False) -> None:
        super().__init__(criterion, rescale=rescale)
        check_number("PersistentLoss", "alpha", alpha, low=0.0, high=1.0)
        self.alpha = alpha

    def target(self, successor: Successor) -> Tensor:
        """:func:`persistent_target`."""
        s = successor
        return persistent_target(s.reward, s.discount, s.action, s.next_q, alpha=self.alpha)


class QVLoss(ValueLoss):
    """QV-learning: action values and state values that both learn from the successor's state value.

    ``criterion(q(s, a), r + d v(s')) + criterion(v(s), r + d v(s'))``; with ``maximum=True`` (QV-max) the state value
    learns ``r + d max_a q(s', a)``. A network has two outputs per action: q, and a second one whose mean over the
    actions is v. Without ``maximum``, v is that of the policy that acted, so old transitions slow it down.

    Args:
        criterion: How both errors are measured, any regression loss with one output per value.
        maximum: Whether the state value learns from the best action's value.
        rescale: Whether the outputs are values under :func:`signed_hyperbolic`, as in :class:`TDLoss`.

    Raises:
        TypeError: ``criterion`` is not a regression loss.
        ValueError: ``criterion`` has several outputs per value; shapes that do not fit.

    Reference:
        Wiering, "QV(lambda)-learning: A New On-policy Reinforcement Learning Algorithm", EWRL 2005.
        Wiering and van Hasselt, "The QV Family Compared to Other Reinforcement Learning Algorithms", ADPRL 2009.

    Example:
        >>> outputs = torch.tensor([[[1.0, 2.0], [5.0, 4.0]]])  # q is 1 and 5, v is 3
        >>> action, one = torch.tensor([0]), torch.tensor([1.0])
        >>> QVLoss()(outputs, action, one, one, outputs)
        ValueLossOutput(loss=tensor(3.), td_error=tensor([3.]))
    """

    outputs_per_action = 2

    def __init__(
        self, criterion: RegressionLoss | None = None, *, maximum: bool = False, rescale: bool = False
    ) -> None:
        super().__init__()
        criterion = HuberLoss() if criterion is None else criterion
        if not isinstance(criterion, RegressionLoss):
            raise TypeError(f"QVLoss: criterion must be a RegressionLoss, got {type(criterion).__name__}")
        if criterion.num_outputs != 1:
            raise ValueError(f"QVLoss: criterion must have one output per value, got {criterion.num_outputs}")
        self.criterion = criterion
        self.maximum = maximum
        self.rescale = rescale

    def q_values(self, outputs: Tensor) -> Tensor:
        """The first of each action's outputs."""
        return self._expand(outputs[..., 0])

    def _expand(self, value: Tensor) -> Tensor:
        """Values in the units of the reward."""
        return signed_parabolic(value) if self.rescale else value

    def forward(
        self,
        outputs: Tensor,
        action: Tensor,
        reward: Tensor,
        discount: Tensor,
        next_outputs: Tensor,
        *,
        selector_outputs: Tensor | None = None,
        target_outputs: Tensor | None = None,
        next_action: Tensor | None = None,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> ValueLossOutput:
        """See :meth:`ValueLoss.forward`."""
        q = self._chosen(outputs, action, mask)[..., 0]
        self._check_wanted(outputs, next_outputs=(True, next_outputs))
        outputs, next_outputs = promote(outputs, next_outputs)
        value = outputs[..., 1].mean(-1)
        with torch.no_grad():
            target = td_target(reward, discount, self._expand(next_outputs[..., 1].mean(-1)))
            value_target = q_learning_target(reward, discount, self.q_values(next_outputs)) if self.maximum else target
            if self.rescale:
                target, value_target = signed_hyperbolic(target), signed_hyperbolic(value_target)
            td_error = fill_masked(mask, target - q)
        loss = self.criterion(q, target, weight=weight, mask=mask)
        return ValueLossOutput(loss + self.criterion(value, value_target, weight=weight, mask=mask), td_error)
