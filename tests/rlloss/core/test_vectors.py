"""Norms and unit vectors where they have no derivative, and products that autocast leaves alone."""

from __future__ import annotations

import torch

from rlloss.core.vectors import full_precision, norms, unit_vectors
from tests.conftest import assert_close


def test_unit_vectors() -> None:
    vectors = torch.tensor([[3.0, 4.0], [0.0, -2.0], [0.0, 0.0], [1e-15, 0.0], [1e15, 1e15]], dtype=torch.float64)
    root = 0.5**0.5
    expected = torch.tensor([[0.6, 0.8], [0.0, -1.0], [0.0, 0.0], [1.0, 0.0], [root, root]], dtype=torch.float64)
    assert_close(unit_vectors(vectors), expected)
    assert_close(norms(vectors[:3]), torch.tensor([[5.0], [2.0], [0.0]], dtype=torch.float64))


def test_gradient_at_a_zero_vector() -> None:
    """That of a vector of norm 1 (not 1 / eps), so that a step can leave zero; the norm itself has none."""
    zero = torch.zeros(1, 3, requires_grad=True)
    direction = torch.tensor([[1.0, -2.0, 3.0]])
    (gradient,) = torch.autograd.grad((unit_vectors(zero) * direction).sum(), zero)
    assert_close(gradient, direction)
    (gradient,) = torch.autograd.grad(norms(zero).sum(), zero)
    assert_close(gradient, torch.zeros(1, 3))


def test_gradient_is_at_right_angles_to_the_vector() -> None:
    vectors = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(unit_vectors, vectors)
    (gradient,) = torch.autograd.grad((unit_vectors(vectors) * torch.randn(5, 4)).sum(), vectors)
    assert_close((gradient * vectors).sum(-1), torch.zeros(5, dtype=torch.float64))


def test_full_precision() -> None:
    a, b = torch.randn(8, 8), torch.randn(8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert (a @ b).dtype == torch.bfloat16
        with full_precision(a):
            assert_close(a @ b, torch.mm(a, b))
            assert (a @ b).dtype == torch.float32
        assert (a @ b).dtype == torch.bfloat16
    with full_precision(a.to("meta")):  # a device that knows no autocast
        pass
