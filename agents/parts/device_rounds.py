"""Rounds of acting and learning in device environments as one compiled graph, in which the host has no part.

A round is a rollout and the gradient step on it. One step of environments and policy is traced once, and so is the
gradient step; the loops around them are loops in the graph. So it compiles in the time of one of each, whatever the
length of a rollout, and what a call costs is shared by many rounds.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._functorch.compile_utils import fx_graph_cse
from torch._higher_order_ops import scan, while_loop
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from agents.parts.device_envs import DeviceVectorEnv, Episodes, Finished, advance
from agents.parts.optimization import Learner
from agents.parts.spaces import Box, EnvSpec, Space

# How many environment steps one call takes, about: enough to forget what a call costs, few enough to stop in time.
_STEPS_OF_A_CALL = 2_000


class Steps(NamedTuple):
    """Steps ``(T, N, ...)`` of environments that always act and whose actions are always possible.

    The fields are those of :class:`~agents.parts.transition.Transitions`.
    """

    observation: Tensor
    next_observation: Tensor
    action: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor

    @property
    def mask(self) -> None:
        """All are transitions."""

    @property
    def action_mask(self) -> None:
        """All actions are possible."""

    @property
    def next_action_mask(self) -> None:
        """All actions are possible."""


def to_environment(action: Tensor, space: Space, shape: tuple[int, ...]) -> Tensor:
    """An agent's actions ``(N, ...)`` as the environments take them: those of a Box within its bounds."""
    if not isinstance(space, Box):
        return action
    low, high = (torch.tensor(bound, device=action.device).view(shape) for bound in (space.low, space.high))
    if space.squashed:
        action = low + (high - low) * (0.5 + 0.5 * action.tanh())
    return torch.minimum(torch.maximum(action.view(-1, *shape), low), high)


class DeviceRounds:
    """Plays and learns rounds in device environments.

    Args:
        env: The environments.
        spec: What the agent was built for.
        learner: What learns; its step has to be pure (``can_be_pure``).
        choose: From observations ``(N, ...)`` and random numbers to actions.
        draw: Fills a tensor ``(length, N, *noise_shape)`` with the random numbers of a round, in one call.
        noise_shape: Random numbers of one action.
        compute_loss: From :class:`Steps` ``(length, N, ...)`` to the loss and scalars to log.
        length: Steps of each environment in a round, T.
    """

    def __init__(
        self,
        env: DeviceVectorEnv,
        spec: EnvSpec,
        learner: Learner,
        choose: Callable[[Tensor, Tensor], Tensor],
        draw: Callable[[Tensor], Any],
        noise_shape: tuple[int, ...],
        compute_loss: Callable[[Steps], tuple[Tensor, dict[str, Tensor]]],
        length: int,
    ) -> None:
        self.env = env
        self.learner = learner
        self.length = length
        self.steps_of_a_round = length * env.num_envs
        self.most = max(1, _STEPS_OF_A_CALL // self.steps_of_a_round)
        self._spec = spec
        self._choose = choose
        self._draw = draw
        self._compute_loss = compute_loss
        size = (self.most, length, env.num_envs)
        self._noise = torch.zeros(*size, *noise_shape, device=env.device)
        self._uniform = torch.zeros(*size, env.rules.num_uniforms, device=env.device)
        self._compiled: Callable[..., Any] | None = None
        self._failed = False

    def first(self) -> tuple[Tensor, Finished]:
        """One round without the compiler, after which the optimiser has a state to go on from."""
        self._fill(1)
        with torch.no_grad():
            rows = []
            for noise, uniform in zip(self._noise[0], self._uniform[0], strict=True):
                assert self.learner.flat is not None
                result = self._step(self.learner.flat, *self.env.episodes, noise, uniform)
                self.env.episodes = Episodes(*result[:3])
                rows.append(result[3:])
            fields = [torch.stack(column) for column in zip(*rows, strict=True)]
        row = self.learner.first_step(self._compute_loss, Steps(*fields[:6]))
        return row.unsqueeze(0), Finished(*(x.unsqueeze(0) for x in _finished(fields)))

    def prepare(self) -> bool:
        """Compile, once the optimiser has a state, where it has not been done; nothing else changes.

        Returns:
            Whether it could be compiled; with a warning where it could not.
        """
        if self._compiled is None and not self._failed:
            state, episodes = self.learner.state(), list(self.env.episodes)
            try:
                compiled = self._compile(state, episodes)
                with torch.no_grad():
                    compiled(self._count(0), state, episodes, self._noise, self._uniform, self._rates([]))
                self._compiled = compiled
            except Exception as error:  # what tracing the code of a loss or an environment may raise is anyone's guess
                self._failed = True
                reason = str(error).strip().splitlines()[0]
                warnings.warn(f"rounds on the device cannot be compiled, goes on without: {reason}", stacklevel=2)
        return self._compiled is not None

    def run(self, rates: Sequence[float]) -> tuple[Tensor, Finished]:
        """Play and learn rounds; after :meth:`prepare`.

        Args:
            rates: The learning rate of each: from 1 to :attr:`most`.

        Returns:
            The scalars to log, a row a round, and the episodes that ended.
        """
        assert self._compiled is not None
        rounds = len(rates)
        self._fill(rounds)
        state = self.learner.state()
        with torch.no_grad():
            changed, begun, rows, *finished = self._compiled(
                self._count(rounds), state, list(self.env.episodes), self._noise, self._uniform, self._rates(rates)
            )
            for tensor, value in zip(state, changed, strict=True):
                tensor.copy_(value)
        self.env.episodes = Episodes(*begun)
        return rows[:rounds], Finished(*(x[:rounds] for x in finished))

    def _count(self, rounds: int) -> Tensor:
        return torch.tensor(rounds, device=self.env.device)

    def _rates(self, rates: Sequence[float]) -> Tensor:
        return torch.tensor([*rates, *[0.0] * (self.most - len(rates))], device=self.env.device)

    def _fill(self, rounds: int) -> None:
        """Draw the random numbers round by round, so that they do not depend on how many a call takes."""
        for k in range(rounds):
            self._draw(self._noise[k])
            self._uniform[k] = self.env.draw(self.length)

    def _step(
        self, flat: Tensor, state: Tensor, length: Tensor, episode_return: Tensor, noise: Tensor, uniform: Tensor
    ) -> list[Tensor]:
        """Act once: where the episodes stand then, the fields of :class:`Steps`, and episodes' lengths and returns."""
        env, dtype = self.env, self._observation_dtype()
        observation = env.rules.observe(state).to(dtype)
        action = self.learner.call(flat, self._choose, observation, noise)
        taken = to_environment(action, self._spec.action, env.single_action_space.shape or ())
        before = Episodes(state, length, episode_return)
        episodes, outcome = advance(env.rules, before, taken, uniform, env.max_episode_steps)
        fields = (
            observation,
            outcome.successor.to(dtype),
            action,
            outcome.reward,
            outcome.terminated,
            outcome.truncated,
        )
        return [x.clone() for x in (*episodes, *fields, outcome.length, outcome.episode_return)]

    def _observation_dtype(self) -> torch.dtype:
        observation = self._spec.observation
        return observation.dtype if isinstance(observation, Box) else torch.int64

    def _compile(self, state: list[Tensor], episodes: list[Tensor]) -> Callable[..., Any]:
        step = _trace(self._step, state[0], *episodes, self._noise[0, 0], self._uniform[0, 0])
        with torch.no_grad():
            example = step(state[0], *episodes, self._noise[0, 0], self._uniform[0, 0])[3:9]
        batch = [x.expand(self.length, *x.shape).clone() for x in example]
        count = len(state)

        def learn(*tensors: Tensor) -> list[Tensor]:
            state, rate, fields = list(tensors[:count]), tensors[count], tensors[count + 1 :]
            changed, row = self.learner.pure_step(state, rate, lambda *x: self._compute_loss(Steps(*x)), *fields)
            return [*changed, row]

        rate = torch.zeros((), device=self.env.device)
        update = _trace(learn, *state, rate, *batch)
        row_length = len(update(*state, rate, *batch)[-1])

        def one_round(carry: list[Tensor], noise: Tensor, uniform: Tensor, rate: Tensor) -> list[Tensor]:
            flat = carry[0]

            def act(episodes: list[Tensor], drawn: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
                result = step(flat, *episodes, *drawn)
                return list(result[:3]), list(result[3:])

            episodes, fields = scan(act, carry[count:], [noise, uniform])
            *changed, row = update(*carry[:count], rate, *fields[:6])
            return [*changed, *episodes, row, *_finished(fields)]

        most = self.most

        def rounds(
            count_: Tensor, state: list[Tensor], episodes: list[Tensor], noise: Tensor, uniform: Tensor, rate: Tensor
        ) -> Any:
            size = noise.shape[:3]
            kept = [
                noise.new_zeros(most, row_length),
                torch.zeros(size, dtype=torch.bool, device=noise.device),
                noise.new_zeros(size),
                torch.zeros(size, dtype=torch.int32, device=noise.device),
            ]

            def body(k: Tensor, *carry: Tensor) -> tuple[Tensor, ...]:
                index = k.view(1)
                drawn = [x.index_select(0, index).squeeze(0) for x in (noise, uniform, rate)]
                result = one_round(list(carry[:-4]), *drawn)
                kept = [x.index_copy(0, index, y.unsqueeze(0)) for x, y in zip(carry[-4:], result[-4:], strict=True)]
                return (k + 1, *(x.clone() for x in result[:-4]), *kept)

            start = torch.zeros((), dtype=torch.int64, device=noise.device)
            carry = (start, *state, *episodes, *kept)
            _, *end = while_loop(lambda k, *_: k < count_, body, carry)  # type: ignore[no-untyped-call]
            return end[:count], end[count:-4], *end[-4:]

        options: dict[str, Any] | None = {"cpp_wrapper": True} if self.env.device.type == "cpu" else None
        compiled: Callable[..., Any] = torch.compile(  # type: ignore[call-overload]
            rounds, fullgraph=True, dynamic=False, isolate_recompiles=True, options=options
        )
        return compiled


def _finished(fields: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """From what :meth:`DeviceRounds._step` returns after the episodes."""
    return fields[4] | fields[5], fields[7], fields[6]


def _trace(function: Callable[..., Any], *examples: Tensor) -> GraphModule:
    """A function of tensors as a graph of tensor operations, gradients included, that changes nothing in place.

    What is computed twice, such as the values of the same states with and without gradient, is computed once.
    """
    plain = make_fx(lambda *x: function(*x))(*examples)  # which a method is not taken for
    traced = make_fx(torch.func.functionalize(lambda *x: plain(*x)))(*examples)
    graph = fx_graph_cse(traced.graph)
    graph.eliminate_dead_code()
    return GraphModule(traced, graph)
