"""Running moments are those of all values at once, and rewards are scaled by the returns of whole episodes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from agents.parts.normalization import ObservationNormalizer, RewardNormalizer, RunningMoments
from tests.conftest import assert_close


@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
@pytest.mark.parametrize("masked", [False, True])
def test_moments_of_batches_are_those_of_all_values(shape: tuple[int, ...], masked: bool) -> None:
    moments = RunningMoments(shape)
    seen: list[np.ndarray] = []
    for size in (1, 5, 2, 30):
        x = torch.randn(size, 4, *shape) * 3.0 + 1000.0
        mask = torch.rand(size, 4) < 0.5 if masked else None
        moments.update(x, mask)
        keep = np.ones((size, 4), bool) if mask is None else mask.numpy()
        seen.extend(x.double().numpy()[keep])
        table = np.array(seen)
        assert float(moments.count) == len(table)
        np.testing.assert_allclose(moments.mean.numpy(), table.mean(0), rtol=1e-12)
        np.testing.assert_allclose(moments.variance.numpy(), table.var(0), rtol=1e-9)


def test_nothing_seen_changes_nothing() -> None:
    moments = RunningMoments((2,))
    for before in (copy.deepcopy(moments.state_dict()), None):
        if before is None:
            moments.update(torch.randn(6, 2))
            before = copy.deepcopy(moments.state_dict())
        moments.update(torch.randn(3, 2), torch.zeros(3, dtype=torch.bool))
        for name, value in moments.state_dict().items():
            assert torch.equal(value, before[name]), name


def test_observations_are_scaled_and_clipped() -> None:
    normalizer = ObservationNormalizer((2,))
    x = torch.tensor([[1.0, -3.0], [20.0, 4.0]])
    assert normalizer(x).tolist() == [[1.0, -3.0], [10.0, 4.0]], "before anything was seen"
    seen = torch.randn(500, 2) * torch.tensor([100.0, 0.01]) + torch.tensor([1e6, 5.0])
    normalizer.update(seen)
    out = normalizer(seen)
    assert out.dtype == torch.float32
    np.testing.assert_allclose(out.numpy().mean(0), 0.0, atol=1e-6)
    np.testing.assert_allclose(out.numpy().std(0), 1.0, rtol=1e-3)
    far = normalizer(torch.tensor([[-1e9, 1e9]]))
    assert far.tolist() == [[-10.0, 10.0]]
    constant = ObservationNormalizer((1,))
    constant.update(torch.full((9, 1), 7.0))
    assert constant(torch.full((2, 1), 7.0)).tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize("parts", [(12,), (5, 1, 6)])
def test_returns_begin_anew_after_each_episode(parts: tuple[int, ...]) -> None:
    """In whatever pieces the steps come; a step that only resets has no return."""
    steps, envs, discount = 12, 3, 0.9
    reward = torch.randn(steps, envs) * 5 + 2
    ended = torch.rand(steps, envs) < 0.3
    ended[4, 0] = ended[5, 1] = True  # at a piece's last step
    valid = torch.ones(steps, envs, dtype=torch.bool)
    valid[1:] = ~ended[:-1]
    reward, ended = torch.where(valid, reward, 0.0), ended & valid
    normalizer = RewardNormalizer(envs, discount)
    at = 0
    for length in parts:
        piece = slice(at, at + length)
        normalizer.update(reward[piece], ended[piece], valid[piece])
        at += length
    sums = []
    for env in range(envs):
        total = 0.0
        for t in range(steps):
            if valid[t, env]:
                total = discount * total + float(reward[t, env])
                sums.append(total)
                if ended[t, env]:
                    total = 0.0
    assert len(sums) < steps * envs
    scale = float(np.std(sums))
    assert float(normalizer.moments.count) == len(sums)
    assert_close(normalizer(reward), reward / scale)
    assert normalizer(torch.tensor(1e9)) == 10.0


def test_cut_begins_all_returns_anew() -> None:
    normalizer = RewardNormalizer(2, 0.5)
    never = torch.zeros(1, 2, dtype=torch.bool)
    normalizer.update(torch.tensor([[4.0, 8.0]]), never)
    assert normalizer.returns.tolist() == [4.0, 8.0]
    normalizer.update(torch.tensor([[1.0, 1.0]]), never)
    assert normalizer.returns.tolist() == [3.0, 5.0]
    normalizer.cut()
    normalizer.update(torch.tensor([[1.0, 1.0]]), never)
    assert normalizer.returns.tolist() == [1.0, 1.0]
