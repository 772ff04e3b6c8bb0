"""CUDA graphs as they behave, on a CPU: what a GPU's way of running things can be tried on without one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from agents.parts import device_rounds, graphs

# What the host would have to wait for: operators, and methods that are none.
_READS = {
    "_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2", "unique_dim",
    "unique_consecutive",
}  # fmt: skip
_READING_METHODS = ("tolist", "numpy", "__array__", "cpu")


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def _memory(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


class Graph:
    """Kernels with the tensors that they read and write, which stay the same ones.

    Attributes:
        replays: How often it was started.
    """

    made: ClassVar[list[Graph]] = []

    def __init__(self) -> None:
        self.kernels: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self.replays = 0
        Graph.made.append(self)

    def replay(self) -> None:
        """Compute what was recorded, with what is in the tensors now."""
        self.replays += 1
        for function, args, kwargs, results in self.kernels:
            for own, new in zip(results, _tensors(function(*args, **kwargs)), strict=True):
                if own is not new:
                    own.copy_(new)


class _Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records kernels and computes none: what comes of them is memory with anything in it."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._graph = graph

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, function.overloadpacket.__name__
        by_mask = name.startswith("index") and any(x.dtype == torch.bool for x in _tensors(args[1:2]))
        if name in _READS or by_mask:
            _refuse()
        if function._schema.is_mutable:
            written = [x for x, a in zip(args, function._schema.arguments, strict=False) if a.is_write]
            self._graph.kernels.append((function, args, kwargs, _tensors(written)))
            return written[0] if len(written) == 1 else tuple(written)
        results = function(*args, **kwargs)
        given = {_memory(x) for x in _tensors((args, kwargs))}
        fresh = _tensors(results)
        if fresh and _memory(fresh[0]) not in given:  # others are views
            self._graph.kernels.append((function, args, kwargs, fresh))
            for x in fresh:
                x.fill_(torch.nan if x.is_floating_point() else 0)
        return results


def _refuse() -> None:
    raise RuntimeError("operation not permitted when stream is capturing")


def _refused_here(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that this thread may not call; another one may act meanwhile."""
    thread = threading.get_ident()

    def checked(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() == thread:
            _refuse()
        return method(*args, **kwargs)

    return checked


@contextmanager
def _record(graph: Graph, capture_error_mode: str) -> Iterator[None]:
    with _Recording(graph), pytest.MonkeyPatch.context() as patch:
        for name in _READING_METHODS:
            patch.setattr(Tensor, name, _refused_here(getattr(Tensor, name)))
        yield


def pretend(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """Take the CPU for a GPU where it is a matter of CUDA graphs; returns those that are made from now on."""
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", _record)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: None)
    monkeypatch.setattr(graphs.Replayed, "_failed", [])
    monkeypatch.setattr(Graph, "made", [])
    for module in (graphs, device_rounds):
        monkeypatch.setattr(module, "has_cuda_graphs", lambda device: True)
    return Graph.made
