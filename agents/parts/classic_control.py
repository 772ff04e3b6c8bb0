"""Gymnasium's classic control on the device: the same motion, rewards, ends, spaces and limits, as torch functions.

Importing this registers ``rlloss/CartPole-v1``, ``rlloss/Acrobot-v1``, ``rlloss/MountainCar-v0`` and
``rlloss/Pendulum-v1``.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from agents.parts.device_envs import DeviceEnv, register

_TURN = 2.0 * math.pi


def _box(*high: float) -> spaces.Box:
    """Observations between -high and high."""
    bound = np.array(high, dtype=np.float32)
    return spaces.Box(-bound, bound, dtype=np.float32)


class CartPole(DeviceEnv):
    """Keep a pole upright on a cart: 1 for every step, until pole or cart have gone too far.

    A state is position and velocity of the cart, angle and angular velocity of the pole; action 1 pushes to the right,
    0 to the left.

    Reference:
        Barto, Sutton and Anderson, "Neuronlike Adaptive Elements That Can Solve Difficult Learning Control Problems",
        IEEE Transactions on Systems, Man, and Cybernetics, 1983.
    """

    gravity = 9.8
    pole_mass = 0.1
    total_mass = 1.0 + pole_mass
    half_length = 0.5
    force = 10.0
    seconds = 0.02  # between two steps
    largest_position = 2.4
    largest_angle = 12 * 2 * math.pi / 360

    num_uniforms = 4

    def __init__(self) -> None:
        self.observation_space = _box(2 * self.largest_position, math.inf, 2 * self.largest_angle, math.inf)
        self.action_space = spaces.Discrete(2)

    def reset(self, uniform: Tensor) -> Tensor:
        """Everything within +-0.05."""
        return 0.1 * uniform - 0.05

    def step(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step of Euler's method."""
        x, x_dot, angle, angle_dot = state.unbind(-1)
        force = self.force * (2 * action - 1).to(state.dtype)
        cosine, sine = angle.cos(), angle.sin()
        pole_moment = self.pole_mass * self.half_length
        push = (force + pole_moment * angle_dot.square() * sine) / self.total_mass
        inertia = self.half_length * (4.0 / 3.0 - self.pole_mass * cosine.square() / self.total_mass)
        angle_acceleration = (self.gravity * sine - cosine * push) / inertia
        acceleration = push - pole_moment * angle_acceleration * cosine / self.total_mass
        x, x_dot = x + self.seconds * x_dot, x_dot + self.seconds * acceleration
        angle, angle_dot = angle + self.seconds * angle_dot, angle_dot + self.seconds * angle_acceleration
        terminated = (x.abs() > self.largest_position) | (angle.abs() > self.largest_angle)
        return torch.stack([x, x_dot, angle, angle_dot], -1), torch.ones_like(x), terminated


class Acrobot(DeviceEnv):
    """Swing the free end of two links above the height of one link: -1 for every step until it is there.

    A state is the angle of the first link (0 hangs down), the second link's angle from it, and both velocities; actions
    0, 1 and 2 are a torque of -1, 0 and 1 at the joint between them.

    Reference:
        Sutton, "Generalization in Reinforcement Learning: Successful Examples Using Sparse Coarse Coding", NIPS 1995,
        with the equations of Sutton and Barto's book.
    """

    gravity = 9.8
    mass = 1.0  # of each link, as the next three
    length = 1.0
    centre = 0.5  # of mass, from the joint
    inertia = 1.0
    seconds = 0.2  # between two steps
    largest_velocities = (4 * math.pi, 9 * math.pi)

    num_uniforms = 4

    def __init__(self) -> None:
        self.observation_space = _box(1.0, 1.0, 1.0, 1.0, *self.largest_velocities)
        self.action_space = spaces.Discrete(3)

    def reset(self, uniform: Tensor) -> Tensor:
        """Everything within +-0.1."""
        return 0.2 * uniform - 0.1

    def step(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step of the classical Runge-Kutta method."""
        torque, h = (action - 1).to(state.dtype), self.seconds
        k1 = self._derivative(state, torque)
        k2 = self._derivative(state + h / 2.0 * k1, torque)
        k3 = self._derivative(state + h / 2.0 * k2, torque)
        k4 = self._derivative(state + h * k3, torque)
        angle1, angle2, velocity1, velocity2 = (state + h / 6.0 * (k1 + 2 * k2 + 2 * k3 + k4)).unbind(-1)
        bound1, bound2 = self.largest_velocities
        angle1, angle2 = _wrap(angle1), _wrap(angle2)
        velocity1, velocity2 = velocity1.clamp(-bound1, bound1), velocity2.clamp(-bound2, bound2)
        terminated = -angle1.cos() - (angle2 + angle1).cos() > 1.0
        reward = terminated.to(state.dtype) - 1.0
        return torch.stack([angle1, angle2, velocity1, velocity2], -1), reward, terminated

    def _derivative(self, state: Tensor, torque: Tensor) -> Tensor:
        """The equations of motion."""
        angle1, angle2, velocity1, velocity2 = state.unbind(-1)
        m, length, centre, inertia, g = self.mass, self.length, self.centre, self.inertia, self.gravity
        cosine, sine = angle2.cos(), angle2.sin()
        coupling = m * length * centre
        d1 = m * centre**2 + m * (length**2 + centre**2 + 2 * length * centre * cosine) + 2 * inertia
        d2 = m * (centre**2 + length * centre * cosine) + inertia
        weight2 = m * centre * g * (angle1 + angle2).sin()  # the sine is that from the vertical
        weight1 = (
            -coupling * velocity2.square() * sine
            - 2 * coupling * velocity2 * velocity1 * sine
            + m * (centre + length) * g * angle1.sin()
            + weight2
        )
        acceleration2 = (torque + d2 / d1 * weight1 - coupling * velocity1.square() * sine - weight2) / (
            m * centre**2 + inertia - d2.square() / d1
        )
        acceleration1 = -(d2 * acceleration2 + weight1) / d1
        return torch.stack([velocity1, velocity2, acceleration1, acceleration2], -1)

    def observe(self, state: Tensor) -> Tensor:
        """Cosine and sine of both angles, and the velocities."""
        angles = state[..., :2]
        both = torch.stack([angles.cos(), angles.sin()], -1).flatten(-2)
        return torch.cat([both, state[..., 2:]], -1)


def _wrap(angle: Tensor) -> Tensor:
    """The same angle within [-pi, pi]; one that lies there stays as it is."""
    turns = torch.where(angle > 0.0, ((angle - math.pi) / _TURN).ceil(), ((angle + math.pi) / _TURN).floor())
    return angle - _TURN * turns


class MountainCar(DeviceEnv):
    """Drive a car that is too weak out of a valley: -1 for every step until it is out.

    A state is position and velocity; actions 0, 1 and 2 push to the left, not at all and to the right.

    Args:
        goal_velocity: How fast the car has to be where the valley ends.

    Reference:
        Moore, "Efficient Memory-based Learning for Robot Control", PhD thesis, 1990.
    """

    leftmost, rightmost = -1.2, 0.6
    goal = 0.5
    largest_velocity = 0.07
    force = 0.001
    gravity = 0.0025

    num_uniforms = 1

    def __init__(self, *, goal_velocity: float = 0.0) -> None:
        self.goal_velocity = goal_velocity
        low = np.array([self.leftmost, -self.largest_velocity], dtype=np.float32)
        high = np.array([self.rightmost, self.largest_velocity], dtype=np.float32)
        self.observation_space = spaces.Box(low, high, dtype=np.float32)
        self.action_space = spaces.Discrete(3)

    def reset(self, uniform: Tensor) -> Tensor:
        """At rest, between -0.6 and -0.4."""
        return torch.cat([0.2 * uniform - 0.6, torch.zeros_like(uniform)], -1)

    def step(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Velocity first, then position; the left end is a wall."""
        position, velocity = state.unbind(-1)
        push = (action - 1).to(state.dtype) * self.force
        velocity = velocity + (push - (3 * position).cos() * self.gravity)
        velocity = velocity.clamp(-self.largest_velocity, self.largest_velocity)
        position = position + velocity
        at_wall = (position <= self.leftmost) & (velocity < 0.0)
        position = position.clamp(self.leftmost, self.rightmost)
        velocity = velocity.masked_fill(at_wall, 0.0)
        terminated = (position >= self.goal) & (velocity >= self.goal_velocity)
        return torch.stack([position, velocity], -1), torch.full_like(position, -1.0), terminated


class Pendulum(DeviceEnv):
    """Swing a pendulum up and hold it there, with little torque; it never ends by itself.

    A state is the angle from upright and its velocity; an action is a torque between -2 and 2.

    Args:
        g: Acceleration by gravity, in m/s^2.
    """

    largest_velocity = 8.0
    largest_torque = 2.0
    seconds = 0.05  # between two steps

    num_uniforms = 2

    def __init__(self, *, g: float = 10.0) -> None:
        self.g = g
        self.observation_space = _box(1.0, 1.0, self.largest_velocity)
        self.action_space = _box(self.largest_torque)

    def reset(self, uniform: Tensor) -> Tensor:
        """Any angle, any velocity within +-1."""
        angle, velocity = (2.0 * uniform - 1.0).unbind(-1)
        return torch.stack([math.pi * angle, velocity], -1)

    def step(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Velocity first, then angle; the cost is that of the state that was left."""
        angle, velocity = state.unbind(-1)
        torque = action.squeeze(-1).clamp(-self.largest_torque, self.largest_torque)
        from_upright = (angle + math.pi).remainder(_TURN) - math.pi
        cost = from_upright.square() + 0.1 * velocity.square() + 0.001 * torque.square()
        velocity = velocity + (3.0 * self.g / 2.0 * angle.sin() + 3.0 * torque) * self.seconds
        velocity = velocity.clamp(-self.largest_velocity, self.largest_velocity)
        angle = angle + velocity * self.seconds
        return torch.stack([angle, velocity], -1), -cost, torch.zeros_like(angle, dtype=torch.bool)

    def observe(self, state: Tensor) -> Tensor:
        """Cosine and sine of the angle, and the velocity."""
        angle, velocity = state.unbind(-1)
        return torch.stack([angle.cos(), angle.sin(), velocity], -1)


register("rlloss/CartPole-v1", CartPole, max_episode_steps=500)
register("rlloss/Acrobot-v1", Acrobot, max_episode_steps=500)
register("rlloss/MountainCar-v0", MountainCar, max_episode_steps=200)
register("rlloss/Pendulum-v1", Pendulum, max_episode_steps=200)
