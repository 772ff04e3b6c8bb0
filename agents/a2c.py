"""A2C: a policy that its critic's advantages weigh (Mnih et al., "Asynchronous Methods for Deep RL", ICML 2016)."""

from __future__ import annotations

import copy
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from agents.agent import Agent, Metrics, Played, masked_mean
from agents.parts.acting import Choice, Noise, chain, reader, to_actions
from agents.parts.device_envs import DeviceVectorEnv
from agents.parts.device_rounds import RolloutRounds, Steps
from agents.parts.hyperparameters import check_learning, check_loss
from agents.parts.networks import (
    Activation,
    CategoricalPolicy,
    GaussianPolicy,
    MultiCategoricalPolicy,
    Policy,
    SquashedGaussianPolicy,
    ValueNetwork,
    orthogonal_,
)
from agents.parts.normalization import ObservationNormalizer, RewardNormalizer, make_normalizer
from agents.parts.optimization import Learner
from agents.parts.overlap import Overlap
from agents.parts.rollout import Rollout
from agents.parts.spaces import Box, Discrete, MultiDiscrete
from agents.parts.transition import Transitions
from rlloss.core.actions import at_action
from rlloss.core.checks import check_choice, check_integer, check_non_negative, check_number, check_positive
from rlloss.core.distributed import process_count
from rlloss.rl.policy import (
    AllActionPolicyLoss,
    ClippedSurrogateLoss,
    PolicyGradientLoss,
    PolicyLoss,
    all_action_policy_gradient_loss,
    policy_kl_penalty,
)
from rlloss.rl.returns import gae, lambda_returns, normalize_advantage, retrace, upgo_returns, vtrace
from rlloss.supervised.regression import MSELoss, RegressionLoss

AdvantageEstimate = Literal["gae", "return", "upgo", "vtrace"]

# Random numbers of one call, which takes as long as many hundreds of them.
_NUMBERS_OF_A_DRAW = 2**13


class PolicyBatch(NamedTuple):
    """Steps ``(B, ...)`` with what their policy and critic learn from.

    Attributes:
        observation: Observation that was acted on.
        action: Action taken.
        advantage: Advantage of the action.
        value_target: What the critic should have said.
        old_log_prob: Log-probability under the policy that acted; None where nothing needs it.
        mask: Which rows are transitions; None where all are.
        action_mask: Which actions were possible; None where all are.
    """

    observation: Tensor
    action: Tensor
    advantage: Tensor
    value_target: Tensor
    old_log_prob: Tensor | None
    mask: Tensor | None
    action_mask: Tensor | None = None


class ActorCritic(nn.Module):
    """A policy and a critic, which is a network of its own or a head on the policy's features."""

    def __init__(self, policy: Policy, critic: ValueNetwork, normalizer: ObservationNormalizer | None) -> None:
        super().__init__()
        self.policy = policy
        self.critic = critic
        self.normalizer = normalizer

    def normalized(self, observation: Tensor) -> Tensor:
        """Observations as policy and critic see them."""
        return observation if self.normalizer is None else self.normalizer(observation)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """From observations ``(B, ...)`` to the outputs of policy and critic."""
        observation = self.normalized(observation)
        features = self.policy.encoder(observation)
        outputs = self.policy.heads(features)
        return outputs, self.critic(features if self.critic.encoder is None else observation)

    def decide(self, observation: Tensor) -> Tensor:
        """The policy's outputs alone."""
        outputs: Tensor = self.policy(self.normalized(observation))
        return outputs

    def criticize(self, observation: Tensor) -> Tensor:
        """The critic's outputs alone."""
        observation = self.normalized(observation)
        value: Tensor = self.critic(self.policy.encoder(observation) if self.critic.encoder is None else observation)
        return value


class A2C(Agent):
    """Advantage actor-critic; with ``ClippedSurrogateLoss``, epochs and minibatches it is PPO.

    Discrete actions, several of them at once (MultiDiscrete, independent), or a Box (independent Gaussians).

    Args:
        policy_loss: What the policy learns by; ``PolicyGradientLoss()`` by default. One that wants the values of all
            actions (``AllActionPolicyGradientLoss``, ``RegretPolicyGradientLoss``) gives the critic an output for each
            action, which learns from Retrace, and needs Discrete actions.
        critic_loss: What the critic learns by; ``MSELoss()`` by default. One that predicts a distribution
            (``HLGaussLoss``, ``TwoHotLoss``) gives the critic as many outputs.
        discount: Discount factor gamma, in [0, 1].
        advantage: "gae", generalised advantage estimation; "return", the return alone, without the critic as a
            baseline (with gae_lambda 1, REINFORCE); "upgo", AlphaStar's return of what went better than expected, less
            the value; "vtrace", V-trace, which weighs what the policy has become unlikely to do since it acted, anew in
            every epoch (IMPALA).
        gae_lambda: lambda of the advantage estimate, in [0, 1]; "upgo" has it in the critic's target alone, and a
            critic of actions in Retrace.
        vtrace_clip: Largest weight of a step in V-trace, > 0.
        vtrace_leak: Share of the unclipped weight in V-trace, in [0, 1].
        kl_coefficient: Factor of a penalty on how far the policy has gone from the one that acted, >= 0
            (``policy_kl_penalty``), with any policy loss; for several epochs, since there is nothing to pay before the
            first step. 0 where ``ClippedSurrogateLoss`` has a penalty of its own.
        rollout_length: Steps of each environment per update, >= 1.
        epochs: Passes over each rollout, >= 1.
        minibatches: Parts that a rollout is shuffled into, per epoch, >= 1.
        normalize_advantages: Standardise the advantages of each minibatch.
        normalize_observations: Make each number of an observation one of mean 0 and variance 1, by what training saw so
            far. For a Box of numbers: bytes and bools are scaled already, integers are one-hot.
        normalize_rewards: Divide rewards by the standard deviation of the discounted return, by what training saw so
            far; values and their loss are in these units.
        entropy_coefficient: Factor of the entropy loss, >= 0.
        value_coefficient: Factor of the critic's loss, >= 0.
        hidden_sizes: Widths of the MLPs' hidden layers (images go through the Nature CNN instead,
            small ones through one convolution before).
        activation: Activation of the MLPs.
        shared_trunk: One encoder for policy and critic, a head each, instead of two networks.
        orthogonal_init: Initialise orthogonally, with a small policy head.
        squash: Take the actions of a Box with finite bounds through tanh to these bounds, instead of clipping them: the
            agent's actions are what comes before, and the environments squash them.
        log_std_init: Logarithm of the standard deviation that the actions of a Box begin with.
        overlap: Learn from a rollout on a second core while the next one is played, by the policy of one update ago: as
            reproducible, but another algorithm (of which V-trace's weights and ``ClippedSurrogateLoss`` take note).
        optimizer: Name of an optimiser in torch.optim. (Of these Adafactor alone waits for a GPU at every step.)
        learning_rate: Step size, > 0.
        learning_rate_end: Step size in the end, >= 0; null for one that stays.
        learning_rate_steps: Environment steps from the one to the other, linearly.
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
        policy_loss: PolicyLoss | AllActionPolicyLoss | None = None,
        critic_loss: RegressionLoss | None = None,
        discount: float = 0.99,
        advantage: AdvantageEstimate = "gae",
        gae_lambda: float = 1.0,
        vtrace_clip: float = 1.0,
        vtrace_leak: float = 0.0,
        kl_coefficient: float = 0.0,
        rollout_length: int = 5,
        epochs: int = 1,
        minibatches: int = 1,
        normalize_advantages: bool = False,
        normalize_observations: bool = False,
        normalize_rewards: bool = False,
        entropy_coefficient: float = 0.0,
        value_coefficient: float = 0.5,
        hidden_sizes: list[int] | None = None,
        activation: Activation = "tanh",
        shared_trunk: bool = False,
        orthogonal_init: bool = True,
        squash: bool = False,
        log_std_init: float = 0.0,
        overlap: bool = False,
        optimizer: str = "RMSprop",
        learning_rate: float = 7e-4,
        learning_rate_end: float | None = None,
        learning_rate_steps: int = 0,
        optimizer_args: dict[str, Any] | None = None,
        max_grad_norm: float | None = 0.5,
    ) -> None:
        self.policy_loss: PolicyLoss | AllActionPolicyLoss = (
            PolicyGradientLoss() if policy_loss is None else policy_loss
        )
        self.critic_loss: RegressionLoss = MSELoss() if critic_loss is None else critic_loss
        self.discount = discount
        self.advantage: AdvantageEstimate = advantage
        self.gae_lambda = gae_lambda
        self.vtrace_clip = vtrace_clip
        self.vtrace_leak = vtrace_leak
        self.kl_coefficient = kl_coefficient
        self.rollout_length = rollout_length
        self.epochs = epochs
        self.minibatches = minibatches
        self.normalize_advantages = normalize_advantages
        self.normalize_observations = normalize_observations
        self.normalize_rewards = normalize_rewards
        self.entropy_coefficient = entropy_coefficient
        self.value_coefficient = value_coefficient
        self.hidden_sizes = [64, 64] if hidden_sizes is None else hidden_sizes
        self.activation: Activation = activation
        self.shared_trunk = shared_trunk
        self.orthogonal_init = orthogonal_init
        self.squash = squash
        self.log_std_init = log_std_init
        self.overlap = overlap
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.learning_rate_end = learning_rate_end
        self.learning_rate_steps = learning_rate_steps
        self.optimizer_args = optimizer_args or {}
        self.max_grad_norm = max_grad_norm
        self._check()

    def _check(self) -> None:
        check_loss("A2C", "policy_loss", self.policy_loss, PolicyLoss, AllActionPolicyLoss)
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
            learning_rate_end=self.learning_rate_end,
            learning_rate_steps=self.learning_rate_steps,
        )
        if self._values_actions and (self.advantage != "gae" or self.normalize_advantages):
            raise ValueError(
                f"A2C: policy_loss {type(self.policy_loss).__name__} learns from action values, not from advantages: "
                f"advantage must stay 'gae' and normalize_advantages False, got {self.advantage!r} and "
                f"{self.normalize_advantages}"
            )
        check_number("A2C", "log_std_init", self.log_std_init)
        check_choice("A2C", "advantage", self.advantage, get_args(AdvantageEstimate))
        for name in ("gae_lambda", "vtrace_leak"):
            check_number("A2C", name, getattr(self, name), low=0.0, high=1.0)
        check_positive("A2C", vtrace_clip=self.vtrace_clip)
        if self.advantage != "vtrace" and (self.vtrace_leak or self.vtrace_clip != 1.0):
            raise ValueError(f"A2C: vtrace_leak and vtrace_clip need advantage 'vtrace', got {self.advantage!r}")
        check_non_negative("A2C", kl_coefficient=self.kl_coefficient)
        own = self.policy_loss.kl_coefficient if isinstance(self.policy_loss, ClippedSurrogateLoss) else 0.0
        if own and self.kl_coefficient:
            raise ValueError(
                f"A2C: kl_coefficient must be 0 with a policy_loss that has its own, {own}, got {self.kl_coefficient}"
            )
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
        if self.overlap and process_count() > 1:  # two threads would send messages in no order
            raise ValueError("A2C: overlap is for one process, got several")
        if self.squash != (isinstance(action, Box) and action.squashed):
            raise ValueError(
                f"A2C: squash is {self.squash}, which the environments have to be made with (Envs(squash=...)), "
                f"got actions {action}"
            )
        policy: Policy
        if isinstance(action, Discrete):
            policy = CategoricalPolicy(observation, action, **networks)  # type: ignore[arg-type]
        elif isinstance(action, MultiDiscrete):
            policy = MultiCategoricalPolicy(observation, action, **networks)  # type: ignore[arg-type]
        else:
            self._check_criterion()
            kind = SquashedGaussianPolicy if self.squash else GaussianPolicy
            policy = kind(observation, action, **networks, log_std_init=self.log_std_init)  # type: ignore[arg-type]
        sizes = {
            "features": policy.head.in_features if self.shared_trunk else None,
            "num_actions": self._num_critic_actions(),
            "outputs": self.critic_loss.num_outputs,
        }
        critic = ValueNetwork(observation, **networks, **sizes)  # type: ignore[arg-type]
        if self.orthogonal_init:
            orthogonal_(policy, head_gain=0.01)
            orthogonal_(critic, head_gain=1.0)
        normalizer = make_normalizer("A2C", observation) if self.normalize_observations else None
        self.network = ActorCritic(policy, critic, normalizer).to(self.device)
        self.policy = self.network.policy
        self.policy_loss.to(self.device)
        self.critic_loss.to(self.device)
        self.learner = Learner(
            "A2C",
            self.network,
            self._loss_of_rollout if self.one_pass else self._loss_and_mask,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            optimizer_args=self.optimizer_args,
            max_grad_norm=self.max_grad_norm,
            compiled=self.compiled,
            learning_rate_end=self.learning_rate_end,
            learning_rate_steps=self.learning_rate_steps,
            made_of=self.arguments,
        )
        self.rounds: RolloutRounds | None = None
        self.beside = Overlap()
        # Who acts: a copy, so that learning beside it changes nothing half-way through a rollout.
        self.actor = copy.deepcopy(self.network).requires_grad_(False) if self.overlap else self.network
        # Each of its tensors with the one that it follows: to ask both modules for them takes 0.1 ms an update.
        pairs = zip(self.actor.state_dict().values(), self.network.state_dict().values(), strict=True)
        self.followed = list(pairs) if self.overlap else []
        self.actor_outputs = chain([*self.actor.policy.encoder, self.actor.policy.head])
        self.as_array = reader(self.device)
        self.choice = Choice("A2C", self._choose_in_graph, self._choose, [], self.device, compiled=self.compiled)
        noise_shape = (self.spec.num_envs, *self.policy.noise_shape)
        self.noise = Noise(self._fill_noise, _NUMBERS_OF_A_DRAW, noise_shape, self.device)
        self.rollout = Rollout(self.layout, self.rollout_length, self.spec.num_envs, self.device)
        # Not in the network, since acting does without it and one number in it belongs to each environment.
        self.reward_normalizer: RewardNormalizer | None = None
        if self.normalize_rewards:
            self.reward_normalizer = RewardNormalizer(self.spec.num_envs, self.discount).to(self.device)
        self.updates = 0

    @property
    def one_pass(self) -> bool:
        """Whether a rollout has one gradient step, which then computes the advantages too, in one graph if compiled."""
        return self.epochs == 1 and self.minibatches == 1

    @property
    def _values_actions(self) -> bool:
        """Whether the critic values actions, which the policy loss wants all of, and not states."""
        return isinstance(self.policy_loss, AllActionPolicyLoss)

    def _num_critic_actions(self) -> int | None:
        """How many actions the critic values; None where it values states."""
        if not self._values_actions:
            return None
        if not isinstance(self.spec.action, Discrete):
            raise ValueError(
                f"A2C: policy_loss {type(self.policy_loss).__name__} needs a Discrete action space, "
                f"got {self.spec.action}"
            )
        return self.spec.action.n

    def _check_criterion(self) -> None:
        """A density may exceed 1, where a loss that presumes probabilities means nothing."""
        if isinstance(self.policy_loss, PolicyLoss) and self.policy_loss.presumes_probabilities:
            loss = " ".join(repr(self.policy_loss).split())
            raise ValueError(
                f"A2C: policy_loss {loss} presumes probabilities, so it needs a Discrete action space, "
                f"got {self.spec.action}"
            )

    @property
    def model(self) -> nn.Module:
        """Policy and critic."""
        return self.network

    def act(self, observation: Tensor, *, explore: bool = True) -> Tensor:
        """Draw from the policy, or take its most likely action."""
        return self._act(observation, None, explore)

    def act_among(self, observation: Tensor, action_mask: Tensor, *, explore: bool = True) -> Tensor:
        """As :meth:`act`, among the actions that are possible."""
        return self._act(observation, action_mask, explore)

    def _act(self, observation: Tensor, action_mask: Tensor | None, explore: bool) -> Tensor:
        if not explore:
            return self._most_likely(observation, action_mask).cpu()
        number = observation.shape[0]
        choose = self.choice if number == self.spec.num_envs else self._choose
        return to_actions(choose(observation, action_mask, self.noise.take(number)))

    def _most_likely(self, observation: Tensor, action_mask: Tensor | None) -> Tensor:
        """By the newest policy, not by one that acts while another learns."""
        if self.overlap:
            self.beside.wait()
            with torch.no_grad():
                outputs = self.network.decide(observation)
        else:
            outputs = self._outputs_to_act_on(observation)
        return self.policy.mode(self._among(outputs, action_mask))

    def _outputs_to_act_on(self, observation: Tensor) -> Tensor:
        return self.policy.arrange(self.actor_outputs(self.actor.normalized(observation)))

    def _choose(self, observation: Tensor, action_mask: Tensor | None, noise: Tensor) -> Any:
        outputs = self._among(self._outputs_to_act_on(observation), action_mask)
        return self.actor.policy.choose(self.as_array(outputs), self.as_array(noise))

    def _choose_in_graph(self, observation: Tensor, action_mask: Tensor | None, noise: Tensor) -> Tensor:
        """As :meth:`_choose`, of tensors alone."""
        outputs = self.actor.decide(observation)
        return self.actor.policy.choose(self._among(outputs, action_mask), noise)

    def _fill_noise(self, noise: Tensor) -> Tensor:
        return self.policy.fill_noise(noise, self.generator)

    def _among(self, outputs: Tensor, action_mask: Tensor | None) -> Tensor:
        """The policy's outputs where not all actions are possible, which is known of Discrete ones alone."""
        if action_mask is None:
            return outputs
        assert isinstance(self.policy, CategoricalPolicy)
        return self.policy.among(outputs, action_mask)

    def observe(self, transitions: Transitions) -> None:
        """Append one step of all environments to the rollout."""
        self.rollout.write(transitions)
        self.steps += transitions.count

    def cut(self) -> None:
        """End all episodes: what is observed next begins new ones."""
        self.rollout.cut()
        if self.reward_normalizer is not None and self.rollout.size == 0:  # it has seen the newest already
            self.reward_normalizer.cut()

    def compute_loss(self, batch: PolicyBatch) -> tuple[Tensor, Metrics]:
        """Policy loss + value_coefficient * critic loss + entropy_coefficient * entropy loss (+ the KL penalty)."""
        advantage, mask = batch.advantage, batch.mask
        if self.normalize_advantages:
            advantage = normalize_advantage(advantage, mask=mask)
        outputs, critic_outputs = self.network(batch.observation)
        outputs = self._among(outputs, batch.action_mask)
        log_prob = self.policy.log_prob(outputs, batch.action)
        if isinstance(self.policy_loss, AllActionPolicyLoss):
            policy_loss = self.policy_loss(outputs, self.critic_loss.value(critic_outputs), mask=mask)
        else:
            policy_loss = self.policy_loss(log_prob, batch.old_log_prob, advantage, mask=mask)
        critic_outputs = self._taken(critic_outputs, batch.action)
        value_loss = self.critic_loss(critic_outputs, batch.value_target, mask=mask)
        entropy_loss = self.policy.entropy_loss(outputs, mask)
        loss = policy_loss + self.value_coefficient * value_loss + self.entropy_coefficient * entropy_loss
        if self.kl_coefficient:
            assert batch.old_log_prob is not None
            penalty = policy_kl_penalty(log_prob, batch.old_log_prob, drawn_from="old", mask=mask)
            loss = loss + self.kl_coefficient * penalty
        return loss, {
            "loss": loss.detach(),
            "policy_loss": policy_loss.detach(),
            "value_loss": value_loss.detach(),
            "entropy": -entropy_loss.detach(),
            "value": masked_mean(self.critic_loss.value(critic_outputs.detach()), mask),
            "advantage_std": _spread(batch.advantage, mask),
        }

    def _prepare(self, rows: Tensor, old_log_prob: Tensor | None = None) -> PolicyBatch:
        """Advantages and value targets of a rollout's rows ``(T, N, bytes)``, flattened to ``(T * N, ...)``.

        Args:
            rows: The rollout.
            old_log_prob: ``(T * N,)``, of the policy that acted; None where that is the present one.
        """
        return self._prepare_steps(Transitions(rows, self.layout, 0), old_log_prob)

    @torch.no_grad()
    def _prepare_steps(self, rollout: Transitions | Steps, old_log_prob: Tensor | None = None) -> PolicyBatch:
        """As :meth:`_prepare`, of steps ``(T, N, ...)`` field by field."""
        shape = rollout.reward.shape
        observation, action = rollout.observation.flatten(0, 1), rollout.action.flatten(0, 1)
        value = self.critic_loss.value(self._taken(self.network.criticize(observation), action)).view(shape)
        next_value = self._next_value(rollout, value)
        mask, truncated = rollout.mask, rollout.truncated
        reward = rollout.reward if self.reward_normalizer is None else self.reward_normalizer(rollout.reward)
        action_mask = None if rollout.action_mask is None else rollout.action_mask.flatten(0, 1)
        log_rho = torch.zeros_like(value)
        if self._compares_policies:
            log_prob = self._log_prob(self.network, observation, action, action_mask)
            old_log_prob = log_prob if old_log_prob is None else old_log_prob
            log_rho = (log_prob - old_log_prob).view(shape)
        discount = torch.where(rollout.terminated, 0.0, self.discount)
        advantage, target = self._estimate(log_rho, reward, discount, value, next_value, truncated)
        return PolicyBatch(
            observation,
            action,
            advantage.flatten(),
            target.flatten(),
            old_log_prob,
            None if mask is None else mask.flatten(),
            action_mask,
        )

    def _next_value(self, rollout: Transitions | Steps, value: Tensor) -> Tensor:
        """What the critic says of the successors, ``(T, N)``; ``value`` is what it says of the states."""
        if rollout.mask is None or self._values_actions:
            action_mask = None if rollout.next_action_mask is None else rollout.next_action_mask.flatten(0, 1)
            return self._state_value(rollout.next_observation.flatten(0, 1), action_mask).view(value.shape)
        # Where resets are steps of their own, every successor is what the next step acts on.
        last = self._state_value(rollout.next_observation[-1], None)
        return torch.cat([value[1:], last.unsqueeze(0)])

    @property
    def _compares_policies(self) -> bool:
        """Whether anything asks how likely the policy that acted was to do what it did."""
        if self.kl_coefficient or self.advantage == "vtrace":
            return True
        if isinstance(self.policy_loss, PolicyLoss):
            return self.policy_loss.needs_old_log_prob
        return self.epochs > 1  # for Retrace, whose weights are 1 at first

    def _state_value(self, observation: Tensor, action_mask: Tensor | None) -> Tensor:
        """``(B,)``, of states, of whose actions the critic may value all: then the policy's expectation."""
        if not self._values_actions:
            return self.critic_loss.value(self.network.criticize(observation))
        outputs, critic_outputs = self.network(observation)
        if action_mask is not None:  # after an episode's end, where nobody asks for a value, none may be possible
            outputs = self._among(outputs, action_mask | ~action_mask.any(-1, keepdim=True))
        return -all_action_policy_gradient_loss(outputs, self.critic_loss.value(critic_outputs), reduction="none")

    def _taken(self, critic_outputs: Tensor, action: Tensor) -> Tensor:
        """The critic's outputs for the actions taken; all of them where it values states."""
        if not self._values_actions:
            return critic_outputs
        return at_action(critic_outputs, action)

    def _estimate(
        self,
        log_rho: Tensor,
        reward: Tensor,
        discount: Tensor,
        value: Tensor,
        next_value: Tensor,
        truncated: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Advantages, and what the critic should have said, ``(T, N)``; ``value`` is what it did say."""
        if self._values_actions:
            target = retrace(log_rho, reward, discount, value, next_value, lambda_=self.gae_lambda, truncated=truncated)
            return target - value, target
        if self.advantage == "vtrace":
            estimate = vtrace(
                log_rho,
                reward,
                discount,
                value,
                next_value,
                lambda_=self.gae_lambda,
                clip_rho=self.vtrace_clip,
                clip_c=self.vtrace_clip,
                clip_pg_rho=self.vtrace_clip,
                leak=self.vtrace_leak,
                truncated=truncated,
            )
            return estimate.advantage, estimate.target
        if self.advantage == "return":
            returns = lambda_returns(reward, discount, next_value, lambda_=self.gae_lambda, truncated=truncated)
            return returns, returns
        advantage = gae(reward, discount, value, next_value, lambda_=self.gae_lambda, truncated=truncated)
        target = value + advantage
        if self.advantage == "upgo":
            advantage = upgo_returns(reward, discount, next_value, truncated=truncated) - value
        return advantage, target

    def _loss_and_mask(self, *fields: Any) -> tuple[Tensor, Metrics, Tensor | None]:
        """From the fields of a :class:`PolicyBatch`."""
        batch = PolicyBatch(*fields)
        return *self.compute_loss(batch), batch.mask

    def _loss_of_rollout(
        self, rows: Tensor, old_log_prob: Tensor | None = None
    ) -> tuple[Tensor, Metrics, Tensor | None]:
        return self._loss_and_mask(*self._prepare(rows, old_log_prob))

    def update(self) -> list[Tensor]:
        """Learn from the rollout once it is full; where that goes on beside the acting, from the last one's results."""
        if not self.rollout.full:
            return []
        rows, orders = self.rollout.read(), self._draw_orders()
        self.updates += self.epochs * self.minibatches
        if not self.overlap:
            return self._learn(rows, orders, self.steps)
        metrics, old_log_prob = self.beside.take(), None
        if self._compares_policies:
            acted = Transitions(rows.flatten(0, 1), self.layout, 0)
            old_log_prob = self._log_prob(self.actor, acted.observation, acted.action, acted.action_mask)
        for own, newest in self.followed:
            own.copy_(newest)
        self.beside.start(self._learn, rows.clone(), orders, self.steps, old_log_prob)
        return metrics

    def _learn(
        self, rows: Tensor, orders: list[Tensor] | list[None], steps: int, old_log_prob: Tensor | None = None
    ) -> list[Tensor]:
        """The gradient steps of a rollout.

        Args:
            rows: The rollout.
            orders: As :meth:`_draw_orders` gives them.
            steps: Environment steps so far.
            old_log_prob: As in :meth:`_prepare`.
        """
        self.learner.schedule(steps)
        self._see_rewards(rows)
        if self.one_pass:
            metrics = [self.learner.step(rows, old_log_prob)]
        else:
            metrics, batch = [], self._prepare(rows, old_log_prob)
            # What weighs the present policy against the one that acted.
            follows_policy = self.advantage == "vtrace" or self._values_actions
            for epoch, order in enumerate(orders):
                if epoch > 0 and follows_policy:
                    batch = self._prepare(rows, batch.old_log_prob)
                for part in self._split(batch, order):
                    metrics.append(self.learner.step(*part, look=not metrics))
        self._see_observations(rows)
        return metrics

    @torch.no_grad()
    def _log_prob(
        self, network: ActorCritic, observation: Tensor, action: Tensor, action_mask: Tensor | None
    ) -> Tensor:
        """How likely a network's policy is to do what was done."""
        return network.policy.log_prob(self._among(network.decide(observation), action_mask), action)

    @property
    def plays_on_device(self) -> bool:
        """Where one gradient step uses a rollout once, and nothing is normalised by running moments."""
        special = self.normalize_observations or self.normalize_rewards or self.overlap
        return self.one_pass and not special

    def play_on_device(self, env: DeviceVectorEnv, steps: int) -> Played | None:
        """Whole rollouts with their gradient steps as one compiled graph, where each has one and it can be compiled."""
        rounds = self._rounds_in(env)
        if rounds is None:
            return None
        size = rounds.steps_of_a_round
        if self.updates == 0:
            self.learner.schedule(self.steps + size)
            rows, finished = rounds.first()
        else:
            count = min(max(-(-steps // size), 1), rounds.most)
            rates = [self.learner.learning_rate_at(self.steps + k * size) for k in range(1, count + 1)]
            rows, finished = rounds.run(rates)
        self.updates += len(rows)
        self.steps += len(rows) * size
        self.learner.schedule(self.steps)
        return Played(list(rows), finished)

    def _rounds_in(self, env: DeviceVectorEnv) -> RolloutRounds | None:
        """Compiled rounds in the environments, made when they are asked for; None where there can be none."""
        if not (self.plays_on_device and self.learner.can_be_pure and self.rollout.size == 0):
            return None
        if self.rounds is None or self.rounds.env is not env:
            self.rounds = RolloutRounds(
                env,
                self.spec,
                self.learner,
                [self.policy_loss, self.critic_loss],
                choose=lambda observation, noise: self.policy.choose(self.policy(observation), noise),
                draw=self._fill_noise,
                noise_shape=self.policy.noise_shape,
                compute_loss=lambda steps: self._loss_and_mask(*self._prepare_steps(steps)),
                length=self.rollout_length,
            )
        if self.updates > 0 and not self.rounds.prepare():
            return None
        return self.rounds

    def _see_rewards(self, rows: Tensor) -> None:
        if self.reward_normalizer is not None:
            rollout = Transitions(rows, self.layout, 0)
            self.reward_normalizer.update(rollout.reward, rollout.terminated | rollout.truncated, rollout.mask)

    def _see_observations(self, rows: Tensor) -> None:
        """After the gradient steps, so that they learn from the very policy that acted."""
        if self.network.normalizer is not None:
            rollout = Transitions(rows, self.layout, 0)
            self.network.normalizer.update(rollout.observation, rollout.mask)

    def _draw_orders(self) -> list[Tensor] | list[None]:
        """For each epoch the order in which minibatches take the rollout's rows; None where one takes them all."""
        if self.minibatches == 1:
            return [None] * self.epochs
        size = self.rollout_length * self.spec.num_envs
        return [torch.randperm(size, generator=self.generator, device=self.device) for _ in range(self.epochs)]

    def _split(self, batch: PolicyBatch, order: Tensor | None) -> list[PolicyBatch]:
        """Minibatches in that order; the batch itself where there is none."""
        if order is None:
            return [batch]
        return [
            PolicyBatch(*(None if field is None else field[index] for field in batch))  # type: ignore[arg-type]
            for index in order.tensor_split(self.minibatches)
        ]

    @property
    def batch_rows(self) -> int:
        """Those of a minibatch."""
        return -(-self.rollout_length * self.spec.num_envs // self.minibatches)

    def count_updates(self, steps: int, num_envs: int) -> int:
        """One per minibatch, epoch and rollout."""
        return steps // (self.rollout_length * num_envs) * self.epochs * self.minibatches

    def status(self) -> dict[str, float]:
        """The number of gradient steps, and the learning rate where it changes."""
        if self.learning_rate_end is None:
            return {"updates": self.updates}
        return {"updates": self.updates, "learning_rate": self.learner.learning_rate_at(self.steps)}

    def state_dict(self) -> dict[str, Any]:
        """Everything that training goes on from."""
        self.beside.wait()
        return {
            "actor": self.actor.state_dict() if self.overlap else None,
            "unread": list(self.beside.results),
            "network": self.network.state_dict(),
            "policy_loss": self.policy_loss.state_dict(),
            "critic_loss": self.critic_loss.state_dict(),
            "learner": self.learner.state_dict(),
            "rollout": self.rollout.state_dict(),
            "noise": self.noise.state_dict(),
            "reward_normalizer": None if self.reward_normalizer is None else self.reward_normalizer.state_dict(),
            "generator": self.generator.get_state(),
            "steps": self.steps,
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.network.load_state_dict(state["network"])
        if self.overlap:
            self.actor.load_state_dict(state["actor"])
            self.beside.results = list(state["unread"])
        self.policy_loss.load_state_dict(state["policy_loss"])
        self.critic_loss.load_state_dict(state["critic_loss"])
        self.learner.load_state_dict(state["learner"])
        self.rollout.load_state_dict(state["rollout"])
        self.noise.load_state_dict(state["noise"])
        if self.reward_normalizer is not None:
            self.reward_normalizer.load_state_dict(state["reward_normalizer"])
        self.generator.set_state(state["generator"].cpu())
        self.steps = int(state["steps"])
        self.updates = int(state["updates"])


def _spread(x: Tensor, mask: Tensor | None) -> Tensor:
    """Standard deviation of what the mask keeps."""
    centred = x - masked_mean(x, mask)
    return masked_mean(centred.square(), mask).sqrt()
