"""Replay: what is sampled against a reference that reads the story of each environment in plain Python."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import numpy as np
import pytest
import scipy.stats
import torch

from agents.parts.envs import Envs
from agents.parts.replay import Batch, PrioritizedReplay, Replay
from agents.parts.spaces import Box, Discrete, EnvSpec
from agents.parts.transition import Layout, pack
from tests.agents.worlds import MODES, counting, episode, reward_of
from tests.conftest import mostly_slow

CPU = torch.device("cpu")


class Row(NamedTuple):
    """A stored transition, as the reference knows it."""

    observation: int
    action: int
    reward: float
    terminated: bool
    truncated: bool
    valid: bool


def layout_of(num_envs: int, *, has_reset_steps: bool = True) -> Layout:
    return Layout(EnvSpec(Discrete(10**9), Discrete(4), num_envs, has_reset_steps=has_reset_steps))


def write(replay: Replay, rows: list[Row]) -> None:
    """One step of all environments; the successor of observation o is -o - 1."""
    replay.write(
        pack(
            replay.layout,
            observation=[row.observation for row in rows],
            action=[row.action for row in rows],
            reward=[row.reward for row in rows],
            next_observation=[-row.observation - 1 for row in rows],
            terminated=[row.terminated for row in rows],
            truncated=[row.truncated for row in rows],
            valid=[row.valid for row in rows],
        )
    )


def random_story(rng: np.random.Generator, steps: int, num_envs: int, *, reset_steps: bool) -> list[list[Row]]:
    """``[step][env]``: random ends; where asked, each end is followed by a row that only resets."""
    story: list[list[Row]] = []
    resetting = [False] * num_envs
    for t in range(steps):
        rows = []
        for i in range(num_envs):
            terminated, truncated = bool(rng.random() < 0.2), bool(rng.random() < 0.2)
            valid = not resetting[i]
            ended = valid and (terminated or truncated)
            rows.append(
                Row(
                    1 + t * num_envs + i,
                    int(rng.integers(4)),
                    float(rng.normal()),
                    terminated and valid,
                    truncated and valid,
                    valid,
                )
            )
            resetting[i] = ended and reset_steps
        story.append(rows)
    return story


def windows(stored: list[list[Row]], n: int, discount: float) -> dict[int, tuple[int, float, float, int]]:
    """By first observation: action, summed reward, bootstrap discount and successor of every window of n rows."""
    expected = {}
    for i in range(len(stored[0])):
        column = [rows[i] for rows in stored]
        for start in range(len(column) - n + 1):
            if not column[start].valid:
                continue
            total, factor, last = 0.0, 1.0, column[start]
            for row in column[start : start + n]:
                total += factor * row.reward
                factor *= discount
                last = row
                if row.terminated or row.truncated:
                    break
            bootstrap = 0.0 if last.terminated else factor
            expected[column[start].observation] = (column[start].action, total, bootstrap, -last.observation - 1)
    return expected


def check(batch: Batch, expected: dict[int, tuple[int, float, float, int]]) -> set[int]:
    """Every sampled transition is as the reference has it; returns which were sampled."""
    mask = batch.mask if batch.mask is not None else torch.ones(len(batch.reward), dtype=torch.bool)
    seen = set()
    for b in mask.nonzero().flatten().tolist():
        observation = int(batch.observation[b])
        action, reward, discount, successor = expected[observation]
        assert int(batch.action[b]) == action
        assert float(batch.reward[b]) == pytest.approx(reward, rel=1e-5, abs=1e-5)
        assert float(batch.discount[b]) == pytest.approx(discount, rel=1e-6, abs=0.0)
        assert int(batch.next_observation[b]) == successor
        seen.add(observation)
    return seen


@pytest.mark.parametrize("reset_steps", [False, True])
@pytest.mark.parametrize("n_step", mostly_slow([1, 2, 3, 5], keep=[1, 3]))
@pytest.mark.parametrize("num_envs", [1, 3])
def test_windows_against_a_reference(n_step: int, num_envs: int, reset_steps: bool) -> None:
    """Random ends, the ring empty, part full, just full and wrapped around at every position."""
    rng = np.random.default_rng(n_step * 10 + num_envs)
    length = 7
    replay = Replay(layout_of(num_envs, has_reset_steps=reset_steps), length * num_envs, num_envs, CPU)
    story = random_story(rng, 3 * length, num_envs, reset_steps=reset_steps)
    generator = torch.Generator().manual_seed(0)
    for t, rows in enumerate(story):
        write(replay, rows)
        assert replay.can_sample(n_step) is (min(t + 1, length) >= n_step)
        if not replay.can_sample(n_step):
            continue
        expected = windows(story[max(0, t + 1 - length) : t + 1], n_step, 0.9)
        index = replay.draw(40 * length * num_envs, n_step, generator)
        # With 40 draws per window, each is drawn: what the reference has, no more and no less.
        assert check(replay.gather(index, 0.9), expected) == set(expected)


@pytest.mark.parametrize("reset_steps", [False, True])
@pytest.mark.parametrize("n_step", [1, 3])
def test_the_action_taken_next(n_step: int, reset_steps: bool) -> None:
    """That of the row after the window's last step; none after a truncation, and it does not matter after an end."""
    num_envs, length = 2, 9
    replay = Replay(layout_of(num_envs, has_reset_steps=reset_steps), length * num_envs, num_envs, CPU)
    story = random_story(np.random.default_rng(n_step), length + 4, num_envs, reset_steps=reset_steps)
    if not reset_steps:  # an end counts for more than a truncation
        story[8][1] = story[8][1]._replace(terminated=True, truncated=True)
    for rows in story:
        write(replay, rows)
    stored = story[4:]
    row_of = {row.observation: (t, i) for t, rows in enumerate(stored) for i, row in enumerate(rows)}
    index = replay.draw(2000, n_step + 1, torch.Generator().manual_seed(0))
    batch = replay.gather(index, 0.9, next_action=True)
    assert batch.next_action is not None and batch.mask is not None
    kept = set()
    for b in range(2000):
        t, i = row_of[-int(batch.next_observation[b]) - 1]
        last = stored[t][i]
        start_t, start_i = row_of[int(batch.observation[b])]
        assert bool(batch.mask[b]) == (stored[start_t][start_i].valid and (last.terminated or not last.truncated))
        if batch.mask[b]:
            assert int(batch.next_action[b]) == stored[t + 1][i].action
            kept.add(int(batch.observation[b]))
    assert check(batch, windows(stored, n_step, 0.9)) == kept


@pytest.mark.parametrize("discount", [0.0, 1.0])
def test_extreme_discounts(discount: float, generator: torch.Generator) -> None:
    story = random_story(np.random.default_rng(0), 7, 2, reset_steps=False)
    replay = Replay(layout_of(2, has_reset_steps=False), 14, 2, CPU)
    for rows in story:
        write(replay, rows)
    check(replay.gather(replay.draw(300, 3, generator), discount), windows(story, 3, discount))


@pytest.mark.parametrize("written", [5, 8, 11])
@pytest.mark.parametrize("n_step", [1, 3])
def test_sampling_is_uniform(n_step: int, written: int, generator: torch.Generator) -> None:
    num_envs, length = 3, 8
    replay = Replay(layout_of(num_envs, has_reset_steps=False), num_envs * length, num_envs, CPU)
    for rows in random_story(np.random.default_rng(0), written, num_envs, reset_steps=False):
        write(replay, rows)
    draws = 60_000
    first = replay.draw(draws, n_step, generator)[0]
    counts = torch.bincount(first, minlength=num_envs * length)
    possible = counts[counts > 0]
    assert len(possible) == (min(written, length) - n_step + 1) * num_envs
    assert scipy.stats.chisquare(possible.numpy()).pvalue > 0.01


def test_the_newest_steps_wait_for_their_successors(generator: torch.Generator) -> None:
    """Also right after the ring has wrapped around: no window joins the newest row to the oldest."""
    replay = Replay(layout_of(1), 5, 1, CPU)
    for t in range(8):
        write(replay, [Row(100 + t, 0, 1.0, False, False, True)])
    index = replay.draw(1000, 3, generator)
    observation = replay.rows[:, 0].view(-1, replay.layout.row_bytes)
    stored = [int(replay.gather(torch.tensor([[slot]]), 1.0).observation) for slot in range(len(observation))]
    starts = {tuple(stored[int(slot)] for slot in window) for window in index.T}
    assert starts == {(103, 104, 105), (104, 105, 106), (105, 106, 107)}


@pytest.mark.parametrize(("capacity", "num_envs", "length"), [(10, 1, 10), (10, 2, 5), (10, 3, 4), (2, 4, 1)])
def test_capacity(capacity: int, num_envs: int, length: int, generator: torch.Generator) -> None:
    """At least what is asked for, rounded up to whole steps; the oldest goes first."""
    replay = Replay(layout_of(num_envs), capacity, num_envs, CPU)
    story = random_story(np.random.default_rng(0), 25, num_envs, reset_steps=False)
    for t, rows in enumerate(story):
        write(replay, rows)
        assert replay.size == min(t + 1, length)
    seen = set(replay.gather(replay.draw(1000, 1, generator), 1.0).observation.tolist())
    assert seen == {row.observation for rows in story[-length:] for row in rows}


def test_bytes_stay_bytes(generator: torch.Generator) -> None:
    layout = Layout(EnvSpec(Box((4, 4, 1), torch.uint8), Discrete(2), num_envs=1))
    replay = Replay(layout, 3, 1, CPU)
    image = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    for t in range(3):
        replay.write(
            pack(
                layout,
                observation=image + t,
                action=[0],
                reward=[1.0],
                next_observation=image + t + 1,
                terminated=[False],
                truncated=[False],
            )
        )
    assert layout.row_bytes < 2 * 16 + 32  # nothing is stored as float
    for n_step in (1, 2):
        batch = replay.gather(replay.draw(5, n_step, generator), 0.9)
        assert batch.observation.dtype == batch.next_observation.dtype == torch.uint8
        gap = batch.next_observation.int() - batch.observation.int()
        assert bool((gap == n_step).all())


@pytest.mark.parametrize("written", [0, 3, 5, 9])
def test_state_round_trip(written: int) -> None:
    replay, copied = (Replay(layout_of(2), 10, 2, CPU) for _ in range(2))
    story = random_story(np.random.default_rng(0), written + 4, 2, reset_steps=True)
    for rows in story[:written]:
        write(replay, rows)
    state = replay.state_dict()
    write(copied, story[0])  # what is loaded replaces what was there
    copied.load_state_dict(state)
    for rows in story[written:]:
        write(replay, rows)
        write(copied, rows)
        one, other = (
            r.gather(r.draw(50, 2, torch.Generator().manual_seed(1)), 0.9) if r.can_sample(2) else None
            for r in (replay, copied)
        )
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None)
    assert replay.head == copied.head


def test_state_is_a_copy_of_what_is_filled() -> None:
    replay = Replay(layout_of(1), 100, 1, CPU)
    write(replay, [Row(1, 0, 0.0, False, False, True)])
    state = replay.state_dict()
    assert state["rows"].shape[0] == 1
    before = state["rows"].clone()
    replay.rows.zero_()
    assert torch.equal(state["rows"], before)


@pytest.mark.parametrize(("capacity", "num_envs"), [(4, 1), (20, 2)])
def test_state_of_another_size(capacity: int, num_envs: int) -> None:
    replay = Replay(layout_of(1), 10, 1, CPU)
    for t in range(6):
        write(replay, [Row(t, 0, 0.0, False, False, True)])
    with pytest.raises(ValueError, match="do not fit"):
        Replay(layout_of(num_envs), capacity, num_envs, CPU).load_state_dict(replay.state_dict())


def test_state_of_a_wrapped_ring_of_another_capacity() -> None:
    """The oldest row stands in the middle of the ring: in a longer ring it would be taken for the newest."""
    replay = Replay(layout_of(1), 5, 1, CPU)
    for t in range(7):
        write(replay, [Row(t, 0, 0.0, False, False, True)])
    with pytest.raises(ValueError, match="do not fit"):
        Replay(layout_of(1), 8, 1, CPU).load_state_dict(replay.state_dict())


@pytest.mark.parametrize("written", [2, 5, 7])
def test_cut_ends_the_episodes_at_the_newest_step(written: int, generator: torch.Generator) -> None:
    story = random_story(np.random.default_rng(1), 10, 2, reset_steps=False)
    replay = Replay(layout_of(2, has_reset_steps=False), 10, 2, CPU)
    for rows in story[:written]:
        write(replay, rows)
    replay.cut()
    story[written - 1] = [row._replace(truncated=True) for row in story[written - 1]]
    for t in range(written, 10):
        write(replay, story[t])
        if replay.can_sample(3):
            expected = windows(story[max(0, t - 4) : t + 1], 3, 0.9)
            assert check(replay.gather(replay.draw(400, 3, generator), 0.9), expected) == set(expected)


def test_cut_of_nothing() -> None:
    replay = Replay(layout_of(1), 5, 1, CPU)
    replay.cut()
    assert replay.rows.count_nonzero() == 0


@pytest.mark.parametrize("kind", ["sync", "custom"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n_step", [1, 3, 4])
def test_windows_of_real_steps(kind: str, mode: object, n_step: int, generator: torch.Generator) -> None:
    """From the environment to the batch: no n-step transition crosses an episode, in any autoreset mode."""
    envs = Envs(counting(kind, 3, mode))  # type: ignore[arg-type]
    replay = Replay(envs.layout, 45, 3, CPU)
    envs.reset(0)
    for step in range(40):
        replay.write(envs.step(torch.randint(3, (3,), generator=generator)))
        if step % 8 != 7:
            continue
        batch = replay.gather(replay.draw(300, n_step, generator), 0.5)
        mask = torch.ones(300, dtype=torch.bool) if batch.mask is None else batch.mask
        assert bool(mask.any())
        for b in mask.nonzero().flatten().tolist():
            env, number, start = (int(x) for x in batch.observation[b, :3])
            length, terminated, _ = episode(env, number)
            k = min(n_step, length - start)
            assert batch.next_observation[b, :3].tolist() == [env, number, start + k]
            rewards = [reward_of(env, number, start + 1 + j) for j in range(k)]
            assert float(batch.reward[b]) == sum(0.5**j * reward for j, reward in enumerate(rewards))
            over = start + k == length and terminated
            assert float(batch.discount[b]) == (0.0 if over else 0.5**k)


def prioritized(
    num_envs: int, length: int, n_step: int = 1, *, exponent: float = 1.0, reset_steps: bool = False
) -> PrioritizedReplay:
    layout = layout_of(num_envs, has_reset_steps=reset_steps)
    return PrioritizedReplay(layout, num_envs * length, num_envs, CPU, n_step=n_step, exponent=exponent)


@pytest.mark.parametrize("reset_steps", [False, True])
@pytest.mark.parametrize("n_step", [1, 2, 3, 7])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_prioritized_windows_against_a_reference(n_step: int, num_envs: int, reset_steps: bool) -> None:
    """What can be drawn is what uniform replay draws and does not mask, with the priorities that the story gives it."""
    rng = np.random.default_rng(n_step * 10 + num_envs)
    length, exponent = 7, 0.7
    replay = prioritized(num_envs, length, n_step, exponent=exponent, reset_steps=reset_steps)
    story = random_story(rng, 3 * length, num_envs, reset_steps=reset_steps)
    generator = torch.Generator().manual_seed(0)
    priorities: dict[int, float] = {}  # by observation
    largest = 1.0
    for t, rows in enumerate(story):
        write(replay, rows)
        for row in story[t - n_step + 1] if t >= n_step - 1 else []:
            priorities[row.observation] = largest
        assert replay.can_sample(n_step) is (min(t + 1, length) >= n_step)
        expected = windows(story[max(0, t + 1 - length) : t + 1], n_step, 0.9)
        total = sum(priorities[observation] for observation in expected)
        assert float(replay.tree.levels[0].sum()) == pytest.approx(total, rel=1e-12)
        if not expected:
            continue
        for _ in range(2):
            index = replay.draw(9, n_step, generator)
            batch = replay.gather(index, 0.9)
            assert batch.mask is None or batch.mask.all(), "a row that resets has no priority"
            check(batch, expected)
            stored = [priorities[int(observation)] for observation in batch.observation]
            np.testing.assert_allclose(replay.tree.read(index[0]).numpy(), stored, rtol=1e-12)
            by_hand = (np.array(stored) / total * len(expected)) ** -0.6
            np.testing.assert_allclose(replay.weights(index, 0.6).numpy(), by_hand / by_hand.max(), rtol=1e-6)
            error = {int(start): float(rng.normal()) * 10.0 for start in index[0]}
            replay.update(index, torch.tensor([error[int(start)] for start in index[0]], dtype=torch.float64))
            for start, observation in zip(index[0].tolist(), batch.observation.tolist(), strict=True):
                priorities[observation] = (abs(error[start]) + 1e-6) ** exponent
                largest = max(largest, priorities[observation])
            assert float(replay.max_priority) == pytest.approx(largest, rel=1e-12)


@pytest.mark.parametrize("written", mostly_slow([5, 8, 11], keep=[11]))
@pytest.mark.parametrize("n_step", [1, 3])
def test_frequencies_are_the_priorities(n_step: int, written: int, generator: torch.Generator) -> None:
    num_envs, length = 3, 8
    replay = prioritized(num_envs, length, n_step)
    for rows in random_story(np.random.default_rng(0), written, num_envs, reset_steps=False):
        write(replay, rows)
    starts = torch.unique(replay.draw(1000, n_step, generator)[0])
    assert len(starts) == (min(written, length) - n_step + 1) * num_envs, "all are equal at first"
    error = torch.linspace(-2.0, 3.0, len(starts))
    replay.update(starts.unsqueeze(0), error)
    counts = torch.zeros(num_envs * length)
    for _ in range(3_000):
        counts[replay.draw(1, n_step, generator)[0]] += 1
    expected = (error.abs() / error.abs().sum() * counts.sum()).numpy()
    assert scipy.stats.chisquare(counts[starts].numpy(), expected, sum_check=False).pvalue > 0.01


def test_no_error_is_drawn_again_and_weighs_most(generator: torch.Generator) -> None:
    replay = prioritized(1, 4, exponent=0.5)
    for t in range(4):
        write(replay, [Row(t, 0, 0.0, False, False, True)])
    replay.update(torch.tensor([[0, 1, 2, 3]]), torch.tensor([0.0, 1.0, -4.0, 1e4]))
    assert_close = np.testing.assert_allclose
    assert_close(replay.tree.read(torch.arange(4)).numpy(), [1e-3, 1.0, 2.0, 100.0], rtol=1e-5)
    weights = replay.weights(torch.tensor([[0, 3, 1]]), 0.5)
    assert weights.dtype == torch.float32
    assert_close(weights.numpy(), [1.0, 1e-5**0.5, 1e-3**0.5], rtol=1e-4)
    assert replay.weights(torch.tensor([[3, 1]]), 0.0).tolist() == [1.0, 1.0]
    assert 0 in replay.draw(200_000, 1, generator)


def test_only_rows_that_reset() -> None:
    """A ring of one step that resets every environment: as in uniform replay, what is drawn is masked."""
    replay = prioritized(2, 1, reset_steps=True)
    write(replay, [Row(7, 0, 1.0, False, False, False)] * 2)
    index = replay.draw(3, 1, torch.Generator())
    mask = replay.gather(index, 0.9).mask
    assert mask is not None and not mask.any()
    assert replay.weights(index, 1.0).isfinite().all()


@pytest.mark.parametrize("written", [0, 3, 5, 9])
def test_prioritized_state_round_trip(written: int) -> None:
    replay, copied = (prioritized(2, 5, 2, reset_steps=True) for _ in range(2))
    story = random_story(np.random.default_rng(0), written + 6, 2, reset_steps=True)
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]

    def step(replay: PrioritizedReplay, rows: list[Row], generator: torch.Generator) -> list[torch.Tensor]:
        write(replay, rows)
        if not replay.can_sample(2):
            return []
        index = replay.draw(8, 2, generator)
        replay.update(index, torch.randn(8, generator=generator))
        return [index, replay.weights(index, 0.5)]

    for rows in story[:written]:
        step(replay, rows, generators[0])
    step(copied, story[0], generators[1])  # what is loaded replaces what was there
    copied.load_state_dict(copy.deepcopy(replay.state_dict()))
    generators[1].set_state(generators[0].get_state())
    for rows in story[written:]:
        one, other = (step(r, rows, g) for r, g in zip((replay, copied), generators, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert len(one) == 2
    assert all(torch.equal(a, b) for a, b in zip(replay.tree.levels, copied.tree.levels, strict=True))
    assert torch.equal(replay.max_priority, copied.max_priority)


def test_another_length_of_window_is_refused(generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match="PrioritizedReplay: n_step must be 2, for which it was made, got 1"):
        prioritized(1, 5, 2).draw(3, 1, generator)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((4,), torch.float32), ((17,), torch.float32), ((4, 84, 84), torch.uint8)]
)
def test_memory_is_that_of_the_data_and_a_twentieth(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """On the device that holds no values, so that ten million transitions cost nothing here."""
    num_envs, capacity, meta = 8, 10_000_000, torch.device("meta")
    layout = Layout(EnvSpec(Box(shape, dtype), Discrete(4), num_envs))
    transition = sum(dtype.itemsize * math.prod(shape) for dtype, shape in layout.fields.values())
    plain = Replay(layout, capacity, num_envs, meta)
    assert plain.rows.is_meta and plain.rows.nbytes <= 1.05 * capacity * transition
    prioritized = PrioritizedReplay(layout, capacity, num_envs, meta, n_step=1, exponent=0.6)
    held = prioritized.rows.nbytes + sum(level.nbytes for level in prioritized.tree.levels)
    assert held <= 1.05 * capacity * (transition + torch.float64.itemsize)
