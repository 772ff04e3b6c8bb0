"""DQN: Q-learning from replay, with any value loss (Mnih et al., "Human-level control", Nature 2015)."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agents.agent import Agent, Metrics, Played, masked_mean
from agents.parts.acting import Choice, chain, reader, to_actions
from agents.parts.device_envs import DeviceVectorEnv
from agents.parts.device_rounds import ReplayRounds
from agents.parts.exploration import RandomActions, linear_schedule
from agents.parts.hyperparameters import check_learning, check_loss
from agents.parts.networks import Activation, QNetwork, draw_noise
from agents.parts.normalization import make_normalizer
from agents.parts.optimization import Learner, call_with, flatten_parameters
from agents.parts.processes import own_share
from agents.parts.replay import Batch, PrioritizedReplay, Replay
from agents.parts.spaces import Discrete
from agents.parts.transition import Transitions
from rlloss.core.checks import check_integer, check_non_negative, check_number, check_positive
from rlloss.core.distributed import process_count
from rlloss.rl.value import TDLoss, ValueLoss


class DQN(Agent):
    """Deep Q-network; double, dueling, n-step, prioritized and noisy by configuration. Discrete actions.

    All counts of steps are environment steps, summed over environments.

    Args:
        loss: What the values learn by; ``TDLoss(HuberLoss())`` by default. Double Q-learning is the loss's option.
            Distributional ones have several outputs per action.
        discount: Discount factor gamma, in [0, 1].
        n_step: Rewards per target, >= 1. What a loss adds to the reward (Munchausen's bonus, the advantage gap) it adds
            once per target.
        dueling: Split the network's head into value and advantage.
        noisy: Explore by learned noise on the weights of all linear layers, drawn anew at every step; epsilon still
            does what it is told. Greedy actions come from the mean weights.
        hidden_sizes: Widths of the MLP's hidden layers (images go through the Nature CNN instead,
            small ones through one convolution before).
        activation: Activation of the MLP.
        normalize_observations: Make each number of an observation one of mean 0 and variance 1, by what training saw so
            far. For a Box of numbers: bytes and bools are scaled already, integers are one-hot.
        optimizer: Name of an optimiser in torch.optim. (Of these Adafactor alone waits for a GPU at every step.)
        learning_rate: Step size, > 0.
        learning_rate_end: Step size in the end, >= 0; null for one that stays.
        learning_rate_steps: Environment steps from the one to the other, linearly.
        optimizer_args: Further arguments of the optimiser, by name.
        max_grad_norm: Largest norm of the gradient, > 0; null for no clipping.
        batch_size: Transitions per gradient step, >= 1.
        replay_capacity: Transitions kept, >= batch_size.
        priority_exponent: How much more often transitions of a large TD error are replayed, alpha >= 0; 0 for uniform
            replay, 0.5 to 0.7 in the papers.
        importance_exponent_start: How much of the bias of prioritized replay the weights of the loss take away at
            first, beta, in [0, 1].
        importance_exponent_end: How much in the end, in [0, 1].
        importance_steps: Environment steps from the one to the other, >= 0; the papers take the whole run's.
        replay_ratio: Gradient steps per environment step, > 0: 0.1 is one for every ten steps.
        update_every: Environment steps between two rounds of gradient steps, >= 1. Between them the policy stays as it
            is: where the values of actions hardly differ, that is what makes it go on in one direction (MountainCar).
        learning_starts: Environment steps before the first gradient step, >= 0.
        target_update_every: Gradient steps between two updates of the target network, >= 1.
        target_update_rate: How far an update moves the target network, in (0, 1]: 1 copies, less is Polyak averaging.
        epsilon_start: Probability of a random action at first, in [0, 1].
        epsilon_end: Probability of a random action in the end, in [0, 1].
        epsilon_steps: Environment steps from the one to the other, >= 0.

    Raises:
        TypeError: An argument of another type.
        ValueError: An argument out of range, or an optimiser that does not exist or refuses its arguments.

    Example:
        >>> from agents.parts.spaces import Box, Discrete, EnvSpec
        >>> agent = DQN(hidden_sizes=[64]).build(EnvSpec(Box((4,), torch.float32), Discrete(2), num_envs=3))
        >>> agent.act(torch.zeros(3, 4), explore=False).shape
        torch.Size([3])
    """

    metric_names = ("loss", "q_value", "td_error", "grad_norm")

    def __init__(
        self,
        *,
        loss: ValueLoss | None = None,
        discount: float = 0.99,
        n_step: int = 1,
        dueling: bool = False,
        noisy: bool = False,
        hidden_sizes: list[int] | None = None,
        activation: Activation = "relu",
        normalize_observations: bool = False,
        optimizer: str = "Adam",
        learning_rate: float = 1e-3,
        learning_rate_end: float | None = None,
        learning_rate_steps: int = 0,
        optimizer_args: dict[str, Any] | None = None,
        max_grad_norm: float | None = 10.0,
        batch_size: int = 128,
        replay_capacity: int = 50_000,
        priority_exponent: float = 0.0,
        importance_exponent_start: float = 0.4,
        importance_exponent_end: float = 1.0,
        importance_steps: int = 50_000,
        replay_ratio: float = 0.1,
        update_every: int = 1,
        learning_starts: int = 1_000,
        target_update_every: int = 100,
        target_update_rate: float = 1.0,
        epsilon_start: float = 1.0,
        epsilon_end: float = 0.05,
        epsilon_steps: int = 10_000,
    ) -> None:
        self.loss: ValueLoss = TDLoss() if loss is None else loss
        self.discount = discount
        self.n_step = n_step
        self.dueling = dueling
        self.noisy = noisy
        self.hidden_sizes = [128, 128] if hidden_sizes is None else hidden_sizes
        self.activation: Activation = activation
        self.normalize_observations = normalize_observations
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.learning_rate_end = learning_rate_end
        self.learning_rate_steps = learning_rate_steps
        self.optimizer_args = optimizer_args or {}
        self.max_grad_norm = max_grad_norm
        self.batch_size = batch_size
        self.replay_capacity = replay_capacity
        self.priority_exponent = priority_exponent
        self.importance_exponent_start = importance_exponent_start
        self.importance_exponent_end = importance_exponent_end
        self.importance_steps = importance_steps
        self.replay_ratio = replay_ratio
        self.update_every = update_every
        self.learning_starts = learning_starts
        self.target_update_every = target_update_every
        self.target_update_rate = target_update_rate
        self.epsilon_start = epsilon_start
        self.epsilon_end = epsilon_end
        self.epsilon_steps = epsilon_steps
        self._check()

    def _check(self) -> None:
        check_loss("DQN", "loss", self.loss, ValueLoss)
        check_learning(
            "DQN",
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
        for name in ("n_step", "batch_size", "update_every", "target_update_every"):
            check_integer("DQN", name, getattr(self, name), low=1)
        check_integer("DQN", "replay_capacity", self.replay_capacity, low=max(self.batch_size, self.n_step))
        for name in ("learning_starts", "epsilon_steps", "importance_steps"):
            check_integer("DQN", name, getattr(self, name))
        check_positive("DQN", replay_ratio=self.replay_ratio)
        check_non_negative("DQN", priority_exponent=self.priority_exponent)
        check_number("DQN", "target_update_rate", self.target_update_rate, low=0.0, high=1.0, low_open=True)
        for name in ("epsilon_start", "epsilon_end", "importance_exponent_start", "importance_exponent_end"):
            check_number("DQN", name, getattr(self, name), low=0.0, high=1.0)

    def _build(self) -> None:
        if not isinstance(self.spec.action, Discrete):
            raise ValueError(f"DQN: needs a Discrete action space, got {self.spec.action}")
        if self.spec.has_action_mask:
            warnings.warn(
                "DQN: the environment says which actions are possible, which DQN does not look at (A2C does)",
                stacklevel=2,
            )
        self.own_batch_size = own_share("DQN", "batch_size", self.batch_size)
        self.own_capacity = own_share("DQN", "replay_capacity", self.replay_capacity)
        # A loss that wants the action taken next looks one step further.
        self.window = self.n_step + self.loss.needs_next_action
        if self.own_capacity <= (self.window - 1) * self.spec.num_envs:
            raise ValueError(
                f"DQN: replay_capacity must hold {self.window} steps of each environment, so be more than "
                f"{(self.window - 1) * self.spec.num_envs * process_count()}, got {self.replay_capacity}"
            )
        self.num_actions = self.spec.action.n
        self.loss.to(self.device)
        self.network = QNetwork(
            self.spec.observation,
            self.num_actions,
            self.loss.outputs_per_action,
            hidden_sizes=self.hidden_sizes,
            activation=self.activation,
            dueling=self.dueling,
            noisy=self.noisy,
        ).to(self.device)
        self.learner = Learner(
            "DQN",
            self.network,
            self._loss_by_priority if self.priority_exponent else self._loss_at,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            optimizer_args=self.optimizer_args,
            max_grad_norm=self.max_grad_norm,
            compiled=self.compiled,
            learning_rate_end=self.learning_rate_end,
            learning_rate_steps=self.learning_rate_steps,
            after_step=self._update_target if self.target_update_every == 1 else None,
            made_of=self.arguments,
        )
        heads = [] if self.dueling else [self.network.advantage]
        self.first_layers = chain([*self.network.encoder, *heads])
        self.as_array = reader(self.device)
        self.choice = Choice(
            "DQN", self._choose_in_graph, self._choose, [self.loss], self.device, compiled=self.compiled
        )
        self.random_actions = RandomActions(self.num_actions, self.spec.num_envs, self.generator.initial_seed())
        self.target_network = copy.deepcopy(self.network).requires_grad_(False)
        if self.normalize_observations:  # one for both networks; the online one's, so that a model file holds it
            self.network.normalizer = make_normalizer("DQN", self.spec.observation).to(self.device)
        self.target_parameters = flatten_parameters(self.target_network).requires_grad_(False)
        # The importance exponent, which changes, as a compiled graph takes it.
        self.exponent = torch.zeros((), device=self.device)
        self.replay: Replay | None = None
        self.rounds: ReplayRounds | None = None
        self.starts_eagerly = False  # where acting and the compiled gradient step are parts of rounds on the device
        self.updates = 0

    def _make_replay(self) -> Replay:
        arguments = self.layout, self.own_capacity, self.spec.num_envs, self.device
        if self.priority_exponent == 0.0:
            return Replay(*arguments)
        return PrioritizedReplay(*arguments, n_step=self.window, exponent=self.priority_exponent)

    @property
    def model(self) -> nn.Module:
        """The Q-network."""
        return self.network

    @property
    def epsilon(self) -> float:
        """Probability of a random action."""
        return linear_schedule(self.epsilon_start, self.epsilon_end, self.epsilon_steps, self.steps)

    @property
    def importance_exponent(self) -> float:
        """How much of the bias of prioritized replay the weights take away, beta."""
        start, end = self.importance_exponent_start, self.importance_exponent_end
        return linear_schedule(start, end, self.importance_steps, self.steps)

    def act(self, observation: Tensor, *, explore: bool = True) -> Tensor:
        """Epsilon-greedy, with one coin per environment; the weights' noise is that of all environments."""
        noise = self._draw_noise(1)[0] if explore and self.noisy else None
        usual = explore and observation.shape[0] == self.spec.num_envs and not self.starts_eagerly
        action = to_actions((self.choice if usual else self._choose)(observation, noise))
        return self.random_actions.mix(action, self.epsilon) if explore else action

    def _choose(self, observation: Tensor, noise: Tensor | None) -> Any:
        outputs = self._outputs_to_act_on(self._normalized(observation), noise)
        return self.as_array(self.loss.q_values(outputs)).argmax(-1)

    def _choose_in_graph(self, observation: Tensor, noise: Tensor | None) -> Tensor:
        """As :meth:`_choose`, of tensors alone."""
        return self.loss.q_values(self.network(self._normalized(observation), noise)).argmax(-1)

    def _outputs_to_act_on(self, observation: Tensor, noise: Tensor | None) -> Tensor:
        if not (self.dueling or noise is not None):
            return self.network.combine(self.first_layers(observation), None)
        with torch.no_grad():
            if noise is not None:
                return self.network(observation, noise)  # type: ignore[no-any-return]
            return self.network.heads(self.first_layers(observation))

    def _normalized(self, observation: Tensor) -> Tensor:
        """Observations as the networks see them."""
        normalizer = self.network.normalizer
        return observation if normalizer is None else normalizer(observation)

    def _draw_noise(self, count: int) -> Tensor:
        return draw_noise(count, self.network.noise_size, self.generator)

    def observe(self, transitions: Transitions) -> None:
        """Store one step of all environments."""
        if self.replay is None:  # made late: an evaluation needs none
            self.replay = self._make_replay()
        self.replay.write(transitions)
        if self.network.normalizer is not None:
            self.network.normalizer.update(transitions.observation, transitions.mask)
        self.steps += transitions.count

    def cut(self) -> None:
        """Mark the newest transitions as truncated."""
        if self.replay is not None:
            self.replay.cut()

    def compute_loss(self, batch: Batch, noise: Tensor | None = None) -> tuple[Tensor, Metrics]:
        """The value loss of sampled transitions.

        Args:
            batch: The transitions.
            noise: ``(3, noise_size)``, of the weights of the online network, of the target network, and of the online
                network when it chooses the successor's action; None for the mean weights.
        """
        loss, metrics, _ = self._compute_loss(batch, noise)
        return loss, metrics

    def _compute_loss(self, batch: Batch, noise: Tensor | None) -> tuple[Tensor, Metrics, Tensor]:
        """Loss, metrics, and the TD error of each transition."""
        noise_online, noise_target, noise_selector = (None, None, None) if noise is None else noise.unbind()
        observation, next_observation = (self._normalized(x) for x in (batch.observation, batch.next_observation))
        outputs = self.network(observation, noise_online)
        with torch.no_grad():
            next_outputs = self.target_network(next_observation, noise_target)
            selector = self.network(next_observation, noise_selector) if self.loss.double else None
            here = self.target_network(observation, noise_target) if self.loss.needs_target_outputs else None
        loss, td_error = self.loss(
            outputs,
            batch.action,
            batch.reward,
            batch.discount,
            next_outputs,
            selector_outputs=selector,
            target_outputs=here,
            next_action=batch.next_action,
            weight=batch.weight,
            mask=batch.mask,
        )
        q_value = self.loss.q_values(outputs.detach()).mean(-1)
        metrics = {
            "loss": loss.detach(),
            "q_value": masked_mean(q_value, batch.mask),
            "td_error": masked_mean(td_error.abs(), batch.mask),
        }
        return loss, metrics, td_error

    def _loss_at(self, index: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Metrics, Tensor | None]:
        """The loss of the replay's transitions at ``index``, and which of them count."""
        batch = self._gather(index)
        return *self.compute_loss(batch, noise), batch.mask

    def _loss_by_priority(
        self, uniform: Tensor, exponent: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Metrics, Tensor | None]:
        """As :meth:`_loss_at`, of transitions that are drawn by random numbers here and get their new priorities."""
        replay = self.replay
        assert isinstance(replay, PrioritizedReplay)
        index = replay.draw_at(uniform)
        batch = self._gather(index)._replace(weight=replay.weights(index, exponent))
        loss, metrics, td_error = self._compute_loss(batch, noise)
        replay.update(index, td_error)
        return loss, metrics, batch.mask

    def _gather(self, index: Tensor) -> Batch:
        assert self.replay is not None
        return self.replay.gather(index, self.discount, next_action=self.loss.needs_next_action)

    def update(self) -> list[Tensor]:
        """Take as many gradient steps as the replay ratio asks for by the last round."""
        if self.replay is None or not self.replay.can_sample(self.window):
            return []
        last_round = self.steps - self.steps % self.update_every
        due = self.count_updates(last_round, self.spec.num_envs) - self.updates
        if not due:
            return []
        self.learner.schedule(self.steps)
        self.choice.look()
        return [self._gradient_step(self.replay, look=k == 0) for k in range(due)]

    def _gradient_step(self, replay: Replay, *, look: bool) -> Tensor:
        drawn: tuple[Tensor, ...]
        if isinstance(replay, PrioritizedReplay):
            uniform = replay.draw_uniform(self.own_batch_size, self.generator)
            drawn = uniform, self.exponent.fill_(self.importance_exponent)
        else:
            drawn = (replay.draw(self.own_batch_size, self.window, self.generator),)
        noise = self._draw_noise(3) if self.noisy else None
        if self.starts_eagerly and self.rounds is None:  # a graph of its own would serve for these few
            metrics = self.learner.eager_step(self._loss_at, *drawn)
        else:
            metrics = self.learner.step(*drawn, noise, look=look)
        self.updates += 1
        if self.target_update_every > 1 and self.updates % self.target_update_every == 0:
            self._update_target(self.learner.vector)
        return metrics

    @property
    def plays_on_device(self) -> bool:
        """Where the replay is uniform and single transitions are drawn from it."""
        several = self.n_step > 1 or self.loss.needs_next_action
        return not (several or self.noisy or self.priority_exponent or self.normalize_observations)

    def play_on_device(self, env: DeviceVectorEnv, steps: int) -> Played | None:
        """Steps of all environments with the gradient steps that are due, as one compiled graph.

        The gradient steps of the first round are taken without.
        """
        if not (self.plays_on_device and self.learner.can_be_pure):
            return None
        self.starts_eagerly = True
        if self.updates == 0 or self.replay is None:
            return None
        if self.rounds is None or self.rounds.env is not env:
            self.rounds = self._make_rounds(env, self.replay)
        if not self.rounds.prepare():
            self.starts_eagerly = False
            return None
        due, rates, target_rates = self._plan(
            self.rounds, self.replay, min(-(-steps // env.num_envs), self.rounds.most)
        )
        if not due:
            return None
        metrics, finished = self.rounds.run(due, rates, target_rates)
        self.learner.schedule(self.steps)
        return Played(list(metrics), finished)

    def _make_rounds(self, env: DeviceVectorEnv, replay: Replay) -> ReplayRounds:
        def choose(observation: Tensor, random: Tensor) -> Tensor:
            return torch.where(random < 0, self.loss.q_values(self.network(observation)).argmax(-1), random)

        def compute_loss(target: Tensor, batch: Batch) -> tuple[Tensor, Metrics, None]:
            return *call_with([target], self.target_network, self.compute_loss, batch), None

        return ReplayRounds(
            env,
            self.spec,
            self.learner,
            [self.loss],
            choose,
            compute_loss,
            replay,
            self.target_parameters,
            self.discount,
            self.batch_size,
            math.ceil(self.replay_ratio * max(self.update_every, env.num_envs)),
        )

    def _plan(self, rounds: ReplayRounds, replay: Replay, number: int) -> tuple[list[int], list[float], list[float]]:
        """Draw the random numbers of up to so many rounds, count steps and gradient steps, and say what is due when."""
        due: list[int] = []
        random = np.full((rounds.most, self.spec.num_envs), -1)
        rates: list[float] = []
        target_rates: list[float] = []
        for k in range(number):
            steps = self.steps + self.spec.num_envs
            updates = self.count_updates(steps - steps % self.update_every, self.spec.num_envs) - self.updates
            if len(rates) + updates > rounds.most_updates:
                break
            random[k] = self.random_actions.mix(random[k], self.epsilon)
            self.steps = steps
            starts = min(replay.size + k + 1, replay.length) * replay.num_envs
            for m in range(len(rates), len(rates) + updates):
                torch.randint(starts, (self.batch_size,), generator=self.generator, out=rounds.index[m])
                rates.append(self.learner.learning_rate_at(steps))
                self.updates += 1
                target_rates.append(0.0 if self.updates % self.target_update_every else self.target_update_rate)
            due.append(updates)
        rounds.random.copy_(torch.from_numpy(random))
        return due, rates, target_rates

    @torch.no_grad()
    def _update_target(self, online: Tensor) -> None:
        self.target_parameters.lerp_(online, self.target_update_rate)

    @property
    def batch_rows(self) -> int:
        """Its share of the batch size."""
        return self.own_batch_size

    def count_updates(self, steps: int, num_envs: int) -> int:
        """The replay ratio times the steps after the start of learning."""
        return max(int((steps - self.learning_starts) * self.replay_ratio), 0)

    def status(self) -> dict[str, float]:
        """Epsilon, the number of gradient steps, and the learning rate where it changes."""
        status: dict[str, float] = {"epsilon": self.epsilon, "updates": self.updates}
        if self.learning_rate_end is not None:
            status["learning_rate"] = self.learner.learning_rate_at(self.steps)
        return status

    def state_dict(self) -> dict[str, Any]:
        """Everything that training goes on from."""
        return {
            "network": self.network.state_dict(),
            "loss": self.loss.state_dict(),
            "target_network": self.target_network.state_dict(),
            "learner": self.learner.state_dict(),
            "replay": None if self.replay is None else self.replay.state_dict(),
            "generator": self.generator.get_state(),
            "random_actions": self.random_actions.state_dict(),
            "steps": self.steps,
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.network.load_state_dict(state["network"])
        self.loss.load_state_dict(state["loss"])
        self.target_network.load_state_dict(state["target_network"])
        self.learner.load_state_dict(state["learner"])
        self.replay = self.rounds = None  # which learn from the replay that was
        if state["replay"] is not None:
            self.replay = self._make_replay()
            self.replay.load_state_dict(state["replay"])
        self.generator.set_state(state["generator"].cpu())
        self.random_actions.load_state_dict(state["random_actions"])
        self.steps = int(state["steps"])
        self.updates = int(state["updates"])
