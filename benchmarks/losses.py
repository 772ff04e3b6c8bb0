"""Time and peak memory of the losses, forward and backward, against the forms and libraries that one would use instead.

    python benchmarks/losses.py                     # what fits everywhere
    python benchmarks/losses.py --full              # and the large sizes, which only ours can do
    python benchmarks/losses.py --only pairwise     # rows whose name has this in it
    python benchmarks/losses.py --compile           # everything under torch.compile, times alone

Implementations of the same loss take turns, so that their ratio holds where the machine's speed drifts; a time is the
shortest of its turns. Memory is what the highest resident set of a fresh process gains over that with the inputs in
place. Peers that are not installed are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.dlpack import from_dlpack

import rlloss.functional as ours

Implementation = Callable[..., Tensor]


class Case(NamedTuple):
    """One group of rows: inputs, and what computes a scalar loss from them, ours first. To add rows, see ``cases``."""

    name: str
    size: str
    inputs: Callable[[], tuple[Tensor, ...]]
    implementations: dict[str, Implementation]
    full: bool = False  # only with --full


def cases() -> Iterator[Case]:
    """Every group of rows in the table, one function a family."""
    yield from elementwise_cases()
    yield from classification_cases()
    yield from segmentation_cases()
    yield from ranking_cases()
    yield from contrastive_cases()


# Rows: a loss for each element


def elementwise_cases() -> Iterator[Case]:
    """A million elements, against torch's own kernel."""
    rows: list[tuple[str, Implementation, Implementation]] = [
        ("mae_loss", ours.mae_loss, F.l1_loss),
        ("mse_loss", ours.mse_loss, F.mse_loss),
        ("huber_loss", ours.huber_loss, F.huber_loss),
        ("smooth_l1_loss", ours.smooth_l1_loss, F.smooth_l1_loss),
        ("poisson_nll_loss", ours.poisson_nll_loss, F.poisson_nll_loss),
        ("binary_cross_entropy", ours.binary_cross_entropy, F.binary_cross_entropy_with_logits),
        ("soft_margin_loss", ours.soft_margin_loss, F.soft_margin_loss),
        ("hinge_embedding_loss", ours.hinge_embedding_loss, F.hinge_embedding_loss),
    ]
    peers: dict[str, dict[str, Implementation]] = {
        "mse_loss": _optax(lambda o, x, y: o.squared_error(x, y)),
        "huber_loss": _optax(lambda o, x, y: o.huber_loss(x, y)),
        "binary_cross_entropy": _optax(lambda o, x, y: o.sigmoid_binary_cross_entropy(x, y)),
    }
    for name, loss, kernel in rows:
        yield Case(name, "2^20 elements", _elements, {"rlloss": loss, "torch": kernel, **peers.get(name, {})})
    log_cosh = _optax(lambda o, x, y: o.log_cosh(x, y))
    yield Case("log_cosh_loss", "2^20 elements", _elements, {"rlloss": ours.log_cosh_loss, **log_cosh})
    focal = partial(ours.binary_focal_loss, alpha=0.25)
    optax_focal = _optax(lambda o, x, y: o.sigmoid_focal_loss(x, y, alpha=0.25, gamma=2.0))
    focals: dict[str, Implementation] = {"rlloss": focal, **_torchvision_focal(), **optax_focal}
    yield Case("binary_focal_loss", "2^20 elements", _elements, focals)


def _elements() -> tuple[Tensor, Tensor]:
    """The targets are 1, which every one of these losses can have."""
    return torch.randn(2**20, requires_grad=True), torch.ones(2**20)


def _optax(loss: Callable[..., Any]) -> dict[str, Implementation]:
    """The mean of one of Optax's losses, ``loss(optax.losses, input, target)``, with its gradient, under jax.jit."""
    if not (_installed("optax") and _installed("jax")):
        return {}

    def implementation(input: Tensor, target: Tensor) -> Tensor:
        value, gradient = (from_dlpack(array) for array in _jitted(loss)(_to_jax(input), _to_jax(target)))
        result: Tensor = _GivenGradient.apply(input, value, gradient)  # type: ignore[no-untyped-call]
        return result

    return {"optax": implementation}


@cache
def _jitted(loss: Callable[..., Any]) -> Callable[..., Any]:
    import jax
    from optax import losses

    compiled: Callable[..., Any] = jax.jit(jax.value_and_grad(lambda x, y: loss(losses, x, y).mean()))
    return compiled


def _to_jax(tensor: Tensor) -> Any:
    import jax

    return jax.dlpack.from_dlpack(tensor.detach())


class _GivenGradient(torch.autograd.Function):
    """A loss whose gradient is known already."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        return upstream * ctx.saved_tensors[0], None, None


def _torchvision_focal() -> dict[str, Implementation]:
    if not _installed("torchvision"):
        return {}

    def focal(logits: Tensor, target: Tensor) -> Tensor:
        from torchvision.ops import sigmoid_focal_loss

        loss: Tensor = sigmoid_focal_loss(logits, target, reduction="mean")
        return loss

    return {"torchvision": focal}


# Rows: classification and segmentation


def classification_cases() -> Iterator[Case]:
    """A class of many for each row."""

    def kl(logits: Tensor, target: Tensor) -> Tensor:
        return F.kl_div(F.log_softmax(logits, dim=1), _distribution(logits, target), reduction="batchmean")

    def ours_kl(logits: Tensor, target: Tensor) -> Tensor:
        return ours.kl_divergence(logits, _distribution(logits, target))

    rows: list[tuple[str, Implementation, Implementation]] = [
        ("cross_entropy", ours.cross_entropy, F.cross_entropy),
        ("kl_divergence", ours_kl, kl),
        ("multiclass_hinge_loss", ours.multiclass_hinge_loss, F.multi_margin_loss),
    ]
    peers = {"cross_entropy": _optax(lambda o, x, y: o.softmax_cross_entropy_with_integer_labels(x, y))}
    for name, loss, kernel in rows:
        yield Case(name, "N=4096, C=256", _classes, {"rlloss": loss, "torch": kernel, **peers.get(name, {})})
    yield Case("focal_loss", "N=4096, C=256", _classes, {"rlloss": ours.focal_loss, **_kornia_focal()})


def _classes() -> tuple[Tensor, Tensor]:
    return torch.randn(4_096, 256, requires_grad=True), torch.randint(256, (4_096,))


def _distribution(logits: Tensor, target: Tensor) -> Tensor:
    """Nine tenths on the label, the rest spread evenly."""
    spread = torch.full_like(logits, 0.1 / logits.shape[1], requires_grad=False)
    return spread.scatter_add(1, target[:, None], torch.full_like(spread[:, :1], 0.9))


def _kornia_focal() -> dict[str, Implementation]:
    if not _installed("kornia"):
        return {}

    def focal(logits: Tensor, target: Tensor) -> Tensor:
        from kornia.losses import focal_loss

        loss: Tensor = focal_loss(logits, target, alpha=None, gamma=2.0, reduction="mean")
        return loss * logits.shape[1]  # its mean is over classes as well

    return {"kornia": focal}


def segmentation_cases() -> Iterator[Case]:
    """One image of a thousand pixels a side, the region a half of it."""
    plain = partial(ours.dice_loss, squared=False)
    yield Case("dice_loss", "1024 x 1024", _image, {"rlloss": plain, **_segmentation_models("DiceLoss")})
    yield Case(
        "jaccard_loss", "1024 x 1024", _image, {"rlloss": ours.jaccard_loss, **_segmentation_models("JaccardLoss")}
    )


def _image() -> tuple[Tensor, Tensor]:
    return torch.randn(1, 1_024, 1_024, requires_grad=True), torch.randint(2, (1, 1_024, 1_024)).float()


def _segmentation_models(loss_class: str) -> dict[str, Implementation]:
    if not _installed("segmentation_models_pytorch"):
        return {}

    def loss_of(logits: Tensor, target: Tensor) -> Tensor:
        from segmentation_models_pytorch import losses

        loss: Tensor = getattr(losses, loss_class)("binary", smooth=1.0)(logits, target)
        return loss

    return {"segmentation-models-pytorch": loss_of}


# Rows: ranking


def ranking_cases() -> Iterator[Case]:
    """All pairs of one list."""

    def gaps(values: Tensor) -> Tensor:
        return values[:, None] - values

    def plain_hinge(scores: Tensor, labels: Tensor) -> Tensor:
        return torch.relu(1 - labels[:, None] * gaps(scores)).mean()

    def plain_soft(scores: Tensor, labels: Tensor) -> Tensor:
        return F.softplus(-labels[:, None] * gaps(scores)).mean()

    def plain_logistic(scores: Tensor, labels: Tensor) -> Tensor:
        return F.softplus(-gaps(labels) * gaps(scores)).mean()

    rows: list[tuple[str, Implementation, Implementation]] = [
        ("pairwise_ranking_loss", ours.pairwise_ranking_loss, plain_hinge),
        ("soft_pairwise_loss", ours.soft_pairwise_loss, plain_soft),
        ("pairwise_logistic_loss", ours.pairwise_logistic_loss, plain_logistic),
    ]
    for name, loss, plain in rows:
        for count in (128, 4_096):
            yield Case(name, f"L={count}", partial(_scores, count), {"rlloss": loss, "plain": plain})
        yield Case(name, "L=20000", partial(_scores, 20_000), {"rlloss": loss}, full=True)
    hinge = {"rlloss": ours.pairwise_ranking_loss}
    yield Case("pairwise_ranking_loss", "L=1000000", partial(_scores, 1_000_000), hinge, full=True)


def _scores(count: int) -> tuple[Tensor, Tensor]:
    return torch.randn(count, requires_grad=True), torch.randint(2, (count,)).float() * 2 - 1


# Rows: contrastive


def contrastive_cases() -> Iterator[Case]:
    """All pairs of a batch; the labels are in fours."""

    def similarities(rows: Tensor, columns: Tensor) -> Tensor:
        return F.normalize(rows, dim=1) @ F.normalize(columns, dim=1).T

    def plain_info_nce(query: Tensor, positive: Tensor) -> Tensor:
        return F.cross_entropy(similarities(query, positive) / 0.07, torch.arange(len(query)))

    def plain_ranking(anchors: Tensor, positives: Tensor) -> Tensor:
        return F.cross_entropy(similarities(anchors, positives) * 20, torch.arange(len(anchors)))

    def plain_nt_xent(z1: Tensor, z2: Tensor) -> Tensor:
        both, count = torch.cat([z1, z2]), len(z1)
        logits = (similarities(both, both) / 0.5).masked_fill(torch.eye(2 * count, dtype=torch.bool), -torch.inf)
        return F.cross_entropy(logits, torch.arange(2 * count).roll(count))

    def plain_supervised(embeddings: Tensor, _: Tensor) -> Tensor:
        labels, itself = _fours(embeddings), torch.eye(len(embeddings), dtype=torch.bool)
        logits = similarities(embeddings, embeddings) / 0.1
        log_probability = logits - logits.masked_fill(itself, -torch.inf).logsumexp(1, keepdim=True)
        positive = ((labels[:, None] == labels) & ~itself).float()
        return -((positive * log_probability).sum(1) / positive.sum(1)).mean()

    def ours_supervised(embeddings: Tensor, _: Tensor) -> Tensor:
        return ours.supervised_contrastive_loss(embeddings, _fours(embeddings))

    rows: list[tuple[str, Implementation, Implementation, dict[str, Implementation]]] = [
        ("info_nce_loss", ours.info_nce_loss, plain_info_nce, {}),
        ("nt_xent_loss", ours.nt_xent_loss, plain_nt_xent, _metric_learning_nt_xent()),
        ("supervised_contrastive_loss", ours_supervised, plain_supervised, _metric_learning_supervised()),
        ("multiple_negatives_ranking_loss", ours.multiple_negatives_ranking_loss, plain_ranking, {}),
    ]
    for name, loss, plain, peers in rows:
        both = {"rlloss": loss, "plain": plain}
        yield Case(name, "N=256, D=64", partial(_embeddings, 256), {**both, **peers})
        yield Case(name, "N=4096, D=64", partial(_embeddings, 4_096), both)
        yield Case(name, "N=20000, D=64", partial(_embeddings, 20_000), {"rlloss": loss}, full=True)


def _embeddings(count: int) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 64, requires_grad=True), torch.randn(count, 64, requires_grad=True)


def _fours(embeddings: Tensor) -> Tensor:
    return torch.arange(len(embeddings)) // 4


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _metric_learning_nt_xent() -> dict[str, Implementation]:
    if not _installed("pytorch_metric_learning"):
        return {}

    def nt_xent(z1: Tensor, z2: Tensor) -> Tensor:
        from pytorch_metric_learning.losses import NTXentLoss

        loss: Tensor = NTXentLoss(temperature=0.5)(torch.cat([z1, z2]), torch.arange(len(z1)).repeat(2))
        return loss

    return {"pytorch-metric-learning": nt_xent}


def _metric_learning_supervised() -> dict[str, Implementation]:
    if not _installed("pytorch_metric_learning"):
        return {}

    def supervised(embeddings: Tensor, _: Tensor) -> Tensor:
        from pytorch_metric_learning.losses import SupConLoss

        loss: Tensor = SupConLoss(temperature=0.1)(embeddings, _fours(embeddings))
        return loss

    return {"pytorch-metric-learning": supervised}


# Measuring, each in a process of its own


def run(implementation: Implementation, inputs: tuple[Tensor, ...]) -> float:
    """One forward and backward pass; returns the loss."""
    for tensor in inputs:
        tensor.grad = None
    loss = implementation(*inputs)
    torch.autograd.backward(loss)
    return loss.item()


def measure_times(case: Case, seconds: float) -> list[float]:
    """The shortest time of each implementation, in seconds; they take turns until the time is up."""
    inputs = case.inputs()
    losses = [run(implementation, inputs) for implementation in case.implementations.values()]
    for name, loss in zip(case.implementations, losses, strict=True):
        if abs(loss - losses[0]) > 1e-3 * abs(losses[0]):
            raise SystemExit(f"{case.name}, {case.size}: {name} gives {loss}, ours {losses[0]}")
    best = [float("inf")] * len(losses)
    end, turns = time.perf_counter() + seconds, 0
    while turns < 3 or time.perf_counter() < end:
        for index, implementation in enumerate(case.implementations.values()):
            run(implementation, inputs)  # not timed: it pays for the memory that the one before gave back
            start = time.perf_counter()
            run(implementation, inputs)
            best[index] = min(best[index], time.perf_counter() - start)
        turns += 1
    return best


def measure_memory(case: Case, implementation: str) -> float:
    """What the highest resident set of this process gains by one pass over that with the inputs, in MiB."""
    inputs = case.inputs()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(case.implementations[implementation], inputs)
    per_mib = 2**20 if sys.platform == "darwin" else 2**10
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / per_mib


def _in_new_process(*arguments: str) -> list[float]:
    """Run this file with further arguments, and read the numbers that it prints."""
    result = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    return [float(word) for word in result.stdout.split()]


def _work(arguments: argparse.Namespace) -> None:
    """What a process that measures does."""
    torch.manual_seed(0)
    case = next(case for case in cases() if f"{case.name} {case.size}" == arguments.case)
    if arguments.compile:
        compiled = {
            name: loss if name == "optax" else torch.compile(loss)  # which is compiled by jax
            for name, loss in case.implementations.items()
        }
        case = case._replace(implementations=compiled)
    if arguments.memory:
        print(measure_memory(case, arguments.memory))
    else:
        print(*measure_times(case, arguments.seconds))


def main() -> None:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the large sizes as well")
    parser.add_argument("--compile", action="store_true", help="under torch.compile; times alone")
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long a row is timed, at least three turns")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.case:
        _work(arguments)
        return

    how = ", compiled" if arguments.compile else ""
    print(f"torch {torch.__version__}, {arguments.threads} threads; forward and backward{how}\n")
    print("| loss | size | implementation | time (ms) | peak memory (MiB) | time / ours |")
    print("|---|---|---|---:|---:|---:|")
    for case in cases():
        if arguments.only not in case.name or (case.full and not arguments.full):
            continue
        options = ["--case", f"{case.name} {case.size}", "--threads", str(arguments.threads)]
        options += ["--compile"] * arguments.compile
        times = _in_new_process(*options, "--seconds", str(arguments.seconds))
        for name, seconds in zip(case.implementations, times, strict=True):
            # The compiler itself takes more memory than what it compiles.
            memory = "" if arguments.compile else f"{_in_new_process(*options, '--memory', name)[0]:.0f}"
            ratio = f"{seconds / times[0]:.2f}"
            print(f"| {case.name} | {case.size} | {name} | {seconds * 1e3:.2f} | {memory} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
