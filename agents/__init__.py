"""Agents that take any loss of rlloss, train on Gymnasium environments, and are compared honestly."""

from agents.a2c import A2C
from agents.agent import Agent
from agents.dqn import DQN
from agents.parts import classic_control as _classic_control  # noqa: F401  # its ids are there from now on
from agents.run.evaluation import Evaluation, evaluate
from agents.run.training import resume, train

__all__ = ["A2C", "DQN", "Agent", "Evaluation", "evaluate", "resume", "train"]
