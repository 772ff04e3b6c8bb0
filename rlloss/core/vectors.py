"""Vectors and their products in full precision: what the losses on embeddings share."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off where ``tensor`` lives: autocast would round the operands of a matrix product to 16 bits."""
    device = tensor.device.type
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def norms(vectors: Tensor) -> Tensor:
    """Euclidean norms over the last dimension, which is kept; the gradient at a zero vector is 0."""
    norm: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return norm


def unit_vectors(vectors: Tensor) -> Tensor:
    """Scale the last dimension to norm 1; a zero vector stays zero, with the gradient of a vector of norm 1.

    Dividing by max(norm, eps) instead would multiply a zero vector's gradient by 1 / eps.
    """
    norm = norms(vectors)
    return vectors / torch.where(norm > 0, norm, 1.0)
