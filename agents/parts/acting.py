"""Choosing actions without overhead: on a CPU in numpy.

A policy step is a few tiny operations. Between two of them the environments step, so that the code of each torch
operation has left the processor's caches when it comes round again; numpy's paths are shorter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import takewhile
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

# What both tensors and arrays can be given to: arithmetic, argmax and reshape.
ArrayT = TypeVar("ArrayT", Tensor, np.ndarray)

_IN_NUMPY: dict[type[nn.Module], Callable[..., np.ndarray]] = {
    nn.ReLU: lambda x: np.maximum(x, 0.0, out=x),
    nn.Tanh: lambda x: np.tanh(x, out=x),
}


def on_host(device: torch.device) -> bool:
    """Whether numpy can read a device's tensors where they are."""
    return device.type == "cpu"


def chain(layers: Iterable[nn.Module]) -> Callable[[Tensor], Tensor]:
    """The layers one after the other, for a forward pass without gradient.

    On a CPU the linear layers and activations of an MLP are computed in numpy. Convolutions take so long that it makes
    no difference, and the large matrices after them less in torch: with one, all is.

    Args:
        layers: What to compute, in order. Their parameters are read where they are now: values may be copied into them,
            but other tensors put in their place are not seen, nor are a copy's.

    Returns:
        From the first layer's input to the last one's output.
    """
    layers = list(layers)
    first = list(takewhile(lambda layer: not list(layer.parameters()), layers))  # what makes an observation a vector
    mlp = layers[len(first) :]
    known = all(type(layer) is nn.Linear or type(layer) in _IN_NUMPY for layer in mlp)
    if not known or not all(on_host(p.device) for layer in mlp for p in layer.parameters()):
        return torch.no_grad()(nn.Sequential(*layers))
    functions = [_in_numpy(layer) for layer in mlp]

    def forward(x: Tensor) -> Tensor:
        for layer in first:
            x = layer(x)
        value = x.numpy()
        for function in functions:
            value = function(value)
        return torch.from_numpy(value)

    return forward


def _in_numpy(layer: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    if not isinstance(layer, nn.Linear):
        return _IN_NUMPY[type(layer)]
    weight = layer.weight.detach().numpy().T
    bias = None if layer.bias is None else layer.bias.detach().numpy()

    def linear(x: np.ndarray) -> np.ndarray:
        x = x.dot(weight)  # half a microsecond less than @
        if bias is not None:
            x += bias
        return x

    return linear


def reader(device: torch.device) -> Callable[[Tensor], Any]:
    """From a tensor on the device to the array that it is on a CPU; to the tensor itself elsewhere."""
    return Tensor.numpy if on_host(device) else _itself


def _itself(x: Tensor) -> Tensor:
    return x


def to_actions(x: Tensor | np.ndarray) -> Tensor:
    """Actions on the CPU."""
    return x.cpu() if isinstance(x, Tensor) else torch.from_numpy(x)


class Noise:
    """Random numbers to choose actions by, drawn for several steps in one call.

    Args:
        fill: Fills a tensor ``(steps, N, *shape)`` with them.
        steps: Steps of a call.
        shape: ``(N, *shape)``, of one step.
        device: Where they are needed.
    """

    def __init__(
        self, fill: Callable[[Tensor], Tensor], steps: int, shape: tuple[int, ...], device: torch.device
    ) -> None:
        self._fill = fill
        self._rows = torch.zeros(steps, *shape, device=device)
        self._as_array = reader(device)
        self._next = steps

    def take(self, num_envs: int) -> Any:
        """Those of one step of so many environments; of another number than usual they are drawn by themselves."""
        if num_envs != self._rows.shape[1]:
            return self._as_array(self._fill(self._rows.new_empty(num_envs, *self._rows.shape[2:])))
        if self._next == len(self._rows):
            self._fill(self._rows)
            self._next = 0
        self._next += 1
        return self._as_array(self._rows)[self._next - 1]

    def state_dict(self) -> dict[str, Tensor]:
        """Those that are drawn and not taken."""
        return {"left": self._rows[self._next :].clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore :meth:`state_dict`, of the same number of environments."""
        left = state["left"]
        self._next = len(self._rows) - len(left)
        self._rows[self._next :].copy_(left)
