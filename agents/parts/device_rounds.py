"""Rounds of acting and learning in device environments as compiled graphs, in which the host has no part.

A round is a rollout and the gradient step on it. One step of environments and policy is traced once, and so is the
gradient step. On a CPU the loops around them are loops in the graph, so that it compiles in the time of one of each,
whatever the length of a rollout, and what a call costs is shared by many rounds. A GPU would wait for the host at each
turn of such a loop; there both are compiled by themselves, and the host starts CUDA graphs of them, round by round.
"""

from __future__ import annotations

import itertools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._higher_order_ops import scan, while_loop
from torch.fx import GraphModule

from agents.parts.device_envs import DeviceVectorEnv, Episodes, Finished, advance
from agents.parts.graphs import (
    compile_function,
    compile_graph,
    compiler_options,
    first_line,
    has_cuda_graphs,
    replayed,
    trace,
)
from agents.parts.optimization import ComputeLoss, Learner, call_with
from agents.parts.replay import Batch, Replay
from agents.parts.spaces import Box, EnvSpec, Space
from agents.parts.transition import Transitions

# How many environment steps one call takes at most, about, so that a run stops in time.
_STEPS_OF_A_CALL = 12_000


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


class _Rounds(ABC):
    """What rounds have in common: one step of environments and policy, and how to compile.

    Attributes:
        rounds_of_a_call: Enough to forget what a call costs. What each round leaves behind is copied in every round, so
            more are slower.
    """

    rounds_of_a_call: int

    def __init__(
        self,
        env: DeviceVectorEnv,
        spec: EnvSpec,
        learner: Learner,
        losses: Sequence[nn.Module],
        choose: Callable[[Tensor, Tensor], Tensor],
        length: int,
    ) -> None:
        self.env = env
        self.learner = learner
        self._computed_with = nn.ModuleList([learner.module, *losses])
        self.length = length
        self.steps_of_a_round = length * env.num_envs
        self.most = max(1, min(self.rounds_of_a_call, _STEPS_OF_A_CALL // self.steps_of_a_round))
        self._spec = spec
        self._choose = choose
        self._compiled: Callable[..., Any] | None = None
        self._failed = False

    @abstractmethod
    def _compile(self) -> Callable[..., Any]:
        """Make the compiled function."""

    @abstractmethod
    def _arguments(self) -> tuple[Any, ...]:
        """Arguments for the compiled function, of no rounds."""

    def prepare(self) -> bool:
        """Compile, once the optimiser has a state, where it has not been done; nothing else changes.

        Returns:
            Whether it could be compiled; with a warning where it could not.
        """
        if self._compiled is None and not self._failed:
            try:
                compiled = self._compile_what_keeps_no_state()
                with torch.no_grad():
                    compiled(*self._arguments())
                self._compiled = compiled
            except Exception as error:  # what tracing the code of a loss or an environment may raise is anyone's guess
                self._failed = True
                warnings.warn(
                    f"rounds on the device cannot be compiled, goes on without: {first_line(error)}", stacklevel=2
                )
        return self._compiled is not None

    def _compile_what_keeps_no_state(self) -> Callable[..., Any]:
        """Compile, where no module changes a buffer of its own, which would be a constant in the graph."""
        changed = ""
        before = [
            (module, name, buffer, buffer._version, buffer.clone())
            for module in self._computed_with.modules()
            for name, buffer in module.named_buffers(recurse=False)
        ]
        try:
            return self._compile()
        finally:
            for module, name, buffer, version, value in before:
                if getattr(module, name) is not buffer or buffer._version != version:
                    setattr(module, name, buffer)
                    with torch.no_grad():
                        buffer.copy_(value)
                    changed = f"{type(module).__name__} keeps a state of its own, {name}"
            if changed:
                raise ValueError(changed)

    def _compile_graph(self, graph: GraphModule, *examples: Tensor) -> Callable[..., list[Tensor]]:
        """What is traced already, as a function by itself, which was called once: a kernel may be refused then."""
        compiled = compile_graph(graph, [*examples], compiler_options(self.env.device, [graph]))
        with torch.no_grad():
            compiled(*examples)
        return compiled

    def _number(self) -> Tensor:
        """A place for a count."""
        return torch.zeros((), dtype=torch.int64, device=self.env.device)

    def _step(
        self, flat: Tensor, state: Tensor, length: Tensor, episode_return: Tensor, noise: Tensor, uniform: Tensor
    ) -> list[Tensor]:
        """Act once: where the episodes stand then, the fields of :class:`Steps`, and episodes' lengths and returns."""
        env, dtype = self.env, self._observation_dtype()
        observation = env.rules.observe(state).to(dtype)
        action = call_with([flat], self.learner.module, self._choose, observation, noise)
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


class RolloutRounds(_Rounds):
    """Plays and learns rounds of a rollout each and the gradient step on it.

    Args:
        env: The environments.
        spec: What the agent was built for.
        learner: What learns; its step has to be pure (``can_be_pure``).
        losses: The modules that ``compute_loss`` computes with, beside the learner's.
        choose: From observations ``(N, ...)`` and random numbers to actions.
        draw: Fills a tensor ``(length, N, *noise_shape)`` with the random numbers of a round, in one call.
        noise_shape: Random numbers of one action.
        compute_loss: From :class:`Steps` ``(length, N, ...)`` to what a learner's ``compute_loss`` returns.
        length: Steps of each environment in a round, T.
    """

    rounds_of_a_call = 32

    def __init__(
        self,
        env: DeviceVectorEnv,
        spec: EnvSpec,
        learner: Learner,
        losses: Sequence[nn.Module],
        choose: Callable[[Tensor, Tensor], Tensor],
        draw: Callable[[Tensor], Any],
        noise_shape: tuple[int, ...],
        compute_loss: ComputeLoss,
        length: int,
    ) -> None:
        super().__init__(env, spec, learner, losses, choose, length)
        self._draw = draw
        self._compute_loss = compute_loss
        size = (self.most, length, env.num_envs)
        self._noise = torch.zeros(*size, *noise_shape, device=env.device)
        self._uniform = torch.zeros(*size, env.rules.num_uniforms, device=env.device)

    def first(self) -> tuple[Tensor, Finished]:
        """One round without the compiler, after which the optimiser has a state to go on from."""
        self._fill(1)
        assert self.learner.flat is not None
        with torch.no_grad():
            episodes, fields = _play(self._step, self.learner.flat, self.env.episodes, self._noise[0], self._uniform[0])
        self.env.episodes = Episodes(*episodes)
        row = self.learner.eager_step(self._compute_loss, Steps(*fields[:6]))
        return row.unsqueeze(0), Finished(*(x.unsqueeze(0) for x in _finished(fields)))

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
                torch.tensor(rounds), state, list(self.env.episodes), self._noise, self._uniform, self._rates(rates)
            )
            _overwrite(state, changed)
        self.env.episodes = Episodes(*begun)
        return rows[:rounds], Finished(*(x[:rounds] for x in finished))

    def _rates(self, rates: Sequence[float]) -> Tensor:
        return torch.tensor([*rates, *[0.0] * (self.most - len(rates))], device=self.env.device)

    def _fill(self, rounds: int) -> None:
        """Draw the random numbers round by round, so that they do not depend on how many a call takes."""
        for k in range(rounds):
            self._draw(self._noise[k])
            self._uniform[k] = self.env.draw(self.length)

    def _arguments(self) -> tuple[Any, ...]:
        return (
            torch.tensor(0),
            self.learner.state(),
            list(self.env.episodes),
            self._noise,
            self._uniform,
            self._rates([]),
        )

    def _kept(self, row_length: int) -> list[Tensor]:
        """What each round of a call leaves behind: scalars to log, and which episodes ended."""
        size, device = (self.most, self.length, self.env.num_envs), self.env.device
        return [
            torch.zeros(self.most, row_length, device=device),
            torch.zeros(size, dtype=torch.bool, device=device),
            torch.zeros(size, device=device),
            torch.zeros(size, dtype=torch.int32, device=device),
        ]

    def _compile(self) -> Callable[..., Any]:
        state, episodes = self.learner.state(), list(self.env.episodes)
        example_of_a_step = state[0], *episodes, self._noise[0, 0], self._uniform[0, 0]
        step = trace(self._step, *example_of_a_step)
        with torch.no_grad():
            example = step(*example_of_a_step)[3:9]
        batch = [x.expand(self.length, *x.shape).clone() for x in example]
        count = len(state)

        def learn(*tensors: Tensor) -> list[Tensor]:
            state, rate, fields = list(tensors[:count]), tensors[count], tensors[count + 1 :]
            changed, row = self.learner.pure_step(state, rate, lambda *x: self._compute_loss(Steps(*x)), *fields)
            return [*changed, row]

        rate = torch.zeros((), device=self.env.device)
        update = trace(learn, *state, rate, *batch)
        row_length = len(update(*state, rate, *batch)[-1])
        if has_cuda_graphs(self.env.device):
            return self._recorded(
                self._compile_graph(step, *example_of_a_step),
                self._compile_graph(update, *state, rate, *batch),
                self._kept(row_length),
            )

        def one_round(carry: list[Tensor], noise: Tensor, uniform: Tensor, rate: Tensor) -> list[Tensor]:
            flat = carry[0]

            def act(episodes: list[Tensor], drawn: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
                result = step(flat, *episodes, *drawn)
                return list(result[:3]), list(result[3:])

            episodes, fields = scan(act, carry[count:], [noise, uniform])
            *changed, row = update(*carry[:count], rate, *fields[:6])
            return [*changed, *episodes, row, *_finished(fields)]

        def rounds(
            count_: Tensor, state: list[Tensor], episodes: list[Tensor], noise: Tensor, uniform: Tensor, rate: Tensor
        ) -> Any:
            def body(k: Tensor, *carry: Tensor) -> tuple[Tensor, ...]:
                result = one_round(list(carry[:-4]), *(_row(x, k) for x in (noise, uniform, rate)))
                kept = [_with_row(x, k, y) for x, y in zip(carry[-4:], result[-4:], strict=True)]
                return (k + 1, *(x.clone() for x in result[:-4]), *kept)

            carry = (self._number(), *state, *episodes, *self._kept(row_length))
            _, *end = _loop(lambda k, *_: k < count_, body, carry)
            return end[:count], end[count:-4], *end[-4:]

        return compile_function(rounds, self.env.device, [step, update])

    def _recorded(
        self, step: Callable[..., list[Tensor]], update: Callable[..., list[Tensor]], kept: list[Tensor]
    ) -> Callable[..., Any]:
        """A round as a CUDA graph, which the host starts once for each and never waits for.

        It takes no arguments and returns nothing: what it reads and writes stays where it is.
        """
        state, episodes = ([x.clone() for x in tensors] for tensors in (self.learner.state(), self.env.episodes))
        rates, number = self._rates([]), self._number()

        def one_round() -> list[Tensor]:
            now, fields = _play(step, state[0], episodes, _row(self._noise, number), _row(self._uniform, number))
            *changed, row = update(*state, _row(rates, number), *fields[:6])
            _overwrite([*state, *episodes], [*changed, *now])
            for table, new in zip(kept, (row, *_finished(fields)), strict=True):
                _write_row(table, number, new)
            number.add_(1)
            return []

        start = replayed(one_round, self.env.device, state)

        def rounds(count: Tensor, begun: list[Tensor], running: list[Tensor], *given: Tensor) -> Any:
            *_, rate = given  # the random numbers are read where they are
            number.zero_()
            _overwrite([*state, *episodes, rates], [*begun, *running, rate])
            for _ in range(int(count)):
                start()
            return [x.clone() for x in state], [x.clone() for x in episodes], *(x.clone() for x in kept)

        return rounds


class ReplayRounds(_Rounds):
    """Plays and learns rounds of one step of all environments and the gradient steps that are due after it.

    The replay's rows are read and not written by the graph: the steps of a call stand beside them until it is over.

    Args:
        env: The environments.
        spec: What the agent was built for.
        learner: What learns; its step has to be pure.
        losses: The modules that ``compute_loss`` computes with, beside the learner's and the target network.
        choose: From observations ``(N, ...)`` and random actions, -1 where there is none, to actions.
        compute_loss: From the target network's parameters and a batch to what a learner's ``compute_loss`` returns.
        replay: What to draw from, uniformly and single transitions.
        target: The target network's parameters.
        discount: gamma, in [0, 1].
        batch_size: Transitions of a gradient step.
        updates: Gradient steps that a round has at most, but for one.
    """

    rounds_of_a_call = 64

    def __init__(
        self,
        env: DeviceVectorEnv,
        spec: EnvSpec,
        learner: Learner,
        losses: Sequence[nn.Module],
        choose: Callable[[Tensor, Tensor], Tensor],
        compute_loss: ComputeLoss,
        replay: Replay,
        target: Tensor,
        discount: float,
        batch_size: int,
        updates: int,
    ) -> None:
        super().__init__(env, spec, learner, losses, choose, length=1)
        self.most = min(self.most, replay.length)
        self.most_updates = self.most * (updates + 1)
        self._compute_loss = compute_loss
        self._replay = replay
        self._target = target
        self._discount = discount
        device = env.device
        self.random = torch.full((self.most, env.num_envs), -1, device=device)
        self.index = torch.zeros(self.most_updates, batch_size, dtype=torch.int64, device=device)
        self._uniform = torch.zeros(self.most, env.num_envs, env.rules.num_uniforms, device=device)

    def run(self, due: Sequence[int], rates: Sequence[float], target_rates: Sequence[float]) -> tuple[Tensor, Finished]:
        """Play and learn rounds; after :meth:`prepare`, with :attr:`random` and :attr:`index` filled.

        Args:
            due: The number of gradient steps after each round.
            rates: The learning rate of each gradient step.
            target_rates: How far the target network moves after each gradient step.

        Returns:
            The scalars to log, a row a gradient step, and the episodes that ended.
        """
        assert self._compiled is not None
        rounds, state = len(due), self.learner.state()
        for k in range(rounds):
            self._uniform[k] = self.env.draw(1)[0]
        with torch.no_grad():
            changed, target, begun, fields, rows = self._compiled(*self._given(due, rates, target_rates))
            _overwrite([*state, self._target], [*changed, target])
        self.env.episodes = Episodes(*begun)
        fields = [field[:rounds] for field in fields]
        self._store(fields)
        return rows[: sum(due)], Finished(*_finished(fields))

    def _store(self, fields: list[Tensor]) -> None:
        layout = self._replay.layout
        rows = torch.zeros(*fields[0].shape[:2], layout.row_bytes, dtype=torch.uint8, device=self.env.device)
        for name, field in zip(Steps._fields, fields, strict=False):
            layout.write(rows, name, field)
        layout.write(rows, "valid", torch.ones_like(fields[4]))
        for row in rows:
            self._replay.write(Transitions(row, layout, len(row)))

    def _given(self, due: Sequence[int], rates: Sequence[float], target_rates: Sequence[float]) -> tuple[Any, ...]:
        device = self.env.device
        until = list(itertools.accumulate(due)) + [0] * (self.most - len(due))
        padding = [0.0] * (self.most_updates - len(rates))
        return (
            torch.tensor(len(due)),
            torch.tensor(until),
            self.learner.state(),
            self._target,
            list(self.env.episodes),
            self.random,
            self._uniform,
            self.index,
            torch.tensor([*rates, *padding], device=device),
            torch.tensor([*target_rates, *padding], device=device),
            self._replay.rows.flatten(0, 1),
            torch.tensor(self._replay.head, device=device),
        )

    def _arguments(self) -> tuple[Any, ...]:
        return self._given([], [], [])

    def _batch(self, index: Tensor, newest: Tensor, head: Tensor, rows: Tensor, *new: Tensor) -> Batch:
        """Transitions of the replay's rows, from its head on of the ``newest + 1`` steps that belong there."""
        replay, num_envs = self._replay, self.env.num_envs
        position = (index // num_envs - head) % replay.length
        is_new = position <= newest
        among_new = position.clamp(max=self.most - 1) * num_envs + index % num_envs
        packed = rows.index_select(0, index)
        fields = []
        for name, field in zip(Steps._fields[:5], new, strict=False):
            old = replay.layout.read(packed, name)
            fresh = field.flatten(0, 1).index_select(0, among_new)
            fields.append(torch.where(is_new.view(-1, *[1] * (old.ndim - 1)), fresh, old))
        observation, next_observation, action, reward, terminated = fields
        discount = torch.where(terminated, 0.0, self._discount)
        return Batch(observation, action, reward, discount, next_observation, None)

    def _compile(self) -> Callable[..., Any]:
        state, episodes = self.learner.state(), list(self.env.episodes)
        example_of_a_step = state[0], *episodes, self.random[0], self._uniform[0]
        step = trace(self._step, *example_of_a_step)
        with torch.no_grad():
            example = step(*example_of_a_step)[3:]
        kept = [x.expand(self.most, *x.shape).clone() for x in example]
        count = len(state)

        def learn(*tensors: Tensor) -> list[Tensor]:
            state, (target, rate, target_rate), read = (
                list(tensors[:count]),
                tensors[count : count + 3],
                tensors[count + 3 :],
            )
            batch = self._batch(*read)
            changed, row = self.learner.pure_step(state, rate, lambda *x: self._compute_loss(target, batch))
            return [*changed, target.lerp(changed[0], target_rate), row]

        # Each a tensor of its own: tracing takes the same one for the same argument.
        rate, target_rate = torch.zeros(2, device=self.env.device).unbind()
        read = (self.index[0], self._number(), self._number(), self._replay.rows.flatten(0, 1), *kept[:5])
        examples = (*state, self._target, rate, target_rate, *read)
        update = trace(learn, *examples)
        metrics = torch.zeros(self.most_updates, len(update(*examples)[-1]), device=self.env.device)
        if has_cuda_graphs(self.env.device):
            return self._recorded(
                self._compile_graph(step, *example_of_a_step), self._compile_graph(update, *examples), kept, metrics
            )

        def rounds(
            number: Tensor,
            until: Tensor,
            state: list[Tensor],
            target: Tensor,
            episodes: list[Tensor],
            random: Tensor,
            uniform: Tensor,
            indices: Tensor,
            rates: Tensor,
            target_rates: Tensor,
            rows: Tensor,
            head: Tensor,
        ) -> Any:
            def one_round(k: Tensor, m: Tensor, table: Tensor, *carry: Tensor) -> tuple[Tensor, ...]:
                learned, episodes, fields = carry[: count + 1], carry[count + 1 : count + 4], carry[count + 4 :]
                result = step(learned[0], *episodes, *(_row(x, k) for x in (random, uniform)))
                fields = tuple(_with_row(x, k, y) for x, y in zip(fields, result[3:], strict=True))
                end = _row(until, k)

                def one_update(m: Tensor, table: Tensor, *learned: Tensor) -> tuple[Tensor, ...]:
                    drawn = [_row(x, m) for x in (rates, target_rates, indices)]
                    *changed, row = update(*learned, *drawn, k, head, rows, *fields[:5])
                    return (m + 1, _with_row(table, m, row), *(x.clone() for x in changed))

                m, table, *learned = _loop(lambda m, *_: m < end, one_update, (m, table, *learned))
                return (k + 1, m, table, *learned, *(x.clone() for x in result[:3]), *fields)

            start = self._number(), self._number(), metrics.clone()
            carry = (*start, *state, target, *episodes, *(x.clone() for x in kept))
            _, _, table, *end = _loop(lambda k, *_: k < number, one_round, carry)
            return end[:count], end[count], end[count + 1 : count + 4], end[count + 4 :], table

        return compile_function(rounds, self.env.device, [step, update])

    def _recorded(
        self,
        step: Callable[..., list[Tensor]],
        update: Callable[..., list[Tensor]],
        fields: list[Tensor],
        table: Tensor,
    ) -> Callable[..., Any]:
        """A step of the environments as a CUDA graph and a gradient step as another, which the host never waits for.

        They take no arguments and return nothing: what they read and write stays where it is.
        """
        learned = [x.clone() for x in (*self.learner.state(), self._target)]
        episodes = [x.clone() for x in self.env.episodes]
        rates, target_rates = (torch.zeros(self.most_updates, device=self.env.device) for _ in range(2))
        here, there, head = self._number(), self._number(), self._number()
        rows = self._replay.rows.flatten(0, 1)

        def act() -> list[Tensor]:
            result = step(learned[0], *episodes, _row(self.random, here), _row(self._uniform, here))
            _overwrite(episodes, result[:3])
            for field, new in zip(fields, result[3:], strict=True):
                _write_row(field, here, new)
            here.add_(1)
            return []

        def learn() -> list[Tensor]:
            drawn = [_row(x, there) for x in (rates, target_rates, self.index)]
            *changed, row = update(*learned, *drawn, here - 1, head, rows, *fields[:5])
            _overwrite(learned, changed)
            _write_row(table, there, row)
            there.add_(1)
            return []

        start_act, start_learn = (replayed(x, self.env.device, learned) for x in (act, learn))

        def rounds(number: Tensor, until: Tensor, state: list[Tensor], target: Tensor, *given: Any) -> Any:
            # What is drawn, and the replay's rows, are read where they are.
            running, _random, _uniform, _index, new_rates, new_target_rates, _rows, new_head = given
            _overwrite(
                [*learned, *episodes, rates, target_rates, head],
                [*state, target, *running, new_rates, new_target_rates, new_head],
            )
            here.zero_()
            there.zero_()
            done = 0
            for end in until[: int(number)].tolist():
                start_act()
                for _ in range(end - done):
                    start_learn()
                done = end
            *changed, changed_target = (x.clone() for x in learned)
            return changed, changed_target, [x.clone() for x in episodes], [x.clone() for x in fields], table.clone()

        return rounds


_loop: Callable[..., Any] = while_loop  # which has no types


def _row(x: Tensor, index: Tensor) -> Tensor:
    """Of a table, by an index that the host does not know."""
    return x.index_select(0, index.view(1)).squeeze(0)


def _with_row(x: Tensor, index: Tensor, row: Tensor) -> Tensor:
    """The table with another row there."""
    return x.index_copy(0, index.view(1), row.unsqueeze(0))


def _write_row(x: Tensor, index: Tensor, row: Tensor) -> None:
    """As :func:`_with_row`, in place."""
    x.index_copy_(0, index.view(1), row.unsqueeze(0))


def _play(
    step: Callable[..., list[Tensor]], flat: Tensor, episodes: Sequence[Tensor], noise: Tensor, uniform: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """A rollout step by step: where the episodes stand then, and what each step gave beside, ``(T, N, ...)``."""
    now, columns = list(episodes), []
    for drawn in zip(noise, uniform, strict=True):
        result = step(flat, *now, *drawn)
        now = result[:3]
        columns.append(result[3:])
    return now, [torch.stack(column) for column in zip(*columns, strict=True)]


def _overwrite(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def _finished(fields: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """From what :meth:`_Rounds._step` returns after the episodes."""
    return fields[4] | fields[5], fields[7], fields[6]
