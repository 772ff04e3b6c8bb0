from __future__ import annotations

import pytest

from agents.parts.exploration import linear_schedule


@pytest.mark.parametrize(
    ("step", "value"), [(0, 1.0), (1, 0.91), (5, 0.55), (9, 0.19), (10, 0.1), (11, 0.1), (10**9, 0.1)]
)
def test_goes_from_start_to_end_and_stays(step: int, value: float) -> None:
    assert linear_schedule(1.0, 0.1, 10, step) == pytest.approx(value)


def test_no_duration_is_the_end_at_once() -> None:
    assert linear_schedule(1.0, 0.1, 0, 0) == 0.1


def test_the_end_is_exact() -> None:
    assert linear_schedule(0.3, 0.1, 7, 7) == 0.1
