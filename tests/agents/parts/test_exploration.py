"""Exploration schedules."""

from __future__ import annotations

import pytest

from agents.parts.exploration import linear_schedule


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 1.0), (1, 0.91), (5, 0.55), (9, 0.19), (10, 0.1), (11, 0.1), (10**9, 0.1)]
)
def test_linear_schedule(step: int, expected: float) -> None:
    assert linear_schedule(1.0, 0.1, 10, step) == pytest.approx(expected, abs=1e-12)


def test_no_duration_is_over_at_once() -> None:
    assert linear_schedule(1.0, 0.1, 0, 0) == 0.1


def test_upwards() -> None:
    assert linear_schedule(0.0, 1.0, 4, 1) == 0.25
