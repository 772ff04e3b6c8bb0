"""DQN and A2C of other PyTorch libraries on CartPole, with the settings of task.py, for train_speed.py.

A peer is used as its own examples use it. Every function takes the number of environments, of environment steps, and
the seed; a peer's package is imported when it runs.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import task
import torch
import torch.nn.functional as F
from floor import make_mlp
from gymnasium.vector import AutoresetMode
from timing import Clock, Result
from torch import nn

RMSPROP: dict[str, Any] = {"alpha": task.RMSPROP_DECAY, "eps": task.RMSPROP_EPS}

# Stable-Baselines3


def sb3_dqn(num_envs: int, steps: int, seed: int) -> Result:
    """Stable-Baselines3's DQN in single environments, its default."""
    from stable_baselines3 import DQN
    from stable_baselines3.common.env_util import make_vec_env

    clock = Clock(steps)
    model = DQN(
        "MlpPolicy",
        make_vec_env(task.ENV, num_envs, seed=seed),
        learning_rate=task.DQN_LEARNING_RATE,
        batch_size=task.BATCH_SIZE,
        gamma=task.DISCOUNT,
        train_freq=task.STEPS_PER_UPDATE,
        gradient_steps=num_envs,
        buffer_size=task.REPLAY_CAPACITY,
        learning_starts=task.LEARNING_STARTS,
        target_update_interval=task.UPDATES_PER_TARGET * task.STEPS_PER_UPDATE,
        exploration_fraction=min(task.EPSILON_STEPS / steps, 1.0),
        exploration_final_eps=task.EPSILON_END,
        max_grad_norm=task.DQN_MAX_GRAD_NORM,
        policy_kwargs={"net_arch": task.DQN_NET},
        seed=seed,
        device="cpu",
    )
    return _learn(model, clock)


def sb3_a2c(num_envs: int, steps: int, seed: int, vectorized: bool = False) -> Result:
    """Stable-Baselines3's A2C in single environments, its default, or in Gymnasium's vectorised ones."""
    from stable_baselines3 import A2C
    from stable_baselines3.common.env_util import make_vec_env

    clock = Clock(steps)
    env = make_sb3_vectorized(num_envs, seed) if vectorized else make_vec_env(task.ENV, num_envs, seed=seed)
    optimizer = {"optimizer_class": torch.optim.RMSprop, "optimizer_kwargs": RMSPROP}
    model = A2C(
        "MlpPolicy",
        env,
        learning_rate=task.A2C_LEARNING_RATE,
        n_steps=task.ROLLOUT_LENGTH,
        gamma=task.DISCOUNT,
        gae_lambda=1.0,
        ent_coef=0.0,
        vf_coef=task.VALUE_COEFFICIENT,
        max_grad_norm=task.A2C_MAX_GRAD_NORM,
        use_rms_prop=False,
        seed=seed,
        device="cpu",
        policy_kwargs={"net_arch": task.A2C_NET, **optimizer},
    )
    return _learn(model, clock)


def _learn(model: Any, clock: Clock) -> Result:
    from stable_baselines3.common.callbacks import BaseCallback

    class Ticks(BaseCallback):  # type: ignore[misc, unused-ignore]  # untyped where the peer is not installed
        def _on_step(self) -> bool:
            clock.tick(self.num_timesteps)
            return True

    model.learn(clock.steps, callback=Ticks())
    return clock.stop(model.num_timesteps, [episode["r"] for episode in model.ep_info_buffer])


def make_sb3_vectorized(num_envs: int, seed: int) -> Any:
    """Gymnasium's vectorised CartPole as Stable-Baselines3 wants it: a new episode begins in the step that ends one."""
    from stable_baselines3.common.vec_env import VecEnv

    class Vectorized(VecEnv):  # type: ignore[misc, unused-ignore]  # untyped where the peer is not installed
        def __init__(self) -> None:
            self.envs: Any = gymnasium.make_vec(task.ENV, num_envs, vectorization_mode="vector_entry_point")
            super().__init__(num_envs, self.envs.single_observation_space, self.envs.single_action_space)
            self.returns = np.zeros(num_envs)

        def reset(self) -> np.ndarray:
            observation: np.ndarray = self.envs.reset(seed=seed)[0]
            return observation

        def step_async(self, actions: np.ndarray) -> None:
            self.actions = actions

        def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
            observation, reward, terminated, truncated, _ = self.envs.step(self.actions)
            done = terminated | truncated
            infos: list[dict[str, Any]] = [{} for _ in range(num_envs)]
            self.returns += reward
            ended = np.flatnonzero(done)
            if len(ended):
                for index in ended:
                    infos[index] = {
                        "terminal_observation": observation[index],
                        "TimeLimit.truncated": bool(truncated[index] and not terminated[index]),
                        "episode": {"r": float(self.returns[index]), "l": int(self.envs.steps[index])},
                    }
                self._begin(ended)
                observation = observation.copy()
                observation[ended] = self.envs.state.T[ended]
            return observation, reward, done, infos

        def _begin(self, ended: np.ndarray) -> None:
            """What the environments would do in the next step, instead of that step."""
            envs = self.envs
            envs.state[:, ended] = envs.np_random.uniform(envs.low, envs.high, (4, len(ended)))
            envs.steps[ended], envs.prev_done[ended], self.returns[ended] = 0, False, 0.0

        def close(self) -> None:
            self.envs.close()

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            return [getattr(self.envs, attr_name, None)] * num_envs

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
            setattr(self.envs, attr_name, value)

        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
            raise NotImplementedError

        def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
            return [False] * num_envs

    return Vectorized()


# Tianshou


def tianshou_dqn(num_envs: int, steps: int, seed: int) -> Result:
    """Tianshou's DQN in single environments."""
    from tianshou.algorithm import DQN
    from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Collector, VectorReplayBuffer
    from tianshou.env import DummyVectorEnv
    from tianshou.trainer import OffPolicyTrainerParams
    from tianshou.utils.net.common import Net

    clock = Clock(steps)
    policy = DiscreteQLearningPolicy(
        model=Net(state_shape=4, action_shape=2, hidden_sizes=task.DQN_NET),
        action_space=gymnasium.spaces.Discrete(2), eps_training=1.0,
    )  # fmt: skip
    algorithm = DQN(
        policy=policy, optim=AdamOptimizerFactory(lr=task.DQN_LEARNING_RATE), gamma=task.DISCOUNT, is_double=False,
        target_update_freq=task.UPDATES_PER_TARGET, huber_loss_delta=1.0,
    )  # fmt: skip
    replay, returns = VectorReplayBuffer(task.REPLAY_CAPACITY, num_envs), _Returns(num_envs)
    envs = _make_tianshou_envs(DummyVectorEnv, num_envs, seed)
    collector = Collector(algorithm, envs, replay, exploration_noise=True, on_step_hook=returns)
    collector.reset()
    collector.collect(n_step=task.LEARNING_STARTS, random=True)
    a_round = task.STEPS_PER_UPDATE * num_envs  # a step of the trainer: this many environment steps, then their updates

    def before_step(epoch: int, step: int) -> None:
        clock.tick(task.LEARNING_STARTS + step)
        policy.set_eps_training(task.epsilon_at(task.LEARNING_STARTS + step))

    parameters = OffPolicyTrainerParams(
        training_collector=collector, max_epochs=1, epoch_num_steps=steps - task.LEARNING_STARTS,
        collection_step_num_env_steps=a_round, batch_size=task.BATCH_SIZE, training_fn=before_step, verbose=False,
        update_step_num_gradient_steps_per_sample=1 / task.STEPS_PER_UPDATE, show_progress=False,
    )  # fmt: skip
    algorithm.run_training(parameters)
    return clock.stop(steps, returns.finished)


def tianshou_a2c(num_envs: int, steps: int, seed: int) -> Result:
    """Tianshou's A2C in single environments."""
    from tianshou.algorithm import A2C
    from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy
    from tianshou.algorithm.optim import RMSpropOptimizerFactory
    from tianshou.data import Collector, VectorReplayBuffer
    from tianshou.env import DummyVectorEnv
    from tianshou.trainer import OnPolicyTrainerParams
    from tianshou.utils.net.common import Net
    from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic

    clock = Clock(steps)
    actor, critic = (Net(state_shape=4, hidden_sizes=task.A2C_NET, activation=nn.Tanh) for _ in range(2))
    policy = DiscreteActorPolicy(
        actor=DiscreteActor(preprocess_net=actor, action_shape=2, softmax_output=False),
        action_space=gymnasium.spaces.Discrete(2),
    )
    algorithm = A2C(
        policy=policy,
        critic=DiscreteCritic(preprocess_net=critic),
        gamma=task.DISCOUNT,
        gae_lambda=1.0,
        ent_coef=0.0,
        vf_coef=task.VALUE_COEFFICIENT,
        max_grad_norm=task.A2C_MAX_GRAD_NORM,
        max_batchsize=task.ROLLOUT_LENGTH * num_envs,
        optim=RMSpropOptimizerFactory(lr=task.A2C_LEARNING_RATE, **RMSPROP),
    )
    a_round = task.ROLLOUT_LENGTH * num_envs
    rollout, returns = VectorReplayBuffer(a_round, num_envs), _Returns(num_envs)
    envs = _make_tianshou_envs(DummyVectorEnv, num_envs, seed)
    collector = Collector(algorithm, envs, rollout, on_step_hook=returns)
    collector.reset()
    parameters = OnPolicyTrainerParams(
        training_collector=collector, max_epochs=1, epoch_num_steps=steps, collection_step_num_env_steps=a_round,
        batch_size=None, training_fn=lambda epoch, step: clock.tick(step), verbose=False, show_progress=False,
    )  # fmt: skip
    algorithm.run_training(parameters)
    return clock.stop(steps, returns.finished)


class _Returns:
    """Adds up the rewards of Tianshou's episodes, which its collector hands over step by step."""

    def __init__(self, num_envs: int) -> None:
        self.running = np.zeros(num_envs)
        self.finished: list[float] = []

    def __call__(self, action_batch: Any, rollout_batch: Any) -> None:
        """A step of all environments."""
        self.running += rollout_batch.rew
        ended = np.flatnonzero(rollout_batch.done)
        self.finished += self.running[ended].tolist()
        self.running[ended] = 0.0


def _make_tianshou_envs(kind: Any, num_envs: int, seed: int) -> Any:
    np.random.seed(seed)
    torch.manual_seed(seed)
    envs = kind([partial(gymnasium.make, task.ENV)] * num_envs)
    envs.seed(seed)
    return envs


# TorchRL


def torchrl_dqn(num_envs: int, steps: int, seed: int) -> Result:
    """TorchRL's DQN loss, collector and replay buffer."""
    from tensordict.nn import TensorDictSequential
    from torchrl.collectors import Collector
    from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    from torchrl.modules import EGreedyModule, QValueActor
    from torchrl.objectives import DQNLoss, HardUpdate

    clock = Clock(steps)
    env = _make_torchrl_env(num_envs, seed)
    actor = QValueActor(
        make_mlp([4, *task.DQN_NET, 2], nn.ReLU), in_keys=["observation"], spec=env.action_spec_unbatched
    )
    greedy = EGreedyModule(actor.spec, eps_init=1.0, eps_end=task.EPSILON_END, annealing_num_steps=task.EPSILON_STEPS)
    loss = DQNLoss(actor, loss_function="smooth_l1", delay_value=True)
    loss.make_value_estimator(gamma=task.DISCOUNT)
    target = HardUpdate(loss, value_network_update_interval=task.UPDATES_PER_TARGET)
    optimizer = torch.optim.Adam(loss.parameters(), lr=task.DQN_LEARNING_RATE)
    replay = TensorDictReplayBuffer(storage=LazyTensorStorage(task.REPLAY_CAPACITY), batch_size=task.BATCH_SIZE)
    a_round = task.STEPS_PER_UPDATE * num_envs
    done, returns = 0, list[float]()
    policy = TensorDictSequential(actor, greedy)
    for data in Collector(env, policy, frames_per_batch=a_round, total_frames=steps, trust_policy=True):
        done += data.numel()
        clock.tick(done)
        data = data.reshape(-1)
        replay.extend(data)
        greedy.step(data.numel())
        returns += _torchrl_returns(data)
        for _ in range(num_envs if done >= task.LEARNING_STARTS else 0):
            optimizer.zero_grad()
            loss(replay.sample())["loss"].backward()
            nn.utils.clip_grad_norm_(loss.parameters(), task.DQN_MAX_GRAD_NORM)
            optimizer.step()
            target.step()
    return clock.stop(done, returns)


def torchrl_a2c(num_envs: int, steps: int, seed: int) -> Result:
    """TorchRL's A2C loss, advantage and collector."""
    from tensordict.nn import TensorDictModule
    from torchrl.collectors import Collector
    from torchrl.modules import OneHotCategorical, ProbabilisticActor, ValueOperator
    from torchrl.objectives import A2CLoss
    from torchrl.objectives.value import GAE

    clock = Clock(steps)
    env = _make_torchrl_env(num_envs, seed)
    logits = TensorDictModule(make_mlp([4, *task.A2C_NET, 2], nn.Tanh), in_keys=["observation"], out_keys=["logits"])
    actor = ProbabilisticActor(
        logits, in_keys=["logits"], distribution_class=OneHotCategorical, spec=env.action_spec_unbatched
    )
    critic = ValueOperator(make_mlp([4, *task.A2C_NET, 1], nn.Tanh), in_keys=["observation"])
    advantage = GAE(gamma=task.DISCOUNT, lmbda=1.0, value_network=critic)
    loss = A2CLoss(actor, critic, loss_critic_type="l2", entropy_bonus=False, critic_coeff=task.VALUE_COEFFICIENT)
    optimizer = torch.optim.RMSprop(loss.parameters(), lr=task.A2C_LEARNING_RATE, **RMSPROP)
    done, returns = 0, list[float]()
    a_round = task.ROLLOUT_LENGTH * num_envs
    for data in Collector(env, actor, frames_per_batch=a_round, total_frames=steps, trust_policy=True):
        done += data.numel()
        clock.tick(done)
        returns += _torchrl_returns(data)
        with torch.no_grad():
            data = advantage(data)
        terms = loss(data.reshape(-1))
        optimizer.zero_grad()
        (terms["loss_objective"] + terms["loss_critic"]).backward()
        nn.utils.clip_grad_norm_(loss.parameters(), task.A2C_MAX_GRAD_NORM)
        optimizer.step()
    return clock.stop(done, returns)


def _make_torchrl_env(num_envs: int, seed: int) -> Any:
    from torchrl.envs import GymEnv, RewardSum, SerialEnv, TransformedEnv

    make = partial(GymEnv, task.ENV, device="cpu")
    # With num_envs GymEnv would give each environment a process.
    env = TransformedEnv(make() if num_envs == 1 else SerialEnv(num_envs, make), RewardSum())
    env.set_seed(seed)
    torch.manual_seed(seed)
    return env


def _torchrl_returns(data: Any) -> list[float]:
    returns: list[float] = data["next", "episode_reward"][data["next", "done"]].tolist()
    return returns


# One file, and nothing but torch, NumPy and Gymnasium


def single_file_dqn(num_envs: int, steps: int, seed: int) -> Result:
    """DQN as one function, in the manner of CleanRL: everything in sight, nothing compiled."""
    clock = Clock(steps)
    random = np.random.default_rng(seed)
    torch.manual_seed(seed)
    envs = gymnasium.make_vec(
        task.ENV, num_envs, vectorization_mode="sync", vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP}
    )
    online, target = (make_mlp([4, *task.DQN_NET, 2], nn.ReLU) for _ in range(2))
    target.load_state_dict(online.state_dict())
    optimizer = torch.optim.Adam(online.parameters(), lr=task.DQN_LEARNING_RATE)

    length = task.REPLAY_CAPACITY // num_envs
    observations, successors = (np.zeros((length, num_envs, 4), np.float32) for _ in range(2))
    actions = np.zeros((length, num_envs), np.int64)
    rewards, terminations = (np.zeros((length, num_envs), np.float32) for _ in range(2))

    observation, _ = envs.reset(seed=seed)
    running, returns, updates = np.zeros(num_envs), list[float](), 0
    for round_ in range(steps // num_envs):
        done = round_ * num_envs
        clock.tick(done)
        with torch.no_grad():
            action = online(torch.from_numpy(observation)).argmax(1).numpy()
        explores = random.random(num_envs) < task.epsilon_at(done)
        action = np.where(explores, random.integers(2, size=num_envs), action)
        following, reward, terminated, truncated, info = envs.step(action)
        successor = following.copy()
        running += reward
        for index in np.flatnonzero(terminated | truncated):
            successor[index] = info["final_obs"][index]
            returns.append(float(running[index]))
            running[index] = 0.0
        row = round_ % length
        observations[row], actions[row], rewards[row] = observation, action, reward
        successors[row], terminations[row] = successor, terminated
        observation = following

        while updates < (done + num_envs - task.LEARNING_STARTS) // task.STEPS_PER_UPDATE:
            rows = random.integers(min(round_ + 1, length), size=task.BATCH_SIZE)
            columns = random.integers(num_envs, size=task.BATCH_SIZE)
            batch = (observations, actions, rewards, successors, terminations)
            x, a, r, y, ended = (torch.from_numpy(field[rows, columns]) for field in batch)
            with torch.no_grad():
                wanted = r + task.DISCOUNT * (1 - ended) * target(y).amax(1)
            loss = F.smooth_l1_loss(online(x).gather(1, a.unsqueeze(1)).squeeze(1), wanted)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
            nn.utils.clip_grad_norm_(online.parameters(), task.DQN_MAX_GRAD_NORM)
            optimizer.step()
            updates += 1
            if updates % task.UPDATES_PER_TARGET == 0:
                target.load_state_dict(online.state_dict())
    envs.close()
    return clock.stop(steps // num_envs * num_envs, returns)
