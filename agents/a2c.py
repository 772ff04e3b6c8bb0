"""A2C: a policy that its critic's advantages weigh (Mnih et al., "Asynchronous Methods for Deep RL", ICML 2016)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from agents.agent import Agent, Metrics, masked_mean
from agents.parts.acting import chain
from agents.parts.hyperparameters import check_learning, check_loss
from agents.parts.networks import (
    Activation,
    CategoricalPolicy,
    GaussianPolicy,
    Policy,
    ValueNetwork,
    orthogonal_,
)
from agents.parts.optimization import Learner
from agents.parts.rollout import Rollout
from agents.parts.spaces import Discrete
from agents.parts.transition import Transitions
from rlloss.core.checks import check_integer, check_non_negative, check_number
from rlloss.rl.policy import PolicyGradientLoss, PolicyLoss
from rlloss.rl.returns import gae, normalize_advantage
from rlloss.supervised.classification import FocalLoss, PolyLoss
from rlloss.supervised.regression import MSELoss, RegressionLoss


class PolicyBatch(NamedTuple):
    """Steps ``(B, ...)`` with what their policy and critic learn from.

    Attributes:
        observation: Observation that was acted on.
        action: Action taken.
        advantage: Advantage of the action.
        value_target: What the critic should have said.
        old_log_prob: Log-probability under the policy that acted; None where the policy loss does not need it.
        mask: Which rows are transitions; None where all are.
    """

    observation: Tensor
    action: Tensor
    advantage: Tensor
    value_target: Tensor
    old_log_prob: Tensor | None
    mask: Tensor | None


class ActorCritic(nn.Module):
    """A policy and a value network."""

    def __init__(self, policy: Policy, critic: ValueNetwork) -> None:
        super().__init__()
        self.policy = policy
        self.critic = critic


class A2C(Agent):
    """Advantage actor-critic; with ``ClippedSurrogateLoss``, epochs and minibatches it is PPO.

    Discrete actions, or a Box of them (independent Gaussians).

    Args:
        policy_loss: What the policy learns by; ``PolicyGradientLoss()`` by default.
        critic_loss: What the critic learns by; ``MSELoss()`` by default.
        discount: Discount factor gamma, in [0, 1].
        gae_lambda: lambda of the advantage estimate, in [0, 1].
        rollout_length: Steps of each environment per update, >= 1.
        epochs: Passes over each rollout, >= 1.
        minibatches: Parts that a rollout is shuffled into, per epoch, >= 1.
        normalize_advantages: Standardise the advantages of each minibatch.
        entropy_coefficient: Factor of the entropy loss, >= 0.
        value_coefficient: Factor of the critic's loss, >= 0.
        hidden_sizes: Widths of the MLPs' hidden layers (images go through the Nature CNN instead).
        activation: Activation of the MLPs.
        orthogonal_init: Initialise orthogonally, with a small policy head.
        optimizer: Name of an optimiser in torch.optim. (Of these Adafactor alone waits for a GPU at every step.)
        learning_rate: Step size, > 0.
        optimizer_args: Further arguments of the optimiser, by name.
        max_grad_norm: Largest norm of the gradient, > 0; null for no clipping.

    Raises:
        TypeError: An argument of another type.
        ValueError: An argument out of range, or an optimiser that does not exist or refuses its arguments.

    Example:
        >>> from agents.parts.spaces import Box, EnvSpec
        >>> spec = EnvSpec(Box((3,), torch.float32), Box((1,), torch.float32, (-2.0,), (2.0,)), num_envs=2)
        >>> A2C().build(spec).act(torch.zeros(2, 3)).shape
        torch.Size([2, 1])
    """

    metric_names = ("loss", "policy_loss", "value_loss", "entropy", "value", "advantage_std", "grad_norm")

    def __init__(
        self,
        *,
        policy_loss: PolicyLoss | None = None,
        critic_loss: RegressionLoss | None = None,
        discount: float = 0.99,
        gae_lambda: float = 1.0,
        rollout_length: int = 5,
        epochs: int = 1,
        minibatches: int = 1,
        normalize_advantages: bool = False,
        entropy_coefficient: float = 0.0,
        value_coefficient: float = 0.5,
        hidden_sizes: list[int] | None = None,
        activation: Activation = "tanh",
        orthogonal_init: bool = True,
        optimizer: str = "RMSprop",
        learning_rate: float = 7e-4,
        optimizer_args: dict[str, Any] | None = None,
        max_grad_norm: float | None = 0.5,
    ) -> None:
        self.policy_loss: PolicyLoss = PolicyGradientLoss() if policy_loss is None else policy_loss
        self.critic_loss: RegressionLoss = MSELoss() if critic_loss is None else critic_loss
        self.discount = discount
        self.gae_lambda = gae_lambda
        self.rollout_length = rollout_length
        self.epochs = epochs
        self.minibatches = minibatches
        self.normalize_advantages = normalize_advantages
        self.entropy_coefficient = entropy_coefficient
        self.value_coefficient = value_coefficient
        self.hidden_sizes = [64, 64] if hidden_sizes is None else hidden_sizes
        self.activation: Activation = activation
        self.orthogonal_init = orthogonal_init
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.optimizer_args = optimizer_args or {}
        self.max_grad_norm = max_grad_norm
        self._check()

    def _check(self) -> None:
        check_loss("A2C", "policy_loss", self.policy_loss, PolicyLoss)
        check_loss("A2C", "critic_loss", self.critic_loss, RegressionLoss)
        check_learning(
            "A2C",
            discount=self.discount,
            hidden_sizes=self.hidden_sizes,
            activation=self.activation,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            optimizer_args=self.optimizer_args,
            max_grad_norm=self.max_grad_norm,
        )
        check_number("A2C", "gae_lambda", self.gae_lambda, low=0.0, high=1.0)
        for name in ("rollout_length", "epochs", "minibatches"):
            check_integer("A2C", name, getattr(self, name), low=1)
        check_non_negative(
            "A2C", entropy_coefficient=self.entropy_coefficient, value_coefficient=self.value_coefficient
        )

    def _build(self) -> None:
        if self.minibatches > self.rollout_length * self.spec.num_envs:
            raise ValueError(
                f"A2C: minibatches must be at most rollout_length * num_envs = "
                f"{self.rollout_length * self.spec.num_envs}, got {self.minibatches}"
            )
        networks = {"hidden_sizes": self.hidden_sizes, "activation": self.activation}
        observation, action = self.spec.observation, self.spec.action
        policy: Policy
        if isinstance(action, Discrete):
            policy = CategoricalPolicy(observation, action, **networks)  # type: ignore[arg-type]
        else:
            self._check_criterion()
            policy = GaussianPolicy(observation, action, **networks)  # type: ignore[arg-type]
        critic = ValueNetwork(observation, **networks)  # type: ignore[arg-type]
        if self.orthogonal_init:
            orthogonal_(policy, head_gain=0.01)
            orthogonal_(critic, head_gain=1.0)
        self.network = ActorCritic(policy, critic).to(self.device)
        self.policy, self.critic = self.network.policy, self.network.critic
        self.policy_loss.to(self.device)
        self.critic_loss.to(self.device)
        # One update a rollout computes its advantages as a part of the compiled gradient step.
        self.one_pass = self.epochs == 1 and self.minibatches == 1
        self.learner = Learner(
            "A2C",
            self.network,
            self._loss_of_rollout if self.one_pass else self.compute_loss,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            optimizer_args=self.optimizer_args,
            max_grad_norm=self.max_grad_norm,
            compiled=self.compiled,
        )
        self.encode = chain(self.policy.encoder)
        self.rollout = Rollout(self.layout, self.rollout_length, self.spec.num_envs, self.device)
        self.updates = 0

    def _check_criterion(self) -> None:
        """A density may exceed 1, where focal and poly loss mean nothing."""
        criterion = getattr(self.policy_loss, "criterion", None)
        if isinstance(criterion, FocalLoss | PolyLoss):
            raise ValueError(
                f"A2C: policy_loss.criterion {type(criterion).__name__} weighs probabilities, so it needs a Discrete "
                f"action space, got {self.spec.action}"
            )

    @property
    def model(self) -> nn.Module:
        """Policy and critic."""
        return self.network

    @torch.no_grad()
    def act(self, observation: Tensor, *, explore: bool = True) -> Tensor:
        """Draw from the policy, or take its most likely action."""
        outputs = self.policy.head(self.encode(observation))
        action = self.policy.sample(outputs, self.generator) if explore else self.policy.mode(outputs)
        return action.cpu()

    def observe(self, transitions: Transitions) -> None:
        """Append one step of all environments to the rollout."""
        self.rollout.write(transitions)
        self.steps += transitions.count

    def cut(self) -> None:
        """Mark the newest transitions as truncated."""
        self.rollout.cut()

    def compute_loss(self, batch: PolicyBatch) -> tuple[Tensor, Metrics]:
        """Policy loss + value_coefficient * critic loss + entropy_coefficient * entropy loss."""
        advantage, mask = batch.advantage, batch.mask
        if self.normalize_advantages:
            advantage = normalize_advantage(advantage, mask=mask)
        outputs = self.policy(batch.observation)
        value = self.critic(batch.observation)
        log_prob = self.policy.log_prob(outputs, batch.action)
        policy_loss = self.policy_loss(log_prob, batch.old_log_prob, advantage, mask=mask)
        value_loss = self.critic_loss(value, batch.value_target, mask=mask)
        entropy_loss = self.policy.entropy_loss(outputs, mask)
        loss = policy_loss + self.value_coefficient * value_loss + self.entropy_coefficient * entropy_loss
        return loss, {
            "loss": loss.detach(),
            "policy_loss": policy_loss.detach(),
            "value_loss": value_loss.detach(),
            "entropy": -entropy_loss.detach(),
            "value": masked_mean(value.detach(), mask),
            "advantage_std": _spread(batch.advantage, mask),
        }

    @torch.no_grad()
    def _prepare(self, rows: Tensor) -> PolicyBatch:
        """Advantages and value targets of a rollout's rows ``(T, N, bytes)``, flattened to ``(T * N, ...)``."""
        rollout = Transitions(rows, self.layout, 0)
        observation = rollout.observation.flatten(0, 1)
        value = self.critic(observation).view(rollout.reward.shape)
        next_value = self.critic(rollout.next_observation.flatten(0, 1)).view(rollout.reward.shape)
        mask = rollout.mask
        # A row that only resets an environment is no step: what comes after it must not flow into it.
        truncated = rollout.truncated if mask is None else rollout.truncated | ~mask
        advantage = gae(
            rollout.reward,
            torch.where(rollout.terminated, 0.0, self.discount),
            value,
            next_value,
            lambda_=self.gae_lambda,
            truncated=truncated,
        )
        action = rollout.action.flatten(0, 1)
        old_log_prob = None
        if self.policy_loss.needs_old_log_prob:
            old_log_prob = self.policy.log_prob(self.policy(observation), action)
        return PolicyBatch(
            observation,
            action,
            advantage.flatten(),
            (value + advantage).flatten(),
            old_log_prob,
            None if mask is None else mask.flatten(),
        )

    def _loss_of_rollout(self, rows: Tensor) -> tuple[Tensor, Metrics]:
        return self.compute_loss(self._prepare(rows))

    def update(self) -> list[Tensor]:
        """Learn from the rollout once it is full."""
        if not self.rollout.full:
            return []
        rows = self.rollout.read()
        if self.one_pass:
            metrics = [self.learner.step(rows)]
        else:
            batch = self._prepare(rows)
            metrics = [self.learner.step(part) for _ in range(self.epochs) for part in self._split(batch)]
        self.updates += len(metrics)
        return metrics

    def _split(self, batch: PolicyBatch) -> list[PolicyBatch]:
        """Shuffle into minibatches; the batch itself where there is one."""
        if self.minibatches == 1:
            return [batch]
        size = len(batch.advantage)
        order = torch.randperm(size, generator=self.generator, device=self.device)
        return [
            PolicyBatch(*(None if field is None else field[index] for field in batch))  # type: ignore[arg-type]
            for index in order.tensor_split(self.minibatches)
        ]

    def count_updates(self, steps: int, num_envs: int) -> int:
        """One per minibatch, epoch and rollout."""
        return steps // (self.rollout_length * num_envs) * self.epochs * self.minibatches

    def status(self) -> dict[str, float]:
        """The number of gradient steps."""
        return {"updates": self.updates}

    def state_dict(self) -> dict[str, Any]:
        """Everything that training goes on from."""
        return {
            "network": self.network.state_dict(),
            "policy_loss": self.policy_loss.state_dict(),
            "critic_loss": self.critic_loss.state_dict(),
            "learner": self.learner.state_dict(),
            "rollout": self.rollout.state_dict(),
            "generator": self.generator.get_state(),
            "steps": self.steps,
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.network.load_state_dict(state["network"])
        self.policy_loss.load_state_dict(state["policy_loss"])
        self.critic_loss.load_state_dict(state["critic_loss"])
        self.learner.load_state_dict(state["learner"])
        self.rollout.load_state_dict(state["rollout"])
        self.generator.set_state(state["generator"].cpu())
        self.steps = int(state["steps"])
        self.updates = int(state["updates"])


def _spread(x: Tensor, mask: Tensor | None) -> Tensor:
    """Standard deviation of what the mask keeps."""
    centred = x - masked_mean(x, mask)
    return masked_mean(centred.square(), mask).sqrt()
