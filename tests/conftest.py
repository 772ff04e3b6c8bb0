"""What every test shares: one thread, one seed, one table of tolerances."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor

torch.set_num_threads(1)

# Property tests draw the same examples on every machine: a failure in CI can be repeated at home.
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("repeatable")

# (relative, absolute): a few units in the last place of a sum over a sample's few dozen elements.
TOLERANCE: dict[torch.dtype, tuple[float, float]] = {
    torch.float64: (1e-10, 1e-12),
    torch.float32: (2e-5, 1e-6),
    torch.float16: (2e-3, 1e-4),
    torch.bfloat16: (1.6e-2, 1e-3),
}


def mostly_slow(cases: Sequence[Any], keep: Container[Any]) -> list[Any]:
    """Cases of a parametrisation, of which the default suite runs those to keep, and -m slow the others."""
    return [case if case in keep else pytest.param(case, marks=pytest.mark.slow) for case in cases]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def assert_close(actual: Tensor, expected: Tensor, what: str = "", *, dtype: torch.dtype | None = None) -> None:
    """Equal shapes, dtypes and, within the tolerance of the dtype, values; NaN is never equal.

    ``dtype`` names the precision of the comparison where it is lower than that of the tensors.
    """
    rtol, atol = TOLERANCE[dtype or actual.dtype] if actual.is_floating_point() else (0.0, 0.0)
    torch.testing.assert_close(
        actual.detach(), expected.detach(), rtol=rtol, atol=atol, msg=lambda text: f"{what}: {text}" if what else text
    )
