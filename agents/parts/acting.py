"""Choosing actions without overhead: compiled, or on a CPU in numpy.

A policy step is a few tiny operations. Between two of them the environments step, so that the code of each torch
operation has left the processor's caches when it comes round again; numpy's paths are shorter, and that of one compiled
function is the shortest.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from agents.parts.graphs import CannotCompile, Compiled

# What both tensors and arrays can be given to: arithmetic, argmax and reshape.
ArrayT = TypeVar("ArrayT", Tensor, np.ndarray)

# Up to so many multiplications a product of matrices takes less in code around which nothing is called.
_OWN_PRODUCTS = 2**17

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


class Choice:
    """Chooses actions, by one compiled graph where it is asked for one and there can be one.

    Args:
        owner: Who acts, for the warning.
        choose: From tensors, and None, to actions. Its parameters are read where they are, as in :func:`chain`.
        eager: The same, without the compiler.
        made_of: What ``choose`` computes with beside tensors.
        device: Where the tensors are.
        compiled: Whether there is to be a graph.
    """

    def __init__(
        self,
        owner: str,
        choose: Callable[..., Tensor],
        eager: Callable[..., Tensor],
        made_of: Iterable[Any],
        device: torch.device,
        *,
        compiled: bool,
    ) -> None:
        self._owner = owner
        self._eager = eager
        function = torch.no_grad()(lambda *x: [choose(*x)])
        self._compiled = Compiled(function, lambda: made_of, device, own_products=_OWN_PRODUCTS) if compiled else None

    def look(self) -> None:
        """Act as without from now on where what it computes with changed; not looked at for each action."""
        if self._compiled is not None and self._compiled.made and self._compiled.changed():
            self._go_on_eagerly("what it computes with changed")

    def __call__(self, *arguments: Tensor | None) -> Tensor:
        """Choose."""
        if self._compiled is not None:
            try:
                return self._compiled.call(*arguments)[0]
            except CannotCompile as error:
                self._go_on_eagerly(error)
        return self._eager(*arguments)

    def _go_on_eagerly(self, why: object) -> None:
        warnings.warn(f"{self._owner}: acting cannot be compiled, goes on without: {why}", stacklevel=4)
        self._compiled = None


def _itself(x: Tensor) -> Tensor:
    return x


def to_actions(x: Tensor | np.ndarray) -> Tensor:
    """Actions on the CPU."""
    return x.cpu() if isinstance(x, Tensor) else torch.from_numpy(x)


class Noise:
    """Random numbers to choose actions by, drawn for several steps in one call.

    Args:
        fill: Fills a tensor ``(steps, N, *shape)`` with them.
        numbers: About how many a call draws; those of one step at least.
        shape: ``(N, *shape)``, of one step.
        device: Where they are needed.
    """

    def __init__(
        self, fill: Callable[[Tensor], Tensor], numbers: int, shape: tuple[int, ...], device: torch.device
    ) -> None:
        self._fill = fill
        self._rows = torch.zeros(max(numbers // math.prod(shape), 1), *shape, device=device)
        self._steps_of_rows = self._rows.unbind()
        self._num_envs = shape[0]
        self._use(())

    def _use(self, steps: Sequence[Tensor]) -> None:
        self._steps, self._next = steps, 0

    def take(self, num_envs: int) -> Tensor:
        """Those of one step of so many environments; of another number than usual they are drawn by themselves."""
        if num_envs != self._num_envs:
            return self._fill(self._rows.new_empty(num_envs, *self._rows.shape[2:]))
        if self._next == len(self._steps):
            self._fill(self._rows)
            self._use(self._steps_of_rows)
        self._next += 1
        return self._steps[self._next - 1]

    def state_dict(self) -> dict[str, Tensor]:
        """Those that are drawn and not taken."""
        left = self._steps[self._next :]
        return {"left": torch.stack([*left]) if left else self._rows[:0].clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore :meth:`state_dict`, of the same number of environments."""
        self._use(state["left"].to(self._rows.device).unbind())
