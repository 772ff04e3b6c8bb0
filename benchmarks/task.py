"""What train_speed.py trains, ours and its peers alike: the task and its settings."""

from __future__ import annotations

ENV = "CartPole-v1"
DISCOUNT = 0.99

DQN_NET = [120, 84]  # ReLU
DQN_LEARNING_RATE = 1e-3  # Adam
BATCH_SIZE = 128
STEPS_PER_UPDATE = 10
REPLAY_CAPACITY = 50_000
LEARNING_STARTS = 1_000
UPDATES_PER_TARGET = 50
EPSILON_END = 0.05
EPSILON_STEPS = 10_000
DQN_MAX_GRAD_NORM = 10.0

A2C_NET = [64, 64]  # tanh, one for the policy and one for the critic
A2C_LEARNING_RATE = 7e-4  # RMSprop
RMSPROP_DECAY = 0.99
RMSPROP_EPS = 1e-5
ROLLOUT_LENGTH = 5
VALUE_COEFFICIENT = 0.5
A2C_MAX_GRAD_NORM = 0.5


def epsilon_at(step: int) -> float:
    """Probability of a random action after so many environment steps."""
    return 1.0 + (EPSILON_END - 1.0) * min(step / EPSILON_STEPS, 1.0)
