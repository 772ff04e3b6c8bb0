"""The forward pass of a policy step, without what ``nn.Module`` adds to every layer's call."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn


def chain(layers: Iterable[nn.Module]) -> Callable[[Tensor], Tensor]:
    """The layers one after the other, for a forward pass without gradient.

    For a handful of observations calling a layer's ``forward`` through its module takes three times as long as the
    layer's kernel does. The parameters are the layers' own. Activations overwrite what they are given, so the first
    layer must not be one.

    Args:
        layers: What to compute, in order.

    Returns:
        From the first layer's input to the last one's output.
    """
    functions = [_function(layer) for layer in layers]

    def forward(x: Tensor) -> Tensor:
        for function in functions:
            x = function(x)
        return x

    return forward


def _function(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    if type(layer) is nn.Linear:
        return partial(_linear, layer.weight, layer.bias)
    if type(layer) is nn.ReLU:
        return F.relu_
    if type(layer) is nn.Tanh:
        return Tensor.tanh_
    return layer


def _linear(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    return F.linear(x, weight, bias)
