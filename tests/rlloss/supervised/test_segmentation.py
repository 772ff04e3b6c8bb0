"""Dice, Tversky and Jaccard against loops over elements, worked numbers and each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import rlloss.functional as F
from rlloss import TverskyLoss, value_checks
from tests.conftest import assert_close

LOSSES: list[tuple[Callable[..., Tensor], dict[str, Any]]] = [
    (F.dice_loss, {}),
    (F.dice_loss, {"squared": False}),
    (F.tversky_loss, {"alpha": 0.3, "beta": 0.7}),
    (F.jaccard_loss, {}),
]
every_loss = pytest.mark.parametrize(("loss", "options"), LOSSES, ids=["dice", "plain-dice", "tversky", "jaccard"])


def _region(p: list[float], g: list[float], kind: str, options: dict[str, Any], smooth: float) -> float:
    """The loss of one region, element by element."""
    both = only_p = only_g = squares = 0.0
    for a, b in zip(p, g, strict=True):
        both += a * b
        only_p += a * (1.0 - b)
        only_g += (1.0 - a) * b
        squares += a * a + b * b
    if kind == "dice_loss" and options.get("squared", True):
        return 1.0 - (2.0 * both + smooth) / (squares + smooth)
    if kind == "dice_loss":
        return 1.0 - (2.0 * both + smooth) / (2.0 * both + only_p + only_g + smooth)
    alpha, beta = float(options.get("alpha", 1.0)), float(options.get("beta", 1.0))  # Jaccard is Tversky with 1 and 1
    return 1.0 - (both + smooth) / (both + alpha * only_p + beta * only_g + smooth)


@every_loss
@pytest.mark.parametrize("smooth", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(), (7,), (4, 3), (2, 3, 4)], ids=["element", "sequence", "image", "volume"])
def test_binary_equals_a_loop(
    loss: Callable[..., Tensor], options: dict[str, Any], smooth: float, shape: tuple[int, ...]
) -> None:
    logits, target = torch.randn(3, *shape, dtype=torch.float64), torch.rand(3, *shape, dtype=torch.float64)
    p = logits.sigmoid().reshape(3, -1).tolist()
    expected = [
        _region(*row, loss.__name__, options, smooth) for row in zip(p, target.reshape(3, -1).tolist(), strict=True)
    ]
    actual = loss(logits, target, **options, smooth=smooth, reduction="none")
    assert_close(actual, torch.tensor(expected, dtype=torch.float64))
    assert_close(loss(logits.sigmoid(), target, **options, smooth=smooth, from_logits=False, reduction="none"), actual)
    assert_close(loss(logits, target, **options, smooth=smooth, per_class=True, reduction="none"), actual.unsqueeze(1))


@every_loss
@pytest.mark.parametrize("smooth", [0.0, 1.0])
@pytest.mark.parametrize("shape", [(), (7,), (4, 3), (2, 3, 4)], ids=["element", "sequence", "image", "volume"])
def test_multi_class_equals_a_loop(
    loss: Callable[..., Tensor], options: dict[str, Any], smooth: float, shape: tuple[int, ...]
) -> None:
    """Each class is a region; labels equal to ignore_index and masked elements are left out."""
    logits, target = torch.randn(4, 3, *shape, dtype=torch.float64), torch.randint(3, (4, *shape))
    mask = torch.rand(target.shape) < 0.7
    target = torch.where(torch.rand(target.shape) < 0.2, 255, target)
    mask[0], target[0] = True, 1  # a sample with elements and one class alone
    keep = (mask & (target != 255)).flatten(1) if shape else (mask & (target != 255)).unsqueeze(1)
    p = logits.softmax(1).reshape(4, 3, -1)
    flat = target.reshape(4, -1)
    expected = torch.zeros(4, 3, dtype=torch.float64)
    for n in range(4):
        for c in range(3):
            truth = (flat[n][keep[n]] == c).double().tolist()
            if truth:
                expected[n, c] = _region(p[n, c][keep[n]].tolist(), truth, loss.__name__, options, smooth)
    logits = torch.where(mask.unsqueeze(1), logits, torch.nan)
    arguments: dict[str, Any] = {**options, "smooth": smooth, "ignore_index": 255, "mask": mask}
    assert_close(loss(logits, target, **arguments, per_class=True, reduction="none"), expected)
    assert_close(loss(logits, target, **arguments, reduction="none"), expected.mean(1))
    kept = keep.any(1)
    assert_close(loss(logits, target, **arguments), expected.mean(1)[kept].mean())
    assert_close(loss(logits, target, **arguments, per_class=True, reduction="sum"), expected[kept].sum())


def test_worked_numbers() -> None:
    """Two of three elements found and one false alarm: overlap 2, sizes 3 and 3."""
    p, g = torch.tensor([[1.0, 1.0, 0.0, 1.0]]), torch.tensor([[1, 1, 1, 0]])
    options: dict[str, Any] = {"from_logits": False, "smooth": 0.0}
    for squared in (True, False):  # 0 and 1 are their own squares
        assert float(F.dice_loss(p, g, squared=squared, **options)) == pytest.approx(1 - 4 / 6)
    assert float(F.jaccard_loss(p, g, **options)) == pytest.approx(1 - 2 / 4)
    assert float(F.tversky_loss(p, g, alpha=0.3, beta=0.7, **options)) == pytest.approx(1 - 2 / 3)
    assert float(F.tversky_loss(p, g, alpha=1.0, beta=0.0, **options)) == pytest.approx(1 - 2 / 3)  # 1 - precision


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_tversky_with_halves_is_plain_dice_and_with_ones_jaccard(smooth: float) -> None:
    logits, target = torch.randn(4, 3, 5, 6, dtype=torch.float64), torch.randint(3, (4, 5, 6))
    half = F.tversky_loss(logits, target, alpha=0.5, beta=0.5, smooth=smooth)
    assert_close(half, F.dice_loss(logits, target, squared=False, smooth=2 * smooth))
    one = F.tversky_loss(logits, target, alpha=1.0, beta=1.0, smooth=smooth)
    assert_close(one, F.jaccard_loss(logits, target, smooth=smooth))


def test_dice_and_jaccard_are_tied() -> None:
    """D = 2 J / (1 + J) for the coefficients, without smoothing."""
    p, target = torch.rand(5, 9, dtype=torch.float64), torch.rand(5, 9) < 0.5
    options: dict[str, Any] = {"from_logits": False, "smooth": 0.0, "reduction": "none"}
    jaccard = 1.0 - F.jaccard_loss(p, target, **options)
    assert_close(1.0 - F.dice_loss(p, target, squared=False, **options), 2.0 * jaccard / (1.0 + jaccard))


@every_loss
def test_perfect_and_opposite(loss: Callable[..., Tensor], options: dict[str, Any]) -> None:
    target = torch.randint(3, (2, 5, 6))
    target[:, 0, :3] = torch.arange(3)
    logits = torch.nn.functional.one_hot(target, 3).movedim(-1, 1) * 2e4 - 1e4
    assert_close(loss(logits, target, **options), torch.tensor(0.0))
    region = target == 1
    wrong = torch.where(region, -1e4, 1e4)
    assert_close(loss(-wrong, region, **options), torch.tensor(0.0))
    assert_close(loss(wrong, region, **options, smooth=0.0), torch.tensor(1.0))


@every_loss
def test_two_classes_hold_the_binary_region(loss: Callable[..., Tensor], options: dict[str, Any]) -> None:
    """A softmax over 0 and z is a sigmoid, so class 1 is the binary region."""
    logits, target = torch.randn(4, 5, 6, dtype=torch.float64), torch.randint(2, (4, 5, 6))
    both = loss(torch.stack([torch.zeros_like(logits), logits], 1), target, **options, per_class=True, reduction="none")
    assert_close(both[:, 1], loss(logits, target, **options, reduction="none"))


@every_loss
def test_nothing_there_and_nothing_predicted(loss: Callable[..., Tensor], options: dict[str, Any]) -> None:
    """Without smoothing the ratio is 0 / 0: its limit is a loss of 1, with no gradient; smoothed, it is 0."""
    logits, target = torch.full((1, 4), -1e4, requires_grad=True), torch.zeros(1, 4, dtype=torch.long)
    for smooth, expected in [(0.0, 1.0), (1.0, 0.0)]:
        value = loss(logits, target, **options, smooth=smooth)
        assert float(value.detach()) == expected
        assert not torch.autograd.grad(value, logits)[0].any()
    near = loss(torch.full((1, 4), -20.0, dtype=torch.float64), target, **options, smooth=0.0)
    assert float(near) == pytest.approx(1.0)


@every_loss
def test_ignore_index_is_one_rule(loss: Callable[..., Tensor], options: dict[str, Any]) -> None:
    """In both forms an ignored element is as if it were masked, whatever the dtype of the target."""
    target = torch.tensor([[0, 1, 2, 1, 0, 255], [255] * 6])
    for logits, labels in [
        (torch.randn(2, 6, dtype=torch.float64), torch.where(target == 255, target, target.clamp(max=1))),
        (torch.randn(2, 3, 6, dtype=torch.float64), target),
    ]:
        expected = loss(logits[:1, ..., :5], labels[:1, :5], **options)
        for dtype in (torch.long, torch.uint8):
            assert_close(loss(logits, labels.to(dtype), **options, ignore_index=255), expected)
        assert_close(loss(logits, labels, **options, ignore_index=255, mask=target != 255), expected)
    binary = torch.tensor([[1.0, 0.0, -100.0]], dtype=torch.float64)
    logits = torch.randn(1, 3, dtype=torch.float64)
    assert_close(loss(logits, binary, **options), loss(logits[:, :2], binary[:, :2], **options))


@every_loss
def test_weights_of_samples_and_classes(loss: Callable[..., Tensor], options: dict[str, Any]) -> None:
    logits, target = torch.randn(4, 3, 5, dtype=torch.float64), torch.randint(3, (4, 5))
    plain = loss(logits, target, **options, per_class=True, reduction="none")
    classes = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    assert_close(loss(logits, target, **options, per_class=True, weight=classes), (plain * classes).mean())
    samples = torch.rand(4, dtype=torch.float64)
    assert_close(loss(logits, target, **options, weight=samples), (plain.mean(1) * samples).mean())


@given(
    st.sampled_from(LOSSES),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.integers(2, 4),
    st.floats(0.0, 1e4),
    st.sampled_from([0.0, 1e-6, 1.0]),
    st.integers(0, 2**31),
)
def test_any_shape_and_size(
    which: tuple[Callable[..., Tensor], dict[str, Any]],
    dtype: torch.dtype,
    shape: list[int],
    classes: int,
    size: float,
    smooth: float,
    seed: int,
) -> None:
    """Always in [0, 1], with a finite gradient."""
    loss, options = which
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(2, classes, *shape, generator=generator) * size).to(dtype).requires_grad_()
    for target in (
        torch.randint(classes, (2, *shape), generator=generator),
        torch.rand(logits.shape, generator=generator).round(),
    ):
        values = loss(logits, target, **options, smooth=smooth, reduction="none")
        assert values.shape == (2,)
        assert bool(((values >= -1e-6) & (values <= 1 + 1e-6)).all())
        (gradient,) = torch.autograd.grad(values.sum(), logits)
        assert gradient.isfinite().all()


def test_large_half_precision_image() -> None:
    """Sums over many elements overflow float16 (65504) and stall in bfloat16; they are taken in float32."""
    logits, target = torch.full((1, 512, 512), 3.0), torch.ones(1, 512, 512)
    for dtype in (torch.float16, torch.bfloat16):
        assert_close(F.dice_loss(logits.to(dtype), target), F.dice_loss(logits, target))


def test_a_softmax_of_one_class_is_refused() -> None:
    """It is 1 whatever the logit is, so nothing would be learned."""
    logits, target = torch.zeros(2, 1, 3), torch.zeros(2, 3, dtype=torch.long)
    for name in ("dice_loss", "tversky_loss", "jaccard_loss"):
        with pytest.raises(ValueError, match=rf"^{name}: logits of one class have a softmax of 1"):
            getattr(F, name)(logits, target)
        assert getattr(F, name)(logits, target.unsqueeze(1)).isfinite()
        assert getattr(F, name)(logits, target, from_logits=False).isfinite()


def test_errors() -> None:
    logits = torch.zeros(2, 3, 4, 5)
    with pytest.raises(
        ValueError, match=r"dice_loss: target must have the shape of logits .* got logits \(2, 3, 4, 5\)"
    ):
        F.dice_loss(logits, torch.zeros(2, 4, 6, dtype=torch.long))
    with pytest.raises(ValueError, match="jaccard_loss: target must have an integer dtype"):
        F.jaccard_loss(logits, torch.zeros(2, 4, 5))
    with pytest.raises(ValueError, match=r"tversky_loss: mask must broadcast to the loss's shape \(2, 4, 5\)"):
        F.tversky_loss(logits, torch.zeros(2, 4, 5, dtype=torch.long), mask=torch.ones(2, 3, 4, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="TverskyLoss: beta must be in"):
        TverskyLoss(beta=-0.1)
    with value_checks(), pytest.raises(ValueError, match=r"dice_loss: target must hold class indices in \[0, 3\)"):
        F.dice_loss(logits, torch.full((2, 4, 5), 3))
