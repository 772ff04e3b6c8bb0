from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from agents.parts.networks import (
    Activation,
    CategoricalPolicy,
    GaussianPolicy,
    MultiCategoricalPolicy,
    NoisyLinear,
    Policy,
    QNetwork,
    SquashedGaussianPolicy,
    ValueNetwork,
    draw_noise,
    is_image,
    make_encoder,
    orthogonal_,
)
from agents.parts.spaces import Box, Discrete, MultiDiscrete, Space
from tests.conftest import assert_close

ACTIVATIONS: list[Activation] = ["relu", "tanh"]


def kinds(encoder: nn.Sequential) -> list[str]:
    return [type(layer).__name__ for layer in encoder]


@pytest.mark.parametrize(
    ("space", "observation", "first", "features"),
    [
        (Discrete(4), torch.tensor([0, 3]), ["OneHot"], 4),
        (Box((3,), torch.float32), torch.randn(2, 3), [], 3),
        (Box((), torch.float32), torch.randn(2), ["Unflatten"], 1),
        (Box((2, 3), torch.float32), torch.randn(2, 2, 3), ["Flatten"], 6),
        (Box((3,), torch.uint8), torch.full((2, 3), 255, dtype=torch.uint8), ["ToFloat"], 3),
        (Box((3,), torch.bool), torch.ones(2, 3, dtype=torch.bool), ["ToFloat"], 3),
        (Box((9, 2, 2), torch.uint8), torch.zeros(2, 9, 2, 2, dtype=torch.uint8), ["ToFloat", "Flatten"], 36),
    ],
)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_mlp_for_what_is_no_image(
    space: Space, observation: Tensor, first: list[str], features: int, activation: Activation
) -> None:
    encoder, width = make_encoder(space, [5, 7], activation)
    name = {"relu": "ReLU", "tanh": "Tanh"}[activation]
    assert kinds(encoder) == [*first, "Linear", name, "Linear", name]
    assert width == 7
    assert encoder(observation).shape == (2, 7)
    assert encoder[len(first)].in_features == features
    bare, width = make_encoder(space, [], activation)
    assert width == features
    out = bare(observation)
    assert out.dtype == torch.float32 or not first
    assert out.shape[1:].numel() == features


def test_bytes_are_divided_by_255_and_integers_are_one_hot() -> None:
    pixels = torch.tensor([[0, 51, 255]], dtype=torch.uint8)
    assert_close(make_encoder(Box((3,), torch.uint8), [], "relu")[0](pixels), torch.tensor([[0.0, 0.2, 1.0]]))
    flags = torch.tensor([[True, False]])
    assert make_encoder(Box((2,), torch.bool), [], "relu")[0](flags).tolist() == [[1.0, 0.0]]
    one_hot = make_encoder(Discrete(3), [], "relu")[0](torch.tensor([2, 0]))
    assert one_hot.tolist() == [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("shape", "image"),
    [
        ((84, 84, 4), True),
        ((4, 84, 84), True),
        ((36, 36, 1), True),
        ((35, 36, 3), False),
        ((84, 90), True),
        ((35, 84), False),
    ],
)
def test_what_is_an_image(shape: tuple[int, ...], image: bool) -> None:
    assert is_image(Box(shape, torch.uint8)) == image
    assert not is_image(Discrete(3))
    assert not is_image(Box((84, 84), torch.float32)), "a table of numbers"


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_small_images_go_through_one_convolution(dtype: torch.dtype) -> None:
    """MinAtar's network: 16 filters of 3 x 3, then a layer of 128."""
    last, width = make_encoder(Box((10, 10, 4), dtype), [128], "relu")
    assert kinds(last) == ["ToFloat", "ChannelsFirst", "Conv2d", "ReLU", "Flatten", "Linear", "ReLU"]
    assert width == 128 and last[5].in_features == 16 * 8 * 8
    first, _ = make_encoder(Box((4, 10, 10), dtype), [128], "relu")
    first.load_state_dict(dict(zip(first.state_dict(), last.state_dict().values(), strict=True)))
    pixels = torch.randint(2, (3, 10, 10, 4)).to(dtype)
    assert_close(last(pixels), first(pixels.permute(0, 3, 1, 2)))


def test_grey_images_need_no_channel() -> None:
    grey, _ = make_encoder(Box((84, 90), torch.uint8), [1], "tanh")
    one, _ = make_encoder(Box((1, 84, 90), torch.uint8), [1], "tanh")
    one.load_state_dict(dict(zip(one.state_dict(), grey.state_dict().values(), strict=True)))
    pixels = torch.randint(256, (2, 84, 90), dtype=torch.uint8)
    assert_close(grey(pixels), one(pixels.unsqueeze(1)))


def test_what_is_no_image_of_one_frame() -> None:
    with pytest.raises(ValueError, match=r"observations of shape \(4, 84, 84, 3\) are no image, wanted \(H, W\)"):
        make_encoder(Box((4, 84, 84, 3), torch.uint8), [1], "relu")


@pytest.mark.parametrize("size", [(84, 84), (36, 50)])
def test_the_nature_cnn_takes_channels_first_and_last(size: tuple[int, int]) -> None:
    first, width = make_encoder(Box((4, *size), torch.uint8), [1], "tanh")
    last, _ = make_encoder(Box((*size, 4), torch.uint8), [1], "tanh")
    assert width == 512
    assert [k for k in kinds(first) if k != "ReLU"] == ["ToFloat", *["Conv2d"] * 3, "Flatten", "Linear"]
    convolutions = [layer for layer in first if isinstance(layer, nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size[0], c.stride[0]) for c in convolutions] == [
        (32, 8, 4),
        (64, 4, 2),
        (64, 3, 1),
    ]
    if size == (84, 84):
        linear = next(layer for layer in first if isinstance(layer, nn.Linear))
        assert linear.in_features == 3136  # the paper's 64 * 7 * 7
    pixels = torch.randint(256, (2, 4, *size), dtype=torch.uint8)
    assert first(pixels).shape == (2, 512)
    for a, b in zip(last.parameters(), first.parameters(), strict=True):
        a.data.copy_(b.data)
    assert_close(last(pixels.permute(0, 2, 3, 1)), first(pixels))


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("dueling", [False, True])
def test_q_network(outputs: int, dueling: bool) -> None:
    space = Box((4,), torch.float32)
    network = QNetwork(space, 5, outputs, hidden_sizes=[6], activation="relu", dueling=dueling)
    x = torch.randn(2, 4)
    out = network(x)
    assert out.shape == ((2, 5) if outputs == 1 else (2, 5, outputs))
    features = network.encoder(x)
    advantage = network.advantage(features).view(2, 5, outputs)
    if network.value is None:
        assert not dueling
        assert_close(out.view(2, 5, outputs), advantage)
        return
    value = network.value(features)
    assert_close(out.view(2, 5, outputs).mean(1), value, "the mean over actions is the value")
    assert_close(out.view(2, 5, outputs) - value[:, None], advantage - advantage.mean(1, keepdim=True))


def test_a_noisy_layer_is_the_formula(generator: torch.Generator) -> None:
    layer = NoisyLinear(4, 3).double()
    assert layer.noise_size == 7
    assert (layer.weight_scale == 0.25).all() and (layer.bias_scale == 0.25).all()  # 0.5 / sqrt(4)
    assert layer.weight.abs().max() <= 0.5 and layer.bias.abs().max() <= 0.5  # 1 / sqrt(4)
    for parameter in layer.parameters():
        parameter.data.normal_(generator=generator)
    x = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    noise = draw_noise(1, 7, generator)[0].double()
    expected = torch.zeros(5, 3, dtype=torch.float64)
    for b in range(5):
        for o in range(3):
            expected[b, o] = layer.bias[o] + layer.bias_scale[o] * noise[4 + o]
            for i in range(4):
                weight = layer.weight[o, i] + layer.weight_scale[o, i] * noise[4 + o] * noise[i]
                expected[b, o] += weight * x[b, i]
    assert_close(layer(x, noise), expected)
    assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
    assert torch.equal(layer(x, torch.zeros(7, dtype=torch.float64)), layer(x))
    gradients = torch.autograd.grad(layer(x, noise).sum(), list(layer.parameters()))
    assert [g.shape for g in gradients] == [p.shape for p in layer.parameters()]
    assert_close(dict(zip(dict(layer.named_parameters()), gradients, strict=True))["bias_scale"], 5.0 * noise[4:])


def test_noise_is_the_signed_root_of_a_normal() -> None:
    noise = draw_noise(3, 20_000, torch.Generator().manual_seed(1))
    normal = torch.randn(3, 20_000, generator=torch.Generator().manual_seed(1))
    assert_close(noise * noise.abs(), normal)
    assert torch.equal(noise.sign(), normal.sign())


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("space", [Box((4,), torch.float32), Box((1, 40, 40), torch.uint8)], ids=["vector", "image"])
def test_noisy_q_network(space: Box, dueling: bool, outputs: int, generator: torch.Generator) -> None:
    """Every linear layer has its own part of the noise, in the order of the layers; the heads come last."""
    network = QNetwork(space, 5, outputs, hidden_sizes=[6, 7], activation="relu", dueling=dueling, noisy=True)
    x = torch.randn(2, 4) if space.dtype == torch.float32 else torch.randint(256, (2, 1, 40, 40), dtype=torch.uint8)
    layers = [layer for layer in network.encoder if isinstance(layer, nn.Linear)]
    assert len(layers) == (2 if space.dtype == torch.float32 else 1)
    heads = [network.advantage, *([network.value] if network.value is not None else [])]
    linears = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    assert [id(layer) for layer in linears] == [id(layer) for layer in [*layers, *heads]]
    assert all(isinstance(layer, NoisyLinear) for layer in linears)
    assert network.noise_size == sum(layer.in_features + layer.out_features for layer in linears)

    noise = draw_noise(1, network.noise_size, generator)[0]
    plain = QNetwork(space, 5, outputs, hidden_sizes=[6, 7], activation="relu", dueling=dueling)
    plain.load_state_dict({name: value for name, value in network.state_dict().items() if "scale" not in name})
    assert_close(plain(x), network(x))
    at = 0
    for noisy, layer in zip(linears, (m for m in plain.modules() if isinstance(m, nn.Linear)), strict=True):
        assert isinstance(noisy, NoisyLinear)
        factors = noise[at : at + noisy.noise_size]
        noise_in, noise_out = factors[: noisy.in_features], factors[noisy.in_features :]
        layer.weight.data += noisy.weight_scale.data * noise_out.unsqueeze(1) * noise_in
        layer.bias.data += noisy.bias_scale.data * noise_out
        at += noisy.noise_size
    assert network(x, noise).shape == ((2, 5) if outputs == 1 else (2, 5, outputs))
    assert_close(network(x, noise), plain(x))
    assert not torch.allclose(network(x, noise), network(x))
    if network.value is not None:
        features = plain.encoder(x)
        assert plain.value is not None
        assert_close(network(x, noise).view(2, 5, outputs).mean(1), plain.value(features), "the mean over actions")


def test_a_quiet_network_takes_no_noise() -> None:
    network = QNetwork(Discrete(3), 2, 1, hidden_sizes=[4], activation="relu", dueling=True)
    assert network.noise_size == 0
    assert not any(isinstance(layer, NoisyLinear) for layer in network.modules())


def test_categorical_policy_is_the_distribution() -> None:
    policy = CategoricalPolicy(Box((4,), torch.float32), Discrete(5), hidden_sizes=[6], activation="tanh")
    logits, action = policy(torch.randn(7, 4)) * 5, torch.arange(7) % 5
    reference: Any = Categorical(logits=logits)
    assert_close(policy.log_prob(logits, action), reference.log_prob(action))
    assert_close(policy.entropy_loss(logits, None), -reference.entropy().mean())
    mask = torch.tensor([True, False] * 3 + [True])
    assert_close(policy.entropy_loss(logits, mask), -reference.entropy()[mask].mean())
    assert torch.equal(policy.mode(logits), logits.argmax(-1))


def draw(policy: Policy, outputs: Tensor, generator: torch.Generator) -> Tensor:
    """Actions out of a policy, the same of tensors and of arrays."""
    noise = policy.fill_noise(torch.empty_like(outputs), generator)
    action = policy.choose(outputs, noise).detach()
    with torch.no_grad():
        of_arrays = policy.choose(outputs.detach().numpy(), noise.numpy())
    assert_close(torch.from_numpy(of_arrays), action)
    return action


def test_categorical_samples_have_the_right_frequencies() -> None:
    policy = CategoricalPolicy(Discrete(1), Discrete(4), hidden_sizes=[], activation="tanh")
    probability = torch.tensor([0.5, 0.3, 0.15, 0.05])
    n = 40_000
    logits = probability.log().expand(n, 4) + 100.0
    generator = torch.Generator().manual_seed(0)
    counts = torch.bincount(draw(policy, logits, generator), minlength=4)
    assert float(((counts - n * probability).square() / (n * probability)).sum()) < 17.7  # 99.95 %, 3 degrees
    again = draw(policy, logits, torch.Generator().manual_seed(0))
    assert torch.equal(torch.bincount(again, minlength=4), counts)
    impossible = torch.tensor([0.0, -math.inf]).expand(1000, 2)
    assert draw(policy, impossible, generator).sum() == 0


def test_noise_of_zero_does_not_make_the_impossible_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    """A uniform number is 0 once in some ten million draws."""
    policy = CategoricalPolicy(Discrete(1), Discrete(2), hidden_sizes=[], activation="tanh")
    monkeypatch.setattr(Tensor, "uniform_", lambda self, generator: self.zero_())
    assert draw(policy, torch.tensor([[-math.inf, 0.0]]), torch.Generator()).tolist() == [1]


def test_the_largest_noise_is_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "uniform_", lambda self, generator: self.fill_(1 - 2**-24))
    noise = CategoricalPolicy.fill_noise(torch.zeros(100), torch.Generator())
    assert_close(noise, torch.full((100,), 24 * math.log(2)))


def test_impossible_actions_are_as_if_they_were_not_there() -> None:
    policy = CategoricalPolicy(Box((4,), torch.float32), Discrete(5), hidden_sizes=[6], activation="tanh")
    observation = torch.randn(7, 4) * 5
    mask = torch.tensor([True, False, True, True, False]).expand(7, 5)
    kept = torch.tensor([0, 2, 3])
    logits, place = policy(observation), torch.arange(7) % 3
    among = policy.among(logits, mask)
    reference: Any = Categorical(logits=logits[:, kept])
    assert_close(policy.log_prob(among, kept[place]), reference.log_prob(place))
    assert_close(policy.entropy_loss(among, None), -reference.entropy().mean())
    assert torch.equal(policy.mode(among), kept[logits[:, kept].argmax(-1)])
    drawn = draw(policy, among.repeat(500, 1), torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) <= set(kept.tolist())
    loss = policy.log_prob(among, kept[place]).sum() + policy.entropy_loss(among, None)
    expected = reference.log_prob(place).sum() - reference.entropy().mean()
    ours, theirs = (torch.autograd.grad(x, policy.head.weight, retain_graph=True)[0] for x in (loss, expected))
    assert_close(ours, theirs)


@pytest.mark.parametrize("nvec", [(3,), (4, 4), (2, 5, 3)])
def test_several_discrete_actions_are_as_many_distributions(nvec: tuple[int, ...]) -> None:
    space = Box((4,), torch.float32)
    policy = MultiCategoricalPolicy(space, MultiDiscrete(nvec), hidden_sizes=[6], activation="tanh")
    x = torch.randn(7, 4) * 5
    action = torch.stack([torch.arange(7) % n for n in nvec], -1)
    logits = policy(x)
    assert logits.shape == (7, len(nvec), max(nvec))
    references: list[Any] = [Categorical(logits=part) for part in policy.head(policy.encoder(x)).split(list(nvec), -1)]
    log_prob = torch.stack([r.log_prob(a) for r, a in zip(references, action.T, strict=True)]).sum(0)
    entropy = torch.stack([r.entropy() for r in references]).sum(0)
    assert_close(policy.log_prob(logits, action), log_prob)
    assert_close(policy.entropy_loss(logits, None), -entropy.mean())
    mask = torch.tensor([True, False] * 3 + [True])
    assert_close(policy.entropy_loss(logits, mask), -entropy[mask].mean())
    assert_close(policy.mode(logits), torch.stack([r.logits.argmax(-1) for r in references], -1))
    ours = torch.autograd.grad(
        policy.log_prob(logits, action).sum() + policy.entropy_loss(logits, None), policy.head.weight, retain_graph=True
    )
    theirs = torch.autograd.grad(log_prob.sum() - entropy.mean(), policy.head.weight)
    assert_close(ours[0], theirs[0])
    assert "positions" not in policy.state_dict()


def test_samples_of_several_discrete_actions() -> None:
    policy = MultiCategoricalPolicy(Discrete(1), MultiDiscrete((2, 3)), hidden_sizes=[], activation="tanh")
    probability = [torch.tensor([0.9, 0.1]), torch.tensor([0.2, 0.5, 0.3])]
    policy.head.bias.data.copy_(torch.cat(probability).log())
    policy.head.weight.data.zero_()
    n = 30_000
    sample = draw(policy, policy(torch.zeros(n, dtype=torch.int64)), torch.Generator().manual_seed(0))
    assert sample.shape == (n, 2)
    joint = torch.bincount(sample[:, 0] * 3 + sample[:, 1], minlength=6)
    expected = n * torch.outer(*probability).flatten()
    assert joint.shape == (6,), "a choice that does not exist was drawn"
    assert float(((joint - expected).square() / expected).sum()) < 22.1  # 99.95 %, 5 degrees


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_gaussian_policy_is_the_distribution(shape: tuple[int, ...]) -> None:
    policy = GaussianPolicy(Box((4,), torch.float32), Box(shape, torch.float32), hidden_sizes=[6], activation="tanh")
    size = math.prod(shape)
    assert (policy.log_std == 0).all()
    policy.log_std.data = torch.linspace(-1.0, 0.5, size)
    mean = policy(torch.randn(7, 4))
    assert mean.shape == (7, size)
    action = torch.randn(7, *shape)
    reference: Any = Normal(mean, policy.log_std.exp())
    assert_close(policy.log_prob(mean, action), reference.log_prob(action.reshape(7, size)).sum(-1))
    assert_close(policy.entropy_loss(mean, None), -reference.entropy().sum(-1).mean())
    assert policy.mode(mean).shape == (7, *shape)
    assert torch.equal(policy.mode(mean).flatten(), mean.flatten())


def test_the_standard_deviation_begins_where_it_is_told() -> None:
    policy = GaussianPolicy(
        Discrete(1), Box((2,), torch.float32), hidden_sizes=[], activation="tanh", log_std_init=-1.5
    )
    assert policy.log_std.tolist() == [-1.5, -1.5]


def make_squashed(shape: tuple[int, ...] = (2,), **changes: Any) -> SquashedGaussianPolicy:
    return SquashedGaussianPolicy(
        Box((4,), torch.float32), Box(shape, torch.float32), hidden_sizes=[6], activation="tanh", **changes
    )


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_squashed_policy_is_the_distribution(shape: tuple[int, ...]) -> None:
    policy = make_squashed(shape, log_std_init=-0.5).double()
    size = math.prod(shape)
    mean = policy(torch.randn(7, 4, dtype=torch.float64))
    u = torch.randn(7, *shape, dtype=torch.float64)
    reference: Any = TransformedDistribution(Normal(mean, policy.log_std.exp()), TanhTransform())
    expected = reference.log_prob(torch.tanh(u.reshape(7, size))).sum(-1)
    assert_close(policy.log_prob(mean, u), expected, dtype=torch.float32)
    assert torch.equal(policy.mode(mean).flatten(), mean.flatten())
    assert policy.state_dict().keys() == GaussianPolicy.state_dict(policy).keys() - {"nodes", "node_weights"}


def test_squashed_density_is_finite_where_tanh_is_1() -> None:
    policy = make_squashed((1,))
    mean = torch.tensor([[0.0], [-40.0]], requires_grad=True)
    u = torch.tensor([[40.0], [-40.0]])
    assert (torch.tanh(u).abs() == 1.0).all()
    log_prob = policy.log_prob(mean, u)
    normal = -0.5 * torch.tensor([1600.0, 0.0]) - 0.5 * math.log(2.0 * math.pi)
    assert_close(log_prob, normal - 2.0 * (math.log(2.0) - 40.0))
    (gradient,) = torch.autograd.grad(log_prob.sum(), mean)
    assert_close(gradient, torch.tensor([[40.0], [0.0]]))


@pytest.mark.parametrize(("log_std", "error"), [(-2.0, 1e-5), (0.0, 1e-4), (math.log(2.0), 4e-3)])
def test_entropy_of_the_squashed_policy_is_the_integral(log_std: float, error: float) -> None:
    """Against minus the integral of p log p over actions, by the midpoint rule in u."""
    policy = make_squashed((2,), log_std_init=log_std)
    mean = torch.tensor([[0.0, 1.0], [-2.0, 0.3], [0.5, 3.0]])
    std = math.exp(log_std)
    u = torch.linspace(-12.0, 12.0, 200_001, dtype=torch.float64).unsqueeze(-1)
    entropy = []
    for pair in mean.double():
        normal: Any = Normal(pair, std)
        a = torch.tanh(pair + std * u)
        log_p = normal.log_prob(pair + std * u) - torch.log1p(-a.square()).clamp(min=-80.0)
        weight = normal.log_prob(pair + std * u).exp() * std * (u[1] - u[0])
        entropy.append(-(weight * log_p).sum())
    expected = torch.stack(entropy).float()
    for keep in (None, torch.tensor([True, False, True])):
        wanted = -(expected if keep is None else expected[keep]).mean()
        torch.testing.assert_close(policy.entropy_loss(mean, keep).detach(), wanted, rtol=0.0, atol=2 * error)
    loss = policy.entropy_loss(mean.requires_grad_(), None)
    assert torch.autograd.grad(loss, mean)[0][2, 1] > 0, "a mean near the bound comes back"


def test_gaussian_samples_have_the_right_moments() -> None:
    policy = GaussianPolicy(Discrete(1), Box((2,), torch.float32), hidden_sizes=[], activation="tanh")
    policy.log_std.data = torch.tensor([0.5, 2.0]).log()
    mean = torch.tensor([1.0, -3.0]).expand(50_000, 2)
    sample = draw(policy, mean, torch.Generator().manual_seed(0)).detach()
    assert sample.shape == (50_000, 2)
    torch.testing.assert_close(sample.mean(0), mean[0], rtol=0, atol=0.04)
    torch.testing.assert_close(sample.std(0), torch.tensor([0.5, 2.0]), rtol=0.02, atol=0)
    assert abs(float(torch.corrcoef(sample.T)[0, 1])) < 0.02


def test_value_network() -> None:
    network = ValueNetwork(Box((4,), torch.float32), hidden_sizes=[6], activation="tanh")
    x = torch.randn(7, 4)
    assert network(x).shape == (7,)
    assert network.encoder is not None
    assert_close(network(x), network.head(network.encoder(x))[:, 0])
    of_features = ValueNetwork(Discrete(9), hidden_sizes=[6], activation="tanh", features=4)
    assert [name for name, _ in of_features.named_parameters()] == ["head.weight", "head.bias"]
    assert_close(of_features(x), of_features.head(x)[:, 0])


@pytest.mark.parametrize("head_gain", [0.01, 1.0])
def test_orthogonal_initialisation(head_gain: float) -> None:
    policy = CategoricalPolicy(Box((8,), torch.float32), Discrete(3), hidden_sizes=[8, 5], activation="tanh")
    orthogonal_(policy, head_gain=head_gain)
    linears: list[tuple[nn.Linear, float]] = [
        *((layer, 2.0) for layer in policy.encoder if isinstance(layer, nn.Linear)),
        (policy.head, head_gain**2),
    ]
    assert len(linears) == 3
    for layer, square in linears:
        weight = layer.weight.detach()
        assert_close(weight @ weight.T / square, torch.eye(len(weight)))
        assert (layer.bias == 0).all()
