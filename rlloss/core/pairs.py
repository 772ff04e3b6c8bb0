"""Sums over all pairs of N elements without a matrix of N^2 numbers.

Three sums carry the ranking and the in-batch losses: of hinges, of logistic losses, and the log-sum-exp of dot
products. Each has a plain form, an N^2 matrix that autograd sees through, for small inputs, and a form for large ones:
the hinges are sorted, the other two are computed in blocks of rows and recomputed for the gradient. The shape alone
chooses, and both give the same numbers.

The blocks run inside custom operators. The compiler takes such an operator as one node instead of unrolling its loop,
and the autograd function around it lets ``torch.func`` through. Second derivatives exist in the plain form only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlloss.core.vectors import full_precision

# The number of pairs that are held in memory at once (4 MiB in float32); no more than these take the plain form.
BLOCK = 2**20
# The same for the hinges, where sorting is the faster form earlier.
SORT_ABOVE = 2**18

_library = torch.library.Library("rlloss", "FRAGMENT")  # type: ignore[no-untyped-call]


def _pair_count(lists: Tensor) -> int:
    """The number of pairs in lists ``(..., L)``."""
    return lists.numel() * lists.shape[-1]


def _row_blocks(lists: int, rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Slices of lists and their rows that hold about ``BLOCK`` pairs: of many short lists, or a part of a long one."""
    row_step = max(1, min(rows, BLOCK // max(1, columns)))
    list_step = max(1, BLOCK // max(1, row_step * columns))
    for first_list in range(0, lists, list_step):
        for first_row in range(0, rows, row_step):
            yield slice(first_list, first_list + list_step), slice(first_row, first_row + row_step)


def _vmap_by_loop(operator: Callable[..., Any]) -> Callable[..., Any]:
    """A vmap rule that calls the operator once for each element of the batch."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Any, Any]:
        results = [
            operator(
                *(
                    argument if dim is None else argument.select(dim, index)
                    for argument, dim in zip(arguments, in_dims, strict=True)
                )
            )
            for index in range(info.batch_size)
        ]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        return tuple(torch.stack(column) for column in zip(*results, strict=True)), (0,) * len(results[0])

    return rule


def _operator(schema: str, kernel: Callable[..., Any], shapes: Callable[..., Any]) -> Callable[..., Any]:
    """Register an operator: its kernel, and a function that makes empty tensors of its results' shapes.

    ``torch.library.custom_op`` would be shorter, but the first call of what it makes imports the whole compiler, which
    takes seconds and 100 MiB.
    """
    name = schema.split("(")[0]
    _library.define(schema)  # type: ignore[no-untyped-call]
    _library.impl(name, kernel, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"rlloss::{name}", shapes, lib=_library)
    operator: Callable[..., Any] = getattr(torch.ops.rlloss, name).default
    torch.library.register_vmap(f"rlloss::{name}", _vmap_by_loop(operator), lib=_library)
    return operator


def _only_once(gradient: Tensor, *sources: Tensor) -> Tensor:
    """Make a second derivative by one of the sources an error, where autograd would give 0 without a word."""
    link = torch.stack([source.sum() for source in sources])
    once: Tensor = _OnlyOnce.apply(gradient.detach(), link)  # type: ignore[no-untyped-call]
    return once


# The compiler counts the parameters of an autograd function's forward, so none of those below takes ``*arguments``.
class _OnlyOnce(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Any, link: Any) -> Any:
        return gradient.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, upstream: Any) -> Any:
        raise RuntimeError(f"rlloss: sums over more than {BLOCK} pairs have no second derivative")


def softplus(logits: Tensor) -> Tensor:
    """``log(1 + exp(x))`` to float64 precision: torch's default is linear from 20 on, where it is off by 2e-9."""
    return F.softplus(logits, threshold=40.0)


# Hinges: sum_ij max(0, margin - (s_i - s_j))


def hinge_pairs(scores: Tensor, above: Tensor, below: Tensor, margin: float) -> Tensor:
    """Sum over all pairs in each list: ``sum_ij above_i below_j max(0, margin - (s_i - s_j))``.

    Exact in O(L log L): in sorted order the j that have a positive hinge with i are all those behind one place, so two
    running sums give their number and their total.

    Args:
        scores: ``(..., L)``, floating-point.
        above: ``(..., L)``, the weight of each element as the one that should score higher; a constant.
        below: ``(..., L)``, the weight of each element as the one that should score lower; a constant.
        margin: By how much it should score higher.

    Returns:
        ``(...)``.
    """
    if _pair_count(scores) <= SORT_ABOVE:
        gap = margin - (scores[..., :, None] - scores[..., None, :])
        return (torch.relu(gap) * above[..., :, None] * below[..., None, :]).sum((-2, -1))
    return _sorted_hinge_pairs(scores, above, below, margin)


def _sorted_hinge_pairs(scores: Tensor, above: Tensor, below: Tensor, margin: float) -> Tensor:
    ordered, order = scores.sort(dim=-1)
    # Differences of running sums cancel: start from small numbers, in float64 where the device has it.
    middle = ordered.detach()[..., ordered.shape[-1] // 2, None]
    ordered = widen(ordered - middle)
    above, below = (widen(weight).gather(-1, order) for weight in (above, below))
    threshold = ordered - margin
    place = torch.searchsorted(ordered.detach(), threshold.detach(), right=True)
    number, total = _sum_behind(below, place), _sum_behind(below * ordered, place)
    return (above * (total - number * threshold)).sum(-1).to(scores.dtype)


def tied_pairs(labels: Tensor, weight: Tensor) -> Tensor:
    """Sum over all pairs in each list ``(..., L)`` whose labels are equal: ``sum_ij w_i w_j [y_i = y_j]``."""
    ordered, order = labels.sort(dim=-1)
    weight = widen(weight).gather(-1, order)
    left = _sum_behind(weight, torch.searchsorted(ordered, ordered))
    right = _sum_behind(weight, torch.searchsorted(ordered, ordered, right=True))
    return (weight * (left - right)).sum(-1).to(labels.dtype)


def widen(tensor: Tensor) -> Tensor:
    """Convert to float64, or to float32 on Apple's devices, which have none."""
    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)


def _sum_behind(values: Tensor, place: Tensor) -> Tensor:
    """The sum of ``values[..., place:]`` for every place."""
    running = F.pad(values.cumsum(-1), (1, 0))
    return running[..., -1:] - running.gather(-1, place)


# Logistic losses: sum_ij log(1 + exp(-(a_i - b_j) (s_i - s_j)))


def logistic_pairs(
    scores: Tensor, row_label: Tensor, column_label: Tensor, weight: Tensor, *, distinct: bool = False
) -> Tensor:
    """Sum over all pairs in each list: ``sum_ij w_i w_j log(1 + exp(-(a_i - b_j) (s_i - s_j)))``.

    Value and gradient come from one pass over the blocks.

    Args:
        scores: ``(..., L)``, floating-point.
        row_label: ``a``, ``(..., L)``; a constant.
        column_label: ``b``, ``(..., L)``; a constant.
        weight: ``w``, ``(..., L)``; a constant.
        distinct: Leave out the pairs with ``a_i = b_j``.

    Returns:
        ``(...)``.
    """
    if _pair_count(scores) <= BLOCK:
        label_gap, logit = _label_gap_and_logit(scores, scores, row_label, column_label)
        loss = _logistic_loss(logit, label_gap, distinct)
        return (loss * weight[..., :, None] * weight[..., None, :]).sum((-2, -1))
    flat = (tensor.reshape(-1, scores.shape[-1]) for tensor in (scores, row_label, column_label, weight))
    total: Tensor = _LogisticPairs.apply(*flat, distinct)[0]  # type: ignore[no-untyped-call]
    return total.reshape(scores.shape[:-1])


def _label_gap_and_logit(row_score: Tensor, score: Tensor, row_label: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """``a_i - b_j`` and ``-(a_i - b_j) (s_i - s_j)`` of some rows ``(..., R)`` with all columns ``(..., L)``."""
    label_gap = row_label[..., :, None] - label[..., None, :]
    return label_gap, label_gap * (score[..., None, :] - row_score[..., :, None])


def _logistic_loss(logit: Tensor, label_gap: Tensor, distinct: bool) -> Tensor:
    loss = softplus(logit)
    return loss.where(label_gap != 0, 0.0) if distinct else loss


def _logistic_blocks(
    scores: Tensor, row_label: Tensor, column_label: Tensor, weight: Tensor, distinct: bool
) -> tuple[Tensor, Tensor]:
    """The sums of lists ``(B, L)`` and their gradients."""
    totals, gradient = torch.zeros_like(scores), torch.zeros_like(scores)
    count, length = scores.shape
    with full_precision(scores):
        for lists, rows in _row_blocks(count, length, length):
            label_gap, logit = _label_gap_and_logit(
                scores[lists, rows], scores[lists], row_label[lists, rows], column_label[lists]
            )
            row_weight, column_weight = weight[lists, rows], weight[lists]
            loss = _logistic_loss(logit, label_gap, distinct)
            totals[lists, rows] = (loss @ column_weight[..., None]).squeeze(-1) * row_weight
            slope = logit.sigmoid_().mul_(label_gap)  # the derivative by the column's score
            gradient[lists, rows] -= (slope @ column_weight[..., None]).squeeze(-1) * row_weight
            gradient[lists] += (row_weight[..., None, :] @ slope).squeeze(-2) * column_weight
    return totals.sum(-1), gradient


def _logistic_shapes(scores: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return scores.new_empty(scores.shape[:1]), torch.empty_like(scores)


_logistic_pairs = _operator(
    "logistic_pairs(Tensor scores, Tensor row_label, Tensor column_label, Tensor weight, bool distinct)"
    " -> (Tensor, Tensor)",
    _logistic_blocks,
    _logistic_shapes,
)


class _LogisticPairs(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(scores: Any, row_label: Any, column_label: Any, weight: Any, distinct: Any) -> Any:
        return _logistic_pairs(scores, row_label, column_label, weight, distinct)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, gradient = output
        ctx.mark_non_differentiable(gradient)
        ctx.save_for_backward(inputs[0], gradient)

    @staticmethod
    def backward(ctx: Any, upstream: Any, _: Any) -> Any:
        scores, gradient = ctx.saved_tensors
        return _only_once(upstream[..., None] * gradient, upstream, scores), None, None, None, None


# Log-sum-exp of dot products: log sum_j exp(row_i . column_j)


def logsumexp_pairs(rows: Tensor, columns: Tensor, keep: Tensor | None, excluded: Tensor) -> Tensor:
    """Logarithm of each row's sum over the columns: ``log sum_j exp(row_i . column_j)``.

    Args:
        rows: ``(N, D)``, floating-point.
        columns: ``(M, D)``, floating-point.
        keep: Bool ``(M,)``; a column that is False is in no row's sum.
        excluded: ``(N, E)``, the indices of columns that are left out of each row's sum.

    Returns:
        ``(N,)``; the dtype's lowest number, with a gradient of 0, for a row that has no column left.
    """
    if rows.shape[0] * columns.shape[0] <= BLOCK:
        with full_precision(rows):
            result = _dot_products(rows, columns, keep, excluded).logsumexp(-1)
    else:
        result = _LogSumExpPairs.apply(rows, columns, keep, excluded)  # type: ignore[no-untyped-call]
    lowest = torch.finfo(rows.dtype).min
    return torch.where(result > lowest, result, lowest)


def _dot_products(rows: Tensor, columns: Tensor, keep: Tensor | None, excluded: Tensor) -> Tensor:
    """Dot products ``(N, M)``; the lowest number for what is left out, since -inf less -inf would be NaN."""
    lowest = torch.finfo(rows.dtype).min
    if keep is None:
        logits = rows @ columns.T
    else:  # the product adds the penalty on its way: no second pass over the matrix
        penalty = torch.zeros_like(keep, dtype=rows.dtype).masked_fill(~keep, lowest)
        logits = torch.addmm(penalty, rows, columns.T)
    return logits.scatter(1, excluded, lowest)


def _logsumexp_blocks(rows: Tensor, columns: Tensor, keep: Tensor | None, excluded: Tensor) -> Tensor:
    result = rows.new_empty(rows.shape[0])
    with full_precision(rows):
        for _, block in _row_blocks(1, rows.shape[0], columns.shape[0]):
            result[block] = _dot_products(rows[block], columns, keep, excluded[block]).logsumexp(-1)
    return result


def _logsumexp_shapes(rows: Tensor, *_: Any) -> Tensor:
    return rows.new_empty(rows.shape[0])


def _logsumexp_gradient_blocks(
    upstream: Tensor, result: Tensor, rows: Tensor, columns: Tensor, keep: Tensor | None, excluded: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of rows and columns; the softmax is computed again, block by block."""
    row_gradient, column_gradient = torch.empty_like(rows), torch.zeros_like(columns)
    with full_precision(rows):
        for _, block in _row_blocks(1, rows.shape[0], columns.shape[0]):
            softmax = _dot_products(rows[block], columns, keep, excluded[block]).sub_(result[block, None]).exp_()
            softmax.mul_(upstream[block, None])
            row_gradient[block] = softmax @ columns
            column_gradient.addmm_(softmax.T, rows[block])
    return row_gradient, column_gradient


def _logsumexp_gradient_shapes(
    upstream: Tensor, result: Tensor, rows: Tensor, columns: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(rows), torch.empty_like(columns)


_logsumexp_pairs = _operator(
    "logsumexp_pairs(Tensor rows, Tensor columns, Tensor? keep, Tensor excluded) -> Tensor",
    _logsumexp_blocks,
    _logsumexp_shapes,
)
_logsumexp_gradient = _operator(
    "logsumexp_pairs_gradient(Tensor upstream, Tensor result, Tensor rows, Tensor columns, Tensor? keep,"
    " Tensor excluded) -> (Tensor, Tensor)",
    _logsumexp_gradient_blocks,
    _logsumexp_gradient_shapes,
)


class _LogSumExpPairs(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Any, columns: Any, keep: Any, excluded: Any) -> Any:
        return _logsumexp_pairs(rows, columns, keep, excluded)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        rows, columns, keep, excluded = inputs
        ctx.save_for_backward(output, rows, columns, keep, excluded)

    @staticmethod
    def backward(ctx: Any, upstream: Any) -> Any:
        result, rows, columns, keep, excluded = ctx.saved_tensors
        with torch.no_grad():
            row_gradient, column_gradient = _logsumexp_gradient(upstream, result, rows, columns, keep, excluded)
        row_gradient = _only_once(row_gradient, upstream, rows, columns)
        column_gradient = _only_once(column_gradient, upstream, rows, columns)
        return row_gradient, column_gradient, None, None
