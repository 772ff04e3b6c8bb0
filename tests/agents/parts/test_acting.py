from __future__ import annotations

import pytest
import torch
from torch import nn

from agents.parts.acting import chain
from agents.parts.networks import make_encoder
from agents.parts.spaces import Box, Discrete, Space
from tests.conftest import assert_close


@pytest.mark.parametrize(
    ("space", "observation"),
    [
        (Box((3,), torch.float32), torch.randn(4, 3)),
        (Box((2, 3), torch.float32), torch.randn(4, 2, 3)),
        (Box((3,), torch.uint8), torch.randint(256, (4, 3), dtype=torch.uint8)),
        (Box((1, 40, 40), torch.uint8), torch.randint(256, (4, 1, 40, 40), dtype=torch.uint8)),
        (Discrete(3), torch.tensor([0, 2, 1, 1])),
    ],
)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_chain_is_the_network(space: Space, observation: torch.Tensor, activation: str) -> None:
    encoder, _ = make_encoder(space, [5, 7], activation)  # type: ignore[arg-type]
    forward, before = chain(encoder), observation.clone()
    with torch.no_grad():
        assert_close(forward(observation), encoder(observation))
        for parameter in encoder.parameters():
            parameter.add_(0.1)
        assert_close(forward(observation), encoder(observation))
    assert torch.equal(observation, before)


def test_no_layer_is_the_identity() -> None:
    x = torch.randn(2, 3)
    assert chain(nn.Sequential())(x) is x
