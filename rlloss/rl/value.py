"""Value learning: Bellman targets on action values ``(..., A)``, and losses against them.

``discount`` is gamma * (1 - terminated); for n-step targets gamma^n * (1 - terminated) beside the summed reward.
``*_target`` functions are plain and differentiable; the losses detach the target, so gradients reach the predicted
values and nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rlloss.core.checks import (
    check_float,
    check_indices,
    check_labels,
    check_mask,
    check_ndim,
    check_real,
    check_same_shape,
    check_shape,
    check_tensor,
)
from rlloss.core.module import show_hyper_parameters
from rlloss.core.reduction import Reduction, fill_masked, promote
from rlloss.supervised.regression import HuberLoss, RegressionLoss, mse_loss


def _check_bootstrap(function: str, reward: Tensor, discount: Tensor, next_q: Tensor) -> None:
    check_float(function, reward=reward, discount=discount, next_q=next_q)
    check_ndim(function, "next_q", next_q, 1, "(..., A)")
    check_same_shape(function, reward=reward, discount=discount)
    check_shape(function, "reward", reward, tuple(next_q.shape[:-1]), "next_q without its action dimension")


def _at_action(q: Tensor, action: Tensor) -> Tensor:
    return q.gather(-1, action.long().unsqueeze(-1)).squeeze(-1)


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
    return reward + discount * _at_action(next_q, selector_q.argmax(-1))


def _chosen_value(function: str, q: Tensor, action: Tensor, mask: Tensor | None) -> Tensor:
    """The values of the actions taken, ``(...)``."""
    check_float(function, q=q)
    check_ndim(function, "q", q, 1, "(..., A)")
    check_indices(function, action=action)
    shape = tuple(q.shape[:-1])
    check_shape(function, "action", action, shape, "q without its action dimension")
    check_mask(function, mask, shape)
    check_labels(function, "action", action, q.shape[-1], mask)
    # A masked-out action may be any number, a padding of -1 for instance.
    return _at_action(q, fill_masked(mask, action, 0))


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
    chosen = _chosen_value("q_value_loss", q, action, mask)
    check_real("q_value_loss", target=target)
    check_shape("q_value_loss", "target", target, tuple(action.shape), "the shape of action")
    return criterion(chosen, target.detach(), weight=weight, mask=mask, reduction=reduction)


class ValueLossOutput(NamedTuple):
    """What a value loss returns: the loss, and the detached TD error of each sample, ``target - q``."""

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
    """

    outputs_per_action: int = 1
    double: bool = False  # type: ignore[assignment]  # hides Module.double(), a cast that no value loss needs

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
            weight: ``(...)``, factor per sample.
            mask: ``(...)``, bool; False removes.
        """


class TDLoss(ValueLoss):
    """Temporal-difference loss with any elementwise regression criterion.

    ``criterion(q(s, a), r + d max_a' q(s', a'))``; the maximum becomes double Q-learning's choice with ``double=True``.

    Args:
        criterion: How the error is measured, any :class:`~rlloss.supervised.regression.RegressionLoss`.
            Its ``reduction`` is the loss's.
        double: Let the online network choose the successor's action.

    Raises:
        TypeError: ``criterion`` is not a regression loss.
        ValueError: ``double`` without ``selector_outputs``; shapes that do not fit.

    Reference:
        Mnih et al., "Human-level control through deep reinforcement learning", Nature, 2015.
        van Hasselt et al., "Deep Reinforcement Learning with Double Q-learning", AAAI 2016.

    Example:
        >>> q, next_q = torch.tensor([[1.0, 5.0]]), torch.tensor([[2.0, 4.0]])
        >>> action, reward, discount = torch.tensor([1]), torch.tensor([1.0]), torch.tensor([0.5])
        >>> TDLoss(HuberLoss(delta=1.0))(q, action, reward, discount, next_q)
        ValueLossOutput(loss=tensor(1.5000), td_error=tensor([-2.]))
    """

    def __init__(self, criterion: RegressionLoss | None = None, *, double: bool = False) -> None:
        super().__init__()
        criterion = HuberLoss() if criterion is None else criterion
        if not isinstance(criterion, RegressionLoss):
            raise TypeError(f"TDLoss: criterion must be a RegressionLoss, got {type(criterion).__name__}")
        self.criterion = criterion
        self.double = double

    def q_values(self, outputs: Tensor) -> Tensor:
        """The outputs are the action values."""
        return outputs

    def forward(
        self,
        outputs: Tensor,
        action: Tensor,
        reward: Tensor,
        discount: Tensor,
        next_outputs: Tensor,
        *,
        selector_outputs: Tensor | None = None,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> ValueLossOutput:
        """See :meth:`ValueLoss.forward`."""
        if self.double and selector_outputs is None:
            raise ValueError("TDLoss: double=True needs selector_outputs, the online network at the successor")
        chosen = _chosen_value("TDLoss", outputs, action, mask)
        check_tensor("TDLoss", next_outputs=next_outputs)
        check_same_shape("TDLoss", outputs=outputs, next_outputs=next_outputs)
        with torch.no_grad():
            selector = selector_outputs if self.double else None
            target = q_learning_target(reward, discount, next_outputs, selector_q=selector)
            td_error = fill_masked(mask, target - chosen)
        return ValueLossOutput(self.criterion(chosen, target, weight=weight, mask=mask), td_error)
