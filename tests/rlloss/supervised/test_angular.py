"""The angular losses against loops over angles, numbers from the papers, and where angles have no derivative."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import rlloss.functional as F
from rlloss import AAMLoss, CenterLoss, CosFaceLoss, GE2ELoss, SphereFaceLoss
from rlloss.supervised.angular import GE2EVariant
from tests.conftest import assert_close

MARGIN_LOSSES: list[Callable[..., Tensor]] = [F.aam_loss, F.cosface_loss, F.sphereface_loss]


def _cross_entropy(logits: list[float], label: int) -> float:
    top = max(logits)
    return top + math.log(sum(math.exp(logit - top) for logit in logits)) - logits[label]


def _by_angles(
    embeddings: Tensor, target: Tensor, class_weight: Tensor, scale: float | None, at_target: Callable[[float], float]
) -> Tensor:
    """-log softmax of scaled cosines, with ``at_target(theta)`` for the true class; one sample after the other."""
    losses = []
    for e, label in zip(embeddings.numpy(), target.tolist(), strict=True):
        logits = []
        for c, w in enumerate(class_weight.numpy()):
            cosine = float(e @ w / (np.linalg.norm(e) * np.linalg.norm(w)))
            logits.append(at_target(math.acos(cosine)) if c == label else cosine)
        factor = float(np.linalg.norm(e)) if scale is None else scale
        losses.append(_cross_entropy([factor * logit for logit in logits], label))
    return torch.tensor(losses, dtype=torch.float64)


def _batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings at every angle to their class."""
    generator = torch.Generator().manual_seed(seed)
    class_weight = torch.randn(4, 3, generator=generator, dtype=torch.float64) * 2
    embeddings = torch.randn(40, 3, generator=generator, dtype=torch.float64) * 3
    return embeddings, torch.arange(40) % 4, class_weight


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5, 1.5, 3.0, math.pi])
@pytest.mark.parametrize("easy_margin", [False, True])
def test_aam_equals_a_loop_over_angles(margin: float, easy_margin: bool) -> None:
    def at_target(theta: float) -> float:
        if easy_margin:
            return math.cos(theta + margin) if theta < math.pi / 2 else math.cos(theta)
        return math.cos(theta + margin) if theta < math.pi - margin else math.cos(theta) - margin * math.sin(margin)

    expected = _by_angles(*_batch(), scale=8.0, at_target=at_target)
    actual = F.aam_loss(*_batch(), scale=8.0, margin=margin, easy_margin=easy_margin, reduction="none")
    assert_close(actual, expected)


def test_cosface_equals_a_loop_over_angles() -> None:
    expected = _by_angles(*_batch(), scale=8.0, at_target=lambda theta: math.cos(theta) - 0.35)
    assert_close(F.cosface_loss(*_batch(), scale=8.0, reduction="none"), expected)


@pytest.mark.parametrize("margin", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("scale", [None, 5.0])
@pytest.mark.parametrize("annealing", [0.0, 5.0])
def test_sphereface_equals_a_loop_over_angles(margin: int, scale: float | None, annealing: float) -> None:
    def at_target(theta: float) -> float:
        k = min(int(theta * margin / math.pi), margin - 1)
        psi = math.pow(-1.0, k) * math.cos(margin * theta) - 2 * k
        return (annealing * math.cos(theta) + psi) / (1 + annealing)

    expected = _by_angles(*_batch(), scale=scale, at_target=at_target)
    actual = F.sphereface_loss(*_batch(), margin=margin, scale=scale, annealing=annealing, reduction="none")
    assert_close(actual, expected)


def _fan(theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings at the angles theta to class 0; class 1 is at right angles to all of them."""
    zeros = torch.zeros_like(theta)
    embeddings = torch.stack([theta.cos(), theta.sin(), zeros], dim=1)
    return embeddings, torch.zeros(len(theta), dtype=torch.long), torch.eye(3, dtype=theta.dtype)[[0, 2]]


def _target_logit(loss: Callable[..., Tensor], theta: Tensor, **options: Any) -> Tensor:
    """The true class's logit, from -log(1 / (1 + exp(-logit)))."""
    value = loss(*_fan(theta), **options, reduction="none")
    return -torch.log(torch.expm1(value))


def test_worked_angle() -> None:
    """60 degrees to the class, 30 degrees of margin: cos 90 = 0 against cos 90 = 0 is log 2."""
    loss = F.aam_loss(*_fan(torch.tensor([math.pi / 3], dtype=torch.float64)), margin=math.pi / 6)
    assert float(loss) == pytest.approx(math.log(2.0))
    loss = F.cosface_loss(*_fan(torch.tensor([math.pi / 3], dtype=torch.float64)), margin=0.5)
    assert float(loss) == pytest.approx(math.log(2.0))


@pytest.mark.parametrize("margin", [0.3, 0.5, 1.0])
def test_aam_falls_with_the_angle_all_the_way_to_pi(margin: float) -> None:
    """cos(theta + m) alone would rise again beyond pi - m and reward the worst embeddings."""
    theta = torch.linspace(0.01, math.pi - 0.01, 300, dtype=torch.float64)
    logit = _target_logit(F.aam_loss, theta, margin=margin, scale=1.0)
    assert bool((logit.diff() < 0).all())
    inside = theta < math.pi - margin
    assert_close(logit[inside], (theta[inside] + margin).cos())
    assert_close(logit[~inside], theta[~inside].cos() - margin * math.sin(margin))


def test_sphereface_falls_from_1_to_1_minus_2_m() -> None:
    theta = torch.linspace(0.0, math.pi, 300, dtype=torch.float64)
    for margin in (1, 2, 3, 4):
        logit = _target_logit(F.sphereface_loss, theta, margin=margin)
        assert bool((logit.diff() < 0).all())
        assert float(logit[0]) == pytest.approx(1.0)
        assert float(logit[-1]) == pytest.approx(1.0 - 2.0 * margin)
        assert logit.diff().abs().max() < 4 * margin * math.pi / 300, "psi has no jump"


def test_no_margin_is_a_normalised_softmax() -> None:
    embeddings, target, class_weight = _batch()
    cosines = torch.nn.functional.normalize(embeddings) @ torch.nn.functional.normalize(class_weight).T
    expected = F.cross_entropy(8.0 * cosines, target)
    assert_close(F.aam_loss(embeddings, target, class_weight, scale=8.0, margin=0.0), expected)
    assert_close(F.cosface_loss(embeddings, target, class_weight, scale=8.0, margin=0.0), expected)
    assert_close(F.sphereface_loss(embeddings, target, class_weight, scale=8.0, margin=1), expected)
    softmax = F.cross_entropy(embeddings @ torch.nn.functional.normalize(class_weight).T, target)
    assert_close(F.sphereface_loss(embeddings, target, class_weight, margin=1), softmax)


@pytest.mark.parametrize("loss", MARGIN_LOSSES)
def test_only_directions_matter(loss: Callable[..., Tensor]) -> None:
    embeddings, target, class_weight = _batch()
    expected = loss(embeddings, target, class_weight, scale=8.0)
    assert_close(loss(embeddings * 1e4, target, class_weight * 1e-4, scale=8.0), expected)


@pytest.mark.parametrize("loss", MARGIN_LOSSES)
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_at_cosines_of_1_and_minus_1(loss: Callable[..., Tensor], sign: float, dtype: torch.dtype) -> None:
    """The slope of arccos is infinite there; that of the loss is not, since turning a vector moves the angle by as
    much as it is turned."""
    class_weight = torch.randn(4, 5, dtype=dtype).requires_grad_()
    embeddings = (sign * 3.0 * class_weight.detach()).requires_grad_()
    value = loss(embeddings, torch.arange(4), class_weight)
    for gradient in torch.autograd.grad(value, [embeddings, class_weight]):
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 1e4


@pytest.mark.parametrize("loss", MARGIN_LOSSES)
def test_gradients_of_zero_vectors(loss: Callable[..., Tensor]) -> None:
    embeddings = torch.zeros(3, 5, requires_grad=True)
    class_weight = torch.stack([torch.zeros(5), torch.ones(5)]).requires_grad_()
    value = loss(embeddings, torch.tensor([0, 1, 1]), class_weight)
    assert value.isfinite()
    for gradient in torch.autograd.grad(value, [embeddings, class_weight]):
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 1e3


def test_gradient_of_aam_near_its_class_matches_the_angle() -> None:
    """d loss / d theta by finite differences in theta, down to angles where 1 - cos^2 has no digits left."""
    for angle in (1e-2, 1e-4, 1e-7):
        theta = torch.tensor([angle], dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(F.aam_loss(*_fan(theta), scale=2.0, margin=0.5), theta)
        logit = 2.0 * math.cos(angle + 0.5)
        expected = 2.0 * math.sin(angle + 0.5) / (1.0 + math.exp(logit))
        assert float(slope) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", [*MARGIN_LOSSES, F.center_loss])
def test_autocast_does_not_round_the_products(loss: Callable[..., Tensor]) -> None:
    embeddings, target, class_weight = (tensor.float() if tensor.is_floating_point() else tensor for tensor in _batch())
    expected = loss(embeddings, target, class_weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(loss(embeddings, target, class_weight), expected)


def test_center_equals_a_loop_and_its_gradient_the_papers() -> None:
    """The gradient of a center is the sum of its class's errors, which is the paper's update but for the factor."""
    embeddings, target, centers = _batch()
    centers.requires_grad_()
    loss = F.center_loss(embeddings, target, centers, reduction="sum")
    expected = sum(
        0.5 * float(((e - centers.detach()[label]) ** 2).sum())
        for e, label in zip(embeddings, target.tolist(), strict=True)
    )
    assert float(loss.detach()) == pytest.approx(expected)
    (gradient,) = torch.autograd.grad(loss, centers)
    for label in range(4):
        assert_close(gradient[label], (centers.detach()[label] - embeddings[target == label]).sum(0))


def _ge2e(embeddings: Tensor, scale: float, bias: float, variant: str, keep: Tensor) -> Tensor:
    """The paper's formulas, utterance by utterance; 0 where an utterance is left out."""
    speakers, utterances, _ = embeddings.shape
    unit = [[e / np.linalg.norm(e) for e in speaker] for speaker in embeddings.numpy()]
    kept = keep.numpy()

    def centroid(k: int, without: int | None) -> Any:
        members = [unit[k][m] for m in range(utterances) if kept[k, m] and m != without]
        return np.mean(members, axis=0) if members else None

    def similarity(e: Any, c: Any) -> float:
        return scale * float(e @ c / np.linalg.norm(c)) + bias

    losses = torch.zeros(speakers, utterances, dtype=torch.float64)
    for j in range(speakers):
        for i in range(utterances):
            own = centroid(j, without=i)
            if not kept[j, i] or own is None:
                continue
            positive = similarity(unit[j][i], own)
            centroids = [centroid(k, None) for k in range(speakers) if k != j]
            rivals = [similarity(unit[j][i], c) for c in centroids if c is not None]
            if variant == "softmax":
                losses[j, i] = _cross_entropy([positive, *rivals], 0)
            else:
                sigmoids = [1 / (1 + math.exp(-s)) for s in rivals]
                losses[j, i] = 1 - 1 / (1 + math.exp(-positive)) + max(sigmoids, default=0.0)
    return losses


VARIANTS: list[GE2EVariant] = ["softmax", "contrast"]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", [(4, 5, 3), (3, 2, 4), (1, 3, 4)])
def test_ge2e_equals_a_loop(variant: GE2EVariant, shape: tuple[int, ...]) -> None:
    embeddings = torch.randn(*shape, dtype=torch.float64)
    scale, bias = torch.tensor(10.0, dtype=torch.float64), torch.tensor(-5.0, dtype=torch.float64)
    expected = _ge2e(embeddings, 10.0, -5.0, variant, torch.ones(shape[:2], dtype=torch.bool))
    assert_close(F.ge2e_loss(embeddings, scale, bias, variant=variant, reduction="none"), expected)
    assert_close(F.ge2e_loss(embeddings, 10.0, -5.0, variant=variant), expected.mean())


@pytest.mark.parametrize("variant", VARIANTS)
def test_ge2e_of_ragged_speakers(variant: GE2EVariant) -> None:
    """A masked utterance is in nobody's centroid; a speaker's only utterance has no centroid of its own but is a
    rival; a speaker with none is no rival."""
    embeddings = torch.randn(4, 3, 5, dtype=torch.float64)
    mask = torch.tensor([[True, True, True], [True, True, False], [False, True, False], [False, False, False]])
    expected = _ge2e(embeddings, 3.0, -1.0, variant, mask)
    embeddings[~mask] = torch.nan
    embeddings.requires_grad_()
    actual = F.ge2e_loss(embeddings, 3.0, -1.0, variant=variant, mask=mask, reduction="none")
    assert_close(actual, expected)
    mean = F.ge2e_loss(embeddings, 3.0, -1.0, variant=variant, mask=mask)
    assert_close(mean, expected.sum() / 5)
    (gradient,) = torch.autograd.grad(mean, embeddings)
    assert gradient.isfinite().all() and not gradient[~mask].any() and gradient[2, 1].any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_ge2e_gradients(variant: GE2EVariant) -> None:
    """Gradients reach embeddings, scale and bias, and are finite for equal, opposite and zero embeddings."""
    for embeddings in (torch.ones(3, 2, 4), torch.zeros(3, 2, 4), torch.tensor([1.0, -1.0]).repeat(6).view(3, 2, 2)):
        inputs = [embeddings.clone().requires_grad_(), torch.tensor(10.0, requires_grad=True), torch.tensor(-5.0)]
        loss = F.ge2e_loss(*inputs, variant=variant)
        for gradient in torch.autograd.grad(loss, inputs[:2]):
            assert gradient.isfinite().all()
    embeddings, bias = torch.randn(3, 2, 4, dtype=torch.float64), torch.tensor(-1.0, dtype=torch.float64)
    bias.requires_grad_()
    (slope,) = torch.autograd.grad(F.ge2e_loss(embeddings, 2.0, bias, variant=variant), bias)
    assert (abs(float(slope)) < 1e-12) == (variant == "softmax"), "the softmax does not see the bias"


def test_ge2e_scale_stays_positive() -> None:
    module = GE2ELoss()
    assert float(module.scale.detach()) == pytest.approx(10.0) and float(module.bias.detach()) == -5.0
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    for _ in range(30):  # pulled towards 0, steadily
        loss = module(torch.randn(4, 3, 2)) + module.scale
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert float(module.scale.detach()) > 0.0
    assert set(dict(module.named_parameters())) == {"log_scale", "bias"}


@pytest.mark.parametrize("cls", [AAMLoss, CosFaceLoss, SphereFaceLoss, CenterLoss])
def test_a_few_steps_learn(cls: Callable[..., torch.nn.Module]) -> None:
    """The parameters are the module's: its optimiser lowers the loss, and its state is saved."""
    torch.manual_seed(0)
    module, embeddings, target = cls(3, 5), torch.randn(12, 5), torch.arange(12) % 3
    before = float(module(embeddings, target).detach())
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    for _ in range(50):
        loss = module(embeddings, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(module(embeddings, target).detach()) < before
    other = cls(3, 5)
    other.load_state_dict(module.state_dict())
    assert_close(other(embeddings, target), module(embeddings, target))


@given(
    st.sampled_from(MARGIN_LOSSES),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(1, 5),
    st.floats(1e-3, 1e4),
    st.integers(0, 2**31),
)
def test_any_shape_and_size(
    loss: Callable[..., Tensor], dtype: torch.dtype, n: int, classes: int, d: int, size: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    embeddings = (torch.randn(n, d, generator=generator) * size).to(dtype).requires_grad_()
    class_weight = torch.randn(classes, d, generator=generator).to(dtype).requires_grad_()
    target = torch.randint(classes, (n,), generator=generator)
    values = loss(embeddings, target, class_weight, reduction="none")
    assert values.shape == (n,) and bool((values >= 0).all()) and values.isfinite().all()
    for gradient in torch.autograd.grad(values.mean(), [embeddings, class_weight]):
        assert gradient.isfinite().all()


@given(
    st.sampled_from(VARIANTS),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.integers(1, 4),
    st.integers(2, 4),
    st.integers(1, 5),
    st.floats(1e-3, 1e4),
    st.integers(0, 2**31),
)
def test_ge2e_of_any_shape_and_size(
    variant: GE2EVariant, dtype: torch.dtype, speakers: int, utterances: int, d: int, size: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    embeddings = (torch.randn(speakers, utterances, d, generator=generator) * size).to(dtype).requires_grad_()
    mask = torch.rand(speakers, utterances, generator=generator) < 0.7
    values = F.ge2e_loss(embeddings, 10.0, -5.0, variant=variant, mask=mask, reduction="none")
    assert values.shape == (speakers, utterances) and values.isfinite().all()
    assert bool((values >= 0).all()) and not values[~mask].any()
    (gradient,) = torch.autograd.grad(values.sum(), embeddings)
    assert gradient.isfinite().all() and not gradient[~mask].any()


def test_errors() -> None:
    embeddings, target, class_weight = _batch()
    shapes = r"got embeddings \(40, 3\), target \(40,\), class_weight \(4, 2\)"
    with pytest.raises(ValueError, match=f"aam_loss: embeddings must have shape .*{shapes}"):
        F.aam_loss(embeddings, target, class_weight[:, :2])
    with pytest.raises(ValueError, match=r"aam_loss: margin must be in \[0, 3.14159\]"):
        F.aam_loss(embeddings, target, class_weight, margin=4.0)
    with pytest.raises(TypeError, match=r"sphereface_loss: margin must be an integer, got 1.5 \(float\)"):
        F.sphereface_loss(embeddings, target, class_weight, margin=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="with at least 2 utterances"):
        F.ge2e_loss(torch.zeros(3, 1, 4), 10.0, -5.0)
    with pytest.raises(ValueError, match=r"ge2e_loss: scale must have shape \(\)"):
        F.ge2e_loss(torch.zeros(3, 2, 4), torch.ones(1), torch.tensor(0.0))
    with pytest.raises(ValueError, match=r"ge2e_loss: scale must be in \(0, inf\), got -1.0"):
        F.ge2e_loss(torch.zeros(3, 2, 4), -1.0, 0.0)
    with pytest.raises(TypeError, match="CenterLoss: embedding_dim must be an integer"):
        CenterLoss(3, 2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"GE2ELoss: init_scale must be in \(0, inf\)"):
        GE2ELoss(init_scale=0.0)
    with pytest.raises(ValueError, match="CosFaceLoss: num_classes must be >= 1, got 0"):
        CosFaceLoss(0, 3)
    assert CosFaceLoss(1, 1).class_weight.shape == (1, 1)
