"""What ends a run."""

from __future__ import annotations


class EnvironmentFault(RuntimeError):
    """An environment raised, or returned a number that is not finite."""


class DivergedError(RuntimeError):
    """A metric, or an action, of the agent is no longer finite."""
