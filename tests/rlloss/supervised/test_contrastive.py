"""Contrastive losses: against loops in float64, torch, each other, and two processes against one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

import rlloss
import rlloss.functional as F
from rlloss.core import pairs
from tests.conftest import assert_close

Array = NDArray[np.float64]
seeds = st.integers(0, 2**16)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _draw(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = _generator(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


def _mask(seed: int, rows: int) -> Tensor:
    return torch.rand(rows, generator=_generator(seed + 1)) > 0.25


def _labels(seed: int, rows: int, classes: int = 3) -> Tensor:
    return torch.randint(-1, classes - 1, (rows,), generator=_generator(seed + 2))


# Pairs and triplets that are given


@pytest.mark.parametrize("squared", [True, False])
@given(seed=seeds, margin=st.floats(0.1, 5.0))
def test_contrastive_equals_a_loop(squared: bool, seed: int, margin: float) -> None:
    x1, x2 = _draw(seed, (6, 3), (6, 3))
    target = _mask(seed, 6).long()
    actual = F.contrastive_loss(x1, x2, target, margin=margin, squared=squared, reduction="none")
    for row in range(6):
        d = math.dist(x1[row].tolist(), x2[row].tolist())
        if squared:
            expected = 0.5 * d**2 if target[row] else 0.5 * max(0.0, margin - d) ** 2
        else:
            expected = d if target[row] else max(0.0, margin - d)
        assert actual[row].item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_contrastive_in_both_conventions_of_the_article() -> None:
    x1, x2 = _draw(0, (5, 3), (5, 3))
    d = (x1 - x2).norm(dim=-1)
    y = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    short = (2.0 - d).clamp(min=0)
    paper = (1 - y) * 0.5 * d**2 + y * 0.5 * short**2  # Y = 0 is similar
    retrieval = y * d**2 + (1 - y) * short**2  # y = 1 is similar
    assert_close(F.contrastive_loss(x1, x2, 1 - y, margin=2.0, reduction="none"), paper)
    assert_close(2 * F.contrastive_loss(x1, x2, y, margin=2.0, reduction="none"), retrieval)


@pytest.mark.parametrize("squared", [True, False])
def test_contrastive_gradient_is_finite_where_embeddings_are_equal(squared: bool) -> None:
    x = torch.ones(2, 3, requires_grad=True)
    loss = F.contrastive_loss(x, torch.ones(2, 3), torch.tensor([0, 1]), squared=squared)
    assert_close(torch.autograd.grad(loss, x)[0], torch.zeros(2, 3))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("swap", [False, True])
@given(p=st.floats(1.0, 4.0), margin=st.floats(0.1, 5.0), seed=seeds)
def test_triplet_equals_torch(reduction: Any, swap: bool, p: float, margin: float, seed: int) -> None:
    a, b, c = embeddings = _draw(seed, (4, 3), (4, 3), (4, 3))
    actual = F.triplet_loss(a, b, c, p=p, margin=margin, swap=swap, reduction=reduction)
    expected = torch.nn.functional.triplet_margin_loss(a, b, c, p=p, margin=margin, swap=swap, reduction=reduction)
    assert_close(actual, expected)
    for one, other in zip(
        torch.autograd.grad(actual.sum(), embeddings), torch.autograd.grad(expected.sum(), embeddings), strict=True
    ):
        assert_close(one, other)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@given(margin=st.floats(-1.0, 1.0), seed=seeds)
def test_cosine_embedding_equals_torch(reduction: Any, margin: float, seed: int) -> None:
    input1, input2 = _draw(seed, (5, 3), (5, 3))
    target = _mask(seed, 5) * 2 - 1
    actual = F.cosine_embedding_loss(input1, input2, target, margin=margin, reduction=reduction)
    expected = torch.nn.functional.cosine_embedding_loss(input1, input2, target, margin=margin, reduction=reduction)
    assert_close(actual, expected)


def test_given_pairs_take_any_prefix() -> None:
    x1, x2, x3 = _draw(0, (2, 3, 4), (2, 3, 4), (2, 3, 4))
    signs = _mask(0, 6).reshape(2, 3) * 2 - 1
    for loss, others in [
        (F.contrastive_loss, (x2, (signs + 1) // 2)),
        (F.cosine_embedding_loss, (x2, signs)),
        (F.triplet_loss, (x2, x3)),
    ]:
        none = loss(x1, *others, reduction="none")  # type: ignore[operator]
        assert none.shape == (2, 3)
        flat = loss(x1.flatten(0, 1), *(other.flatten(0, 1) for other in others), reduction="none")  # type: ignore[operator]
        assert_close(none.flatten(), flat)
        assert_close(loss(x1[0, 1], *(other[0, 1] for other in others)), none[0, 1])  # type: ignore[operator]


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@given(margin=st.floats(-2.0, 2.0), seed=seeds)
def test_hinge_embedding_equals_torch(reduction: Any, margin: float, seed: int) -> None:
    (distance,) = _draw(seed, (5, 3))
    target = _mask(seed, 15).reshape(5, 3) * 2 - 1
    actual = F.hinge_embedding_loss(distance, target, margin=margin, reduction=reduction)
    expected = torch.nn.functional.hinge_embedding_loss(distance, target, margin=margin, reduction=reduction)
    assert_close(actual, expected)


def test_signs_are_checked_on_request() -> None:
    rows, wrong = torch.ones(2, 3), torch.tensor([0, 1])
    with rlloss.value_checks():
        with pytest.raises(ValueError, match="cosine_embedding_loss: target"):
            F.cosine_embedding_loss(rows, rows, wrong)
        with pytest.raises(ValueError, match="hinge_embedding_loss: target"):
            F.hinge_embedding_loss(rows[:, 0], wrong)


# In-batch losses against a loop over the rows that the mask keeps


def _unit(rows: Tensor) -> Array:
    array = rows.detach().numpy()
    return np.asarray(array / np.linalg.norm(array, axis=1, keepdims=True))


def _softmax_loss(similarity: Array, positive: float) -> float:
    return float(np.log(np.exp(similarity).sum()) - positive)


def _info_nce(query: Array, keys: Array, scale: float, negatives: Array | None = None) -> list[float]:
    losses = []
    for i, q in enumerate(query):
        others = np.concatenate([keys[i : i + 1], negatives]) if negatives is not None else keys
        losses.append(_softmax_loss(scale * others @ q, scale * float(keys[i] @ q)))
    return losses


def _supervised(embeddings: Array, labels: list[int], scale: float) -> list[float]:
    losses = []
    for i, z in enumerate(embeddings):
        others = [j for j in range(len(embeddings)) if j != i]
        positives = [j for j in others if labels[j] == labels[i]]
        similarity = scale * embeddings @ z
        terms = [_softmax_loss(similarity[others], similarity[p]) for p in positives]
        losses.append(sum(terms) / len(terms) if terms else math.nan)
    return losses


def _triplets(embeddings: Array, labels: list[int], mining: str, margin: float) -> list[float]:
    losses = []
    for i, anchor in enumerate(embeddings):
        distance = np.linalg.norm(embeddings - anchor, axis=1)
        positives = [distance[j] for j in range(len(labels)) if j != i and labels[j] == labels[i]]
        negatives = [distance[j] for j in range(len(labels)) if labels[j] != labels[i]]
        if mining == "hard" and positives and negatives:
            chosen = [(max(positives), min(negatives))]
        elif mining == "semihard" and negatives:
            chosen = [(p, min([n for n in negatives if n > p], default=max(negatives))) for p in positives]
        else:
            chosen = list(itertools.product(positives, negatives))
        hinges = [max(0.0, p - n + margin) for p, n in chosen]
        losses.append(sum(hinges) / len(hinges) if hinges else math.nan)
    return losses


def _assert_rows(actual: Tensor, expected: list[float], mask: Tensor, mean: Tensor) -> None:
    """The unreduced loss on the kept rows, 0 elsewhere and where the reference is NaN; and the mean."""
    wanted = torch.zeros(len(mask), dtype=torch.float64)
    wanted[mask] = torch.tensor(expected, dtype=torch.float64)
    counted = mask & ~wanted.isnan()
    wanted = wanted.where(counted, 0.0)
    torch.testing.assert_close(actual.detach(), wanted, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(mean.detach(), wanted.sum() / counted.sum().clamp(min=1), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("symmetric", [False, True])
@given(rows=st.integers(1, 8), seed=seeds, temperature=st.floats(0.05, 2.0))
def test_info_nce_equals_a_loop(symmetric: bool, rows: int, seed: int, temperature: float) -> None:
    query, positive = _draw(seed, (rows, 3), (rows, 3))
    mask = _mask(seed, rows)
    q, k = _unit(query[mask]), _unit(positive[mask])
    expected = _info_nce(q, k, 1 / temperature)
    if symmetric:
        expected = [0.5 * (a + b) for a, b in zip(expected, _info_nce(k, q, 1 / temperature), strict=True)]
    options: dict[str, Any] = {"temperature": temperature, "symmetric": symmetric, "mask": mask}
    none = F.info_nce_loss(query, positive, **options, reduction="none")
    _assert_rows(none, expected, mask, F.info_nce_loss(query, positive, **options))


@given(rows=st.integers(1, 6), count=st.integers(0, 6), seed=seeds, temperature=st.floats(0.05, 2.0))
def test_info_nce_with_given_negatives_equals_a_loop(rows: int, count: int, seed: int, temperature: float) -> None:
    query, positive, negatives = _draw(seed, (rows, 3), (rows, 3), (count, 3))
    mask = _mask(seed, rows)
    expected = _info_nce(_unit(query[mask]), _unit(positive[mask]), 1 / temperature, _unit(negatives))
    options: dict[str, Any] = {"temperature": temperature, "mask": mask}
    none = F.info_nce_loss(query, positive, negatives, **options, reduction="none")
    _assert_rows(none, expected, mask, F.info_nce_loss(query, positive, negatives, **options))


def test_info_nce_is_not_symmetric_with_given_negatives() -> None:
    with pytest.raises(ValueError, match="info_nce_loss: symmetric must be False"):
        F.info_nce_loss(torch.ones(2, 3), torch.ones(2, 3), torch.ones(1, 3), symmetric=True)


@given(rows=st.integers(1, 6), count=st.integers(0, 5), seed=seeds, scale=st.floats(0.5, 30.0))
def test_multiple_negatives_ranking_equals_a_loop(rows: int, count: int, seed: int, scale: float) -> None:
    anchors, positives, negatives = _draw(seed, (rows, 3), (rows, 3), (count, 3))
    mask = _mask(seed, rows)
    a, p = _unit(anchors[mask]), _unit(positives[mask])
    columns = np.concatenate([p, _unit(negatives)])
    expected = [_softmax_loss(scale * columns @ a[i], scale * float(p[i] @ a[i])) for i in range(len(a))]
    options: dict[str, Any] = {"scale": scale, "mask": mask}
    none = F.multiple_negatives_ranking_loss(anchors, positives, negatives, **options, reduction="none")
    _assert_rows(none, expected, mask, F.multiple_negatives_ranking_loss(anchors, positives, negatives, **options))


@given(rows=st.integers(1, 6), seed=seeds, temperature=st.floats(0.05, 2.0))
def test_nt_xent_equals_a_loop(rows: int, seed: int, temperature: float) -> None:
    z1, z2 = _draw(seed, (rows, 3), (rows, 3))
    mask = _mask(seed, rows)
    kept = int(mask.sum())
    views = np.concatenate([_unit(z1[mask]), _unit(z2[mask])])
    expected = _supervised(views, [*range(kept), *range(kept)], 1 / temperature)
    none = F.nt_xent_loss(z1, z2, temperature=temperature, mask=mask, reduction="none")
    _assert_rows(none, expected, mask.repeat(2), F.nt_xent_loss(z1, z2, temperature=temperature, mask=mask))


@given(rows=st.integers(1, 9), seed=seeds, temperature=st.floats(0.05, 2.0))
def test_supervised_contrastive_equals_a_loop(rows: int, seed: int, temperature: float) -> None:
    (embeddings,), labels, mask = _draw(seed, (rows, 3)), _labels(seed, rows), _mask(seed, rows)
    expected = _supervised(_unit(embeddings[mask]), labels[mask].tolist(), 1 / temperature)
    options: dict[str, Any] = {"temperature": temperature, "mask": mask}
    none = F.supervised_contrastive_loss(embeddings, labels, **options, reduction="none")
    _assert_rows(none, expected, mask, F.supervised_contrastive_loss(embeddings, labels, **options))


@pytest.mark.parametrize("mining", ["hard", "semihard", "all"])
@given(rows=st.integers(1, 9), seed=seeds, margin=st.floats(0.05, 3.0))
def test_batch_triplet_equals_a_loop(mining: Any, rows: int, seed: int, margin: float) -> None:
    (embeddings,), labels, mask = _draw(seed, (rows, 3)), _labels(seed, rows), _mask(seed, rows)
    expected = _triplets(embeddings[mask].detach().numpy(), labels[mask].tolist(), mining, margin)
    options: dict[str, Any] = {"margin": margin, "mining": mining, "mask": mask}
    none = F.batch_triplet_loss(embeddings, labels, **options, reduction="none")
    _assert_rows(none, expected, mask, F.batch_triplet_loss(embeddings, labels, **options))


@pytest.mark.parametrize("mining", ["hard", "semihard", "all"])
def test_batch_triplet_gradient_where_the_only_negative_is_farthest(mining: Any) -> None:
    """The gradient of the closest negative is its own, whatever stands for those that are none."""
    corners = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.2], [3.0, 3.0]]
    embeddings = torch.tensor(corners, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 0, 0, 1])
    assert torch.autograd.gradcheck(
        lambda rows: F.batch_triplet_loss(rows, labels, margin=4.0, mining=mining, reduction="none"), embeddings
    )


# Worked numbers and degenerate settings


@given(seed=seeds, scale=st.floats(0.5, 50.0))
def test_info_nce_and_multiple_negatives_ranking_agree(seed: int, scale: float) -> None:
    query, positive = _draw(seed, (7, 4), (7, 4))
    one = F.info_nce_loss(query, positive, temperature=1 / scale, reduction="none")
    assert_close(one, F.multiple_negatives_ranking_loss(query, positive, scale=scale, reduction="none"))


@given(seed=seeds)
def test_nt_xent_is_supervised_contrastive_with_a_class_for_each_sample(seed: int) -> None:
    z1, z2 = _draw(seed, (5, 4), (5, 4))
    one = F.nt_xent_loss(z1, z2, temperature=0.3, reduction="none")
    other = F.supervised_contrastive_loss(
        torch.cat([z1, z2]), torch.arange(5).repeat(2), temperature=0.3, reduction="none"
    )
    assert_close(one, other)


@given(seed=seeds)
def test_info_nce_is_the_cross_entropy_of_the_similarities(seed: int) -> None:
    query, positive = (tensor.float() for tensor in _draw(seed, (9, 4), (9, 4)))
    q, p = (torch.nn.functional.normalize(tensor, dim=1) for tensor in (query, positive))
    expected = F.cross_entropy(q @ p.T / 0.07, torch.arange(9), reduction="none")
    torch.testing.assert_close(F.info_nce_loss(query, positive, reduction="none"), expected, rtol=1e-4, atol=1e-5)


def test_embeddings_that_are_all_alike_cost_the_logarithm_of_their_number() -> None:
    same = torch.ones(8, 3, dtype=torch.float64)
    count = torch.tensor(8.0, dtype=torch.float64)
    assert_close(F.info_nce_loss(same, same), count.log())
    assert_close(F.info_nce_loss(same, same, same[:7]), count.log())
    assert_close(F.multiple_negatives_ranking_loss(same, same, same[:5]), torch.log(count + 5))
    assert_close(F.nt_xent_loss(same, same), torch.log(2 * count - 1))
    assert_close(F.supervised_contrastive_loss(same, torch.zeros(8, dtype=torch.long)), torch.log(count - 1))
    loss = F.batch_triplet_loss(same, torch.arange(8) // 2, margin=0.3, mining="all")
    assert_close(loss, torch.tensor(0.3, dtype=torch.float64))


def test_a_small_loss_keeps_its_digits() -> None:
    """Where the positive wins by far, log-sum-exp less the score would be 0 or negative."""
    query = torch.eye(2)
    loss = F.info_nce_loss(query, query, temperature=1 / 40)
    assert loss.item() == pytest.approx(math.exp(-40), rel=1e-5)


def test_lone_rows_have_no_loss_but_are_negatives() -> None:
    embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]], dtype=torch.float64)
    labels = torch.tensor([4, 4, -9])
    supervised = F.supervised_contrastive_loss(embeddings, labels, temperature=1.0, reduction="none")
    assert_close(supervised[0], torch.tensor(math.log(1 + math.exp(-0.8)), dtype=torch.float64))
    assert supervised[2].item() == 0.0
    assert F.supervised_contrastive_loss(embeddings, torch.arange(3)).item() == 0.0
    assert F.batch_triplet_loss(embeddings, torch.arange(3)).item() == 0.0
    assert F.batch_triplet_loss(embeddings, torch.zeros(3, dtype=torch.long)).item() == 0.0


def test_zero_rows_have_finite_gradients() -> None:
    """A row of zeros has no direction: it is left where it is, at similarity 0."""
    zero = torch.zeros(4, 3, requires_grad=True)
    for loss in (F.info_nce_loss(zero, zero), F.nt_xent_loss(zero, zero)):
        assert torch.autograd.grad(loss, zero)[0].isfinite().all()


# The form for large inputs


def _thirds(embeddings: Tensor) -> Tensor:
    """Labels of classes of three."""
    return torch.arange(embeddings.shape[0], device=embeddings.device) // 3


# Every blocked loss of two sets of embeddings; both make the negatives, where some are given.
LARGE: dict[str, Callable[..., Tensor]] = {
    "info_nce": F.info_nce_loss,
    "info_nce_symmetric": lambda x, y, **o: F.info_nce_loss(x, y, symmetric=True, **o),
    "info_nce_negatives": lambda x, y, **o: F.info_nce_loss(x, y, x + 2 * y, **o),
    "nt_xent": F.nt_xent_loss,
    "supervised_contrastive": lambda x, y, **o: F.supervised_contrastive_loss(x * y, _thirds(x), **o),
    "multiple_negatives": lambda x, y, **o: F.multiple_negatives_ranking_loss(x, y, x + 2 * y, **o),
}
every_large = pytest.mark.parametrize("name", LARGE)


@every_large
@pytest.mark.parametrize("masked", [False, True])
def test_large_batches_equal_the_plain_form(name: str, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = _draw(0, (1100, 5), (1100, 5))
    results = []
    for limit in (pairs.BLOCK, 2**40):
        monkeypatch.setattr(pairs, "BLOCK", limit)
        loss = LARGE[name](first, second, mask=_mask(0, 1100) if masked else None, reduction="none")
        results.append((loss, *torch.autograd.grad((loss * loss.detach()).sum(), [first, second])))
    for blocked, plain in zip(*results, strict=True):
        torch.testing.assert_close(blocked, plain, rtol=1e-10, atol=1e-11)


@every_large
def test_large_batches_compile_transform_and_run_without_data(name: str) -> None:
    first, second = _draw(0, (1100, 5), (1100, 5))
    mask = _mask(0, 1100)

    def loss(first: Tensor) -> Tensor:
        return LARGE[name](first, second.detach().to(first.device), mask=mask.to(first.device))

    value = loss(first)
    (gradient,) = torch.autograd.grad(value, first)
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(first)
    assert_close(compiled, value)
    assert_close(torch.autograd.grad(compiled, first)[0], gradient)
    assert_close(torch.func.grad(loss)(first.detach()), gradient)
    stacked = torch.stack([second, first]).detach()
    assert_close(torch.func.vmap(torch.func.grad(loss))(stacked)[1], gradient)
    meta = first.detach().to("meta").requires_grad_()
    assert torch.autograd.grad(loss(meta), meta)[0].is_meta


# Two processes against one

PROCESSES, ROWS, DIM = 2, 6, 4
Case = Callable[[Tensor, Tensor, Tensor, Tensor, dict[str, Any]], Tensor]
GATHERED: dict[str, Case] = {
    "info_nce": lambda x, y, n, labels, o: F.info_nce_loss(x, y, **o),
    "info_nce_symmetric": lambda x, y, n, labels, o: F.info_nce_loss(x, y, symmetric=True, **o),
    "info_nce_negatives": lambda x, y, n, labels, o: F.info_nce_loss(x, y, n, **o),
    "nt_xent": lambda x, y, n, labels, o: F.nt_xent_loss(x, y, **o),
    "supervised_contrastive": lambda x, y, n, labels, o: F.supervised_contrastive_loss(x, labels, **o),
    "batch_triplet_hard": lambda x, y, n, labels, o: F.batch_triplet_loss(x, labels, **o),
    "batch_triplet_semihard": lambda x, y, n, labels, o: F.batch_triplet_loss(x, labels, mining="semihard", **o),
    "batch_triplet_all": lambda x, y, n, labels, o: F.batch_triplet_loss(x, labels, mining="all", **o),
    "multiple_negatives": lambda x, y, n, labels, o: F.multiple_negatives_ranking_loss(x, y, **o),
    "multiple_negatives_hard": lambda x, y, n, labels, o: F.multiple_negatives_ranking_loss(x, y, n, **o),
}
Result = dict[str, dict[str, Tensor]]


def _batch(rank: int | None) -> dict[str, Tensor]:
    """The rows of one process, or of both; more of them are masked out in the first."""
    generator = _generator(5)
    whole = {name: torch.randn(PROCESSES, ROWS, DIM, generator=generator, dtype=torch.float64) for name in "xyn"}
    whole["labels"] = torch.randint(3, (PROCESSES, ROWS), generator=generator)
    whole["mask"] = torch.tensor([[True, False, False, True, True, False], [True, True, True, True, False, True]])
    whole["weight"] = torch.rand(PROCESSES, ROWS, generator=generator, dtype=torch.float64)
    return {name: tensor.flatten(0, 1) if rank is None else tensor[rank] for name, tensor in whole.items()}


def _run_cases(batch: dict[str, Tensor], model: torch.nn.Module, options: dict[str, Any]) -> Result:
    """Each loss with and without mask and weight, and the gradient of the model that makes the embeddings."""
    results: Result = {}
    for (name, case), masked, reduction in itertools.product(GATHERED.items(), (False, True), ("none", "mean", "sum")):
        given: dict[str, Any] = {**options, "reduction": reduction}
        if masked:
            weight = batch["weight"].repeat(2) if name == "nt_xent" else batch["weight"]
            given |= {"mask": batch["mask"], "weight": weight}
        model.zero_grad()
        x, y, n = model(torch.stack([batch["x"], batch["y"], batch["n"]]))
        loss = case(x, y, n, batch["labels"], given)
        loss.sum().backward()  # type: ignore[no-untyped-call]
        (parameter,) = model.parameters()
        assert parameter.grad is not None
        key = f"{name}-{'masked' if masked else 'whole'}-{reduction}"
        results[key] = {"loss": loss.detach(), "gradient": parameter.grad.clone()}
    return results


def _model() -> torch.nn.Module:
    model = torch.nn.Linear(DIM, DIM, bias=False, dtype=torch.float64)
    torch.nn.init.normal_(model.weight, generator=_generator(6))
    return model


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES)
    model = DistributedDataParallel(_model())
    torch.save(_run_cases(_batch(rank), model, {"gather": True}), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    folder: Path = tmp_path_factory.mktemp("gather")
    spawn(_process, args=(str(folder),), nprocs=PROCESSES)  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


@pytest.fixture(scope="module")
def one_process() -> Iterator[Result]:
    yield _run_cases(_batch(None), _model(), {})


@pytest.mark.parametrize("masked", ["whole", "masked"])
@pytest.mark.parametrize("name", GATHERED)
def test_two_processes_equal_one(name: str, masked: str, two_processes: list[Result], one_process: Result) -> None:
    """DistributedDataParallel averages gradients: of the means they give the whole batch's, of the sums half of it."""
    for reduction in ("none", "mean", "sum"):
        key = f"{name}-{masked}-{reduction}"
        expected, actual = one_process[key], [result[key] for result in two_processes]
        losses = torch.stack([result["loss"] for result in actual])
        if reduction == "mean":
            assert_close(losses.mean(), expected["loss"], "mean")
        elif reduction == "sum":
            assert_close(losses.sum(), expected["loss"], "sum")
        else:
            # nt_xent gives first views, then second views, of each process.
            parts = losses.reshape(PROCESSES, -1, ROWS).transpose(0, 1)
            assert_close(parts.flatten(), expected["loss"], "none")
        share = 1.0 if reduction == "mean" else 1.0 / PROCESSES
        for result in actual:
            assert_close(result["gradient"], share * expected["gradient"], f"gradient of the {reduction}")


def test_gather_in_one_process_changes_nothing() -> None:
    batch = _batch(None)
    alone, gathered = (_run_cases(batch, _model(), options) for options in ({}, {"gather": True}))
    for key, result in alone.items():
        assert torch.equal(result["loss"], gathered[key]["loss"])
        assert torch.equal(result["gradient"], gathered[key]["gradient"])
