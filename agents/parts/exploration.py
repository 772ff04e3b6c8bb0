"""Schedules, of exploration and of the learning rate."""

from __future__ import annotations


def linear_schedule(start: float, end: float, duration: int, step: int) -> float:
    """Go from ``start`` to ``end`` in ``duration`` steps, and stay there."""
    if step >= duration:
        return end
    return start + (end - start) * step / duration
