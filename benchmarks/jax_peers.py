"""DQN and A2C on CartPole as whole training loops in JAX, in the manner of purejaxrl, for train_speed.py.

Environments (gymnax's), acting, replay, gradient steps (Optax) and resets are one ``lax.scan``, compiled once: the
host has no part in it. The settings are those of task.py. Import this module before JAX, which takes its number of
threads from here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["NPROC"] = "1"  # the size of XLA's own pool of threads

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import task
from timing import Result

Parameters = list[tuple[Any, Any]]


class Episodes(NamedTuple):
    """N environments: gymnax's states, what is seen of them, and the sum of their rewards so far."""

    state: Any
    observation: Any
    episode_return: Any


class Steps(NamedTuple):
    """A step of N environments; ``episode_return`` is that of the episode so far, this step included."""

    observation: Any
    action: Any
    reward: Any
    next_observation: Any
    terminated: Any
    ended: Any
    episode_return: Any


def init_mlp(key: Any, sizes: Sequence[int], initializer: Callable[..., Any], head: Callable[..., Any]) -> Parameters:
    """Weights and biases, the last layer's by ``head``."""
    keys = jax.random.split(key, len(sizes) - 1)
    initializers = [initializer] * (len(sizes) - 2) + [head]
    shapes = pairwise(sizes)
    return [(make(k, shape), jnp.zeros(shape[1])) for make, k, shape in zip(initializers, keys, shapes, strict=True)]


def apply_mlp(parameters: Parameters, x: Any, activation: Callable[[Any], Any]) -> Any:
    """The MLP's output."""
    for weight, bias in parameters[:-1]:
        x = activation(x @ weight + bias)
    weight, bias = parameters[-1]
    return x @ weight + bias


def begin(key: Any, num_envs: int) -> Episodes:
    """New episodes."""
    env, constants = gymnax.make(task.ENV)
    observation, state = jax.vmap(env.reset, (0, None))(jax.random.split(key, num_envs), constants)
    return Episodes(state, observation, jnp.zeros(num_envs))


def play(key: Any, episodes: Episodes, action: Any) -> tuple[Episodes, Steps]:
    """Step all environments."""
    env, constants = gymnax.make(task.ENV)
    keys = jax.random.split(key, len(action))
    observation, state, reward, terminated, truncated, info = jax.vmap(env.step, (0, 0, 0, None))(
        keys, episodes.state, action, constants
    )
    episode_return, ended = episodes.episode_return + reward, terminated | truncated
    steps = Steps(
        episodes.observation, action, reward, info["final_observation"], terminated, ended, episode_return
    )  # fmt: skip
    return Episodes(state, observation, jnp.where(ended, 0.0, episode_return)), steps


def run(train: Callable[[Any], Any], steps: int, seed: int) -> Result:
    """Compile, then train: the speed is that of the run, which is one call from its first step to its last."""
    began = time.perf_counter()
    key = jax.random.key(seed)
    compiled = jax.jit(train).lower(key).compile()
    started = time.perf_counter()
    ended, episode_return = (np.asarray(x) for x in compiled(key))
    end = time.perf_counter()
    return Result(steps / (end - started), steps / (end - began), float(episode_return[ended][-100:].mean()))


def a2c(num_envs: int, steps: int, seed: int) -> Result:
    """A2C: every rollout and its gradient step a turn of the scan."""
    rounds = steps // (task.ROLLOUT_LENGTH * num_envs)
    optimizer = optax.chain(
        optax.clip_by_global_norm(task.A2C_MAX_GRAD_NORM),
        optax.rmsprop(task.A2C_LEARNING_RATE, decay=task.RMSPROP_DECAY, eps=task.RMSPROP_EPS, eps_in_sqrt=False),
    )

    def compute_loss(networks: tuple[Parameters, Parameters], rollout: Steps) -> Any:
        policy, critic = networks
        value = apply_mlp(critic, rollout.observation, jnp.tanh).squeeze(-1)
        next_value = apply_mlp(critic, rollout.next_observation, jnp.tanh).squeeze(-1)
        returns = _returns(rollout, jax.lax.stop_gradient(next_value))
        log_probs = jax.nn.log_softmax(apply_mlp(policy, rollout.observation, jnp.tanh))
        log_prob = jnp.take_along_axis(log_probs, rollout.action[..., None], -1).squeeze(-1)
        policy_loss = -(log_prob * jax.lax.stop_gradient(returns - value)).mean()
        return policy_loss + task.VALUE_COEFFICIENT * jnp.square(value - returns).mean()

    def train(key: Any) -> tuple[Any, Any]:
        keys = jax.random.split(key, 4)
        orthogonal = jax.nn.initializers.orthogonal
        networks = (
            init_mlp(keys[0], [4, *task.A2C_NET, 2], orthogonal(2**0.5), orthogonal(0.01)),
            init_mlp(keys[1], [4, *task.A2C_NET, 1], orthogonal(2**0.5), orthogonal(1.0)),
        )

        def one_round(carry: Any, key: Any) -> tuple[Any, Any]:
            networks, state, episodes = carry

            def one_step(episodes: Episodes, key: Any) -> tuple[Episodes, Steps]:
                key_action, key_step = jax.random.split(key)
                logits = apply_mlp(networks[0], episodes.observation, jnp.tanh)
                return play(key_step, episodes, jax.random.categorical(key_action, logits))

            episodes, rollout = jax.lax.scan(one_step, episodes, jax.random.split(key, task.ROLLOUT_LENGTH))
            gradient = jax.grad(compute_loss)(networks, rollout)
            change, state = optimizer.update(gradient, state)
            return (optax.apply_updates(networks, change), state, episodes), (rollout.ended, rollout.episode_return)

        carry = (networks, optimizer.init(networks), begin(keys[2], num_envs))
        return jax.lax.scan(one_round, carry, jax.random.split(keys[3], rounds))[1]  # type: ignore[no-any-return, unused-ignore]

    return run(train, rounds * task.ROLLOUT_LENGTH * num_envs, seed)


def _returns(rollout: Steps, next_value: Any) -> Any:
    """Discounted sums of rewards to the rollout's end, or to that of the episode where it comes first."""

    def back(following: Any, step: tuple[Any, Any, Any, Any]) -> tuple[Any, Any]:
        reward, terminated, ended, value = step
        following = reward + task.DISCOUNT * jnp.where(terminated, 0.0, jnp.where(ended, value, following))
        return following, following

    steps = (rollout.reward, rollout.terminated, rollout.ended, next_value)
    return jax.lax.scan(back, next_value[-1], steps, reverse=True)[1]


def dqn(num_envs: int, steps: int, seed: int) -> Result:
    """DQN: every step of all environments and the gradient steps that are due after it a turn of the scan."""
    rounds, length = steps // num_envs, task.REPLAY_CAPACITY // num_envs
    optimizer = optax.chain(optax.clip_by_global_norm(task.DQN_MAX_GRAD_NORM), optax.adam(task.DQN_LEARNING_RATE))

    def compute_loss(online: Parameters, target: Parameters, batch: Steps) -> Any:
        following = apply_mlp(target, batch.next_observation, jax.nn.relu).max(-1)
        wanted = batch.reward + task.DISCOUNT * jnp.where(batch.terminated, 0.0, following)
        outputs = apply_mlp(online, batch.observation, jax.nn.relu)
        value = jnp.take_along_axis(outputs, batch.action[:, None], -1).squeeze(-1)
        return optax.losses.huber_loss(value, wanted).mean()

    def train(key: Any) -> tuple[Any, Any]:
        keys = jax.random.split(key, 3)
        uniform = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        online = init_mlp(keys[0], [4, *task.DQN_NET, 2], uniform, uniform)
        episodes = begin(keys[1], num_envs)
        _, example = play(key, episodes, jnp.zeros(num_envs, jnp.int32))
        replay = jax.tree.map(lambda x: jnp.zeros((length, *x.shape), x.dtype), example)

        def one_round(carry: Any, given: tuple[Any, Any]) -> tuple[Any, Any]:
            learned, episodes, replay = carry
            round_, key = given
            key_coin, key_random, key_step, key_update = jax.random.split(key, 4)
            done = round_ * num_envs
            epsilon = jnp.maximum(1.0 + (task.EPSILON_END - 1.0) * done / task.EPSILON_STEPS, task.EPSILON_END)
            greedy = apply_mlp(learned[0], episodes.observation, jax.nn.relu).argmax(-1).astype(jnp.int32)
            random = jax.random.randint(key_random, (num_envs,), 0, 2)
            action = jnp.where(jax.random.uniform(key_coin, (num_envs,)) < epsilon, random, greedy)
            episodes, step = play(key_step, episodes, action)
            replay = jax.tree.map(lambda rows, row: rows.at[round_ % length].set(row), replay, step)
            stored = jnp.minimum(round_ + 1, length) * num_envs

            def update(index: Any, learned: Any) -> Any:
                online, target, state, count = learned
                drawn = jax.random.randint(jax.random.fold_in(key_update, index), (task.BATCH_SIZE,), 0, stored)
                batch = jax.tree.map(lambda rows: rows[drawn // num_envs, drawn % num_envs], replay)
                change, state = optimizer.update(jax.grad(compute_loss)(online, target, batch), state)
                online, count = optax.apply_updates(online, change), count + 1
                copies = count % task.UPDATES_PER_TARGET == 0
                target = jax.tree.map(lambda new, old: jnp.where(copies, new, old), online, target)
                return online, target, state, count

            due = jnp.maximum((done + num_envs - task.LEARNING_STARTS) // task.STEPS_PER_UPDATE, 0) - learned[3]
            learned = jax.lax.fori_loop(0, due, update, learned)
            return (learned, episodes, replay), (step.ended, step.episode_return)

        learned = (online, online, optimizer.init(online), jnp.zeros((), jnp.int32))
        given = (jnp.arange(rounds), jax.random.split(keys[2], rounds))
        return jax.lax.scan(one_round, (learned, episodes, replay), given)[1]  # type: ignore[no-any-return, unused-ignore]

    return run(train, rounds * num_envs, seed)
