from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from agents.parts.acting import Choice, Noise, chain, reader, to_actions
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
    assert torch.equal(chain(nn.Sequential())(x), x)


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2, bias=False)],
        [nn.Linear(3, 5), nn.ReLU()],
        [nn.Linear(3, 5), nn.Sigmoid(), nn.Linear(5, 2)],
        [nn.Flatten(), nn.Linear(3, 5)],
    ],
)
def test_no_gradient(layers: list[nn.Module]) -> None:
    """With what numpy has, with what it has not, and with both."""
    x = torch.randn(4, 3)
    outputs = chain(layers)(x)
    assert not outputs.requires_grad
    assert_close(outputs, nn.Sequential(*layers)(x).detach())


def test_what_a_gpu_would_do() -> None:
    """Where the parameters are on no CPU, nothing becomes an array."""
    x = torch.empty(4, 3, device="meta")
    outputs = chain([nn.Linear(3, 5, device="meta"), nn.Tanh()])(x)
    assert reader(outputs.device)(outputs) is outputs
    assert outputs.shape == (4, 5)


def test_actions_are_tensors_on_the_cpu() -> None:
    for x in (torch.arange(3), torch.arange(3).numpy()):
        assert torch.equal(to_actions(x), torch.arange(3))


def count_up(noise: torch.Tensor) -> torch.Tensor:
    """Numbers that tell how many came before them."""
    count_up.calls += 1  # type: ignore[attr-defined]
    return noise.copy_(torch.arange(noise.numel()).view(noise.shape) + 100 * count_up.calls)  # type: ignore[attr-defined]


def test_noise_is_drawn_for_several_steps() -> None:
    count_up.calls = 0  # type: ignore[attr-defined]
    noise = Noise(count_up, 7, (3, 1), torch.device("cpu"))
    taken = [torch.as_tensor(noise.take(3)).flatten().tolist() for _ in range(3)]
    assert taken == [[100.0, 101.0, 102.0], [103.0, 104.0, 105.0], [200.0, 201.0, 202.0]]
    assert torch.as_tensor(noise.take(1)).tolist() == [[300.0]], "of another number of environments"
    state = noise.state_dict()
    later = Noise(count_up, 7, (3, 1), torch.device("cpu"))
    later.load_state_dict(state)
    for one in (noise, later):
        assert torch.as_tensor(one.take(3)).flatten().tolist() == [203.0, 204.0, 205.0]
    assert count_up.calls == 3  # type: ignore[attr-defined]
    later.load_state_dict(noise.state_dict())
    assert torch.as_tensor(later.take(3))[0] == 400.0, "all were taken"


def never(*arguments: torch.Tensor | None) -> torch.Tensor:
    raise AssertionError("nobody should act eagerly")


@pytest.mark.usefixtures("by_torch")
def test_a_compiled_choice_goes_by_the_parameters_as_they_are() -> None:
    layer, x = nn.Linear(3, 4), torch.randn(2, 3)
    made_of = SimpleNamespace(sign=1.0)
    choice = Choice(
        "Test",
        lambda x, bias: (made_of.sign * layer(x)).argmax(-1),
        never,
        [made_of],
        torch.device("cpu"),
        compiled=True,
    )
    for _ in range(3):
        choice.look()
        actions = choice(x, None)
        assert torch.equal(actions, layer(x).argmax(-1)) and not actions.requires_grad
        with torch.no_grad():
            layer.weight.copy_(torch.randn(4, 3))
    assert choice._compiled is not None and choice._compiled.made == 1


@pytest.mark.usefixtures("by_torch")
def test_a_choice_that_changes_goes_on_eagerly() -> None:
    made_of, x = SimpleNamespace(sign=1.0), torch.tensor([[1.0, 2.0]])

    def choose(x: torch.Tensor) -> torch.Tensor:
        return torch.mul(x, made_of.sign).argmax(-1)

    choice = Choice("Test", choose, choose, [made_of], torch.device("cpu"), compiled=True)
    made_of.sign = 2.0  # before anything was compiled
    choice.look()
    assert choice(x).tolist() == [1]
    made_of.sign = -1.0
    with pytest.warns(UserWarning, match="Test: acting cannot be compiled, goes on without: what it computes with"):
        choice.look()
    assert choice(x).tolist() == [0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        choice.look()


@pytest.mark.usefixtures("by_torch")
def test_no_graph_is_left_over_from_before_a_change() -> None:
    """Also where another layout of what is observed has just got a graph of its own."""
    made_of = SimpleNamespace(sign=1.0)
    rows, columns = torch.tensor([[1.0, 2.0], [2.0, 1.0]]), torch.tensor([[1.0, 2.0], [2.0, 1.0]]).t()
    choice = Choice(
        "Test", lambda x: torch.mul(x, made_of.sign).argmax(-1), never, [made_of], torch.device("cpu"), compiled=True
    )
    assert choice(rows).tolist() == [1, 0]
    made_of.sign = -1.0
    assert choice(columns).tolist() == [0, 1]
    choice.look()
    assert choice(rows).tolist() == [0, 1]


@pytest.mark.usefixtures("by_torch")
def test_a_choice_that_cannot_be_compiled_is_made_eagerly() -> None:
    def choose(x: torch.Tensor) -> torch.Tensor:
        return x.argmax(-1) if x.sum().item() > 0 else x.argmin(-1)

    choice, x = Choice("Test", choose, choose, [], torch.device("cpu"), compiled=True), torch.tensor([[1.0, 2.0]])
    with pytest.warns(UserWarning, match="Test: acting cannot be compiled, goes on without: "):
        assert choice(x).tolist() == [1]
    assert choice(-x).tolist() == [1]
