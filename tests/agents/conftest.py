"""Fixtures of the agents' tests."""

from __future__ import annotations

import pytest
import torch

from agents.parts import graphs


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are traced as ever, but run by torch's own kernels: it takes a fraction of the time."""
    compile = torch.compile
    monkeypatch.setattr(graphs, "compile_graph", lambda graph, inputs, options: torch.no_grad()(graph))
    monkeypatch.setattr(
        torch, "compile", lambda function, *, options, **rest: compile(function, backend="eager", **rest)
    )
