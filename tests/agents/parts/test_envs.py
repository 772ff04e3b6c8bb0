from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils import EzPickle
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from agents.parts.envs import EnvironmentFault, Envs, can_capture, make_vec, spec_of
from agents.parts.spaces import Box, Discrete
from agents.parts.transition import Transitions
from tests.agents.environments import MODES, CountingEnv, counting, make_vector

FIELDS = ("observation", "next_observation", "action", "reward", "terminated", "truncated")


def take(transitions: Transitions) -> dict[str, np.ndarray]:
    """The fields of one step, copied, and which rows are transitions."""
    fields = {name: getattr(transitions, name).clone().numpy() for name in FIELDS}
    mask = transitions.mask
    fields["valid"] = np.ones(len(fields["reward"]), bool) if mask is None else mask.clone().numpy()
    return fields


def play(envs: Envs, steps: int) -> Iterator[dict[str, np.ndarray]]:
    for t in range(steps):
        transitions = envs.step(torch.full((envs.spec.num_envs,), t % 2))
        step = take(transitions)
        assert step["valid"].sum() == transitions.count
        yield step


VECTORS = [
    *[pytest.param(mode, False, id=f"sync-{mode.value}") for mode in MODES],
    *[pytest.param(mode, True, id=f"async-{mode.value}") for mode in MODES[:2]],
]


@pytest.mark.parametrize(("mode", "processes"), VECTORS)
def test_every_transition_is_of_one_episode(mode: AutoresetMode, processes: bool) -> None:
    lengths, ends = [(3, 1), (2,), (4, 2, 3)], [(False, True), (True,), (True, False, False)]
    envs = Envs(counting(mode, processes=processes))
    envs.reset(seed=0)
    episode, index, total = [0, 0, 0], [0, 0, 0], 0
    resets = [False, False, False]
    for step in play(envs, 40):
        finished = []
        for i in range(3):
            if resets[i]:  # this step only resets the environment
                assert not step["valid"][i]
                assert step["reward"][i] == 0.0
                resets[i] = False
                continue
            assert step["valid"][i]
            total += 1
            length = lengths[i][episode[i] % len(lengths[i])]
            end = ends[i][episode[i] % len(ends[i])]
            over = index[i] + 1 == length
            assert step["observation"][i].tolist() == [episode[i], index[i]]
            assert step["next_observation"][i].tolist() == [episode[i], index[i] + 1]
            assert step["reward"][i] == 1.0
            assert step["terminated"][i] == (over and end)
            assert step["truncated"][i] == (over and not end)
            index[i] += 1
            if over:
                finished.append((i, float(length), length))
                episode[i], index[i] = episode[i] + 1, 0
                resets[i] = mode is AutoresetMode.NEXT_STEP
        assert envs.finished == finished
        assert envs.steps == total
        for i in range(3):
            if not resets[i]:
                assert envs.observation[i].tolist() == [episode[i], index[i]]
    assert all(e > 8 for e in episode)
    assert envs.spec.has_reset_steps == (mode is AutoresetMode.NEXT_STEP)
    envs.close()


def test_a_transition_stays_readable_during_the_next_step() -> None:
    envs = Envs(counting(AutoresetMode.SAME_STEP))
    envs.reset()
    first = envs.step(torch.zeros(3, dtype=torch.int64))
    before, acting = take(first), envs.observation
    kept = acting.clone()
    envs.step(torch.ones(3, dtype=torch.int64))
    after = take(first)
    assert all((before[name] == after[name]).all() for name in before)
    assert torch.equal(acting, kept)


def test_discrete_spaces_count_from_zero() -> None:
    make = partial(CountingEnv, view="parity", action_space=spaces.Discrete(3, start=-1))
    vector = make_vector([make], AutoresetMode.SAME_STEP)
    envs = Envs(vector)
    assert envs.spec.observation == Discrete(2)
    assert envs.spec.action == Discrete(3)
    envs.reset()
    assert envs.observation.tolist() == [0]
    rows = [take(envs.step(torch.tensor([a]))) for a in (0, 2, 1)]
    assert [int(r["observation"][0]) for r in rows] == [0, 1, 0]
    assert [int(r["next_observation"][0]) for r in rows] == [1, 0, 1]
    assert [int(r["action"][0]) for r in rows] == [0, 2, 1]
    assert [int(a) for a in vector.envs[0].unwrapped.actions] == [-1, 1, 0]  # type: ignore[attr-defined]


@pytest.mark.parametrize("mode", MODES)
def test_images_stay_bytes(mode: AutoresetMode) -> None:
    envs = Envs(counting(mode, view="image"))
    assert envs.spec.observation == Box((1, 2, 3), torch.uint8)
    envs.reset()
    assert envs.observation.dtype == torch.uint8
    assert envs.observation.shape == (3, 1, 2, 3)
    transitions = envs.step(torch.zeros(3, dtype=torch.int64))
    assert transitions.observation.dtype == transitions.next_observation.dtype == torch.uint8
    assert (transitions.observation == 0).all()
    assert (transitions.next_observation == 1).all()


def test_box_actions_are_clipped_for_the_environment_and_stored_as_given() -> None:
    space = spaces.Box(np.array([-1.0, 0.0]), np.array([1.0, np.inf]), dtype=np.float64)
    vector = make_vector([partial(CountingEnv, action_space=space)], AutoresetMode.SAME_STEP)
    envs = Envs(vector)
    assert envs.spec.action == Box((2,), torch.float32, (-1.0, 0.0), (1.0, float("inf")))
    envs.reset()
    transitions = envs.step(torch.tensor([[-3.0, -2.0]]))
    assert transitions.action.tolist() == [[-3.0, -2.0]]
    envs.step(torch.tensor([[0.5, 7.0]]))
    received = vector.envs[0].unwrapped.actions  # type: ignore[attr-defined]
    assert [a.tolist() for a in received] == [[-1.0, 0.0], [0.5, 7.0]]
    assert received[0].dtype == np.float64


class OtherSpaces(CountingEnv):
    def __init__(self, observation: spaces.Space[Any] | None, action: spaces.Space[Any] | None) -> None:
        super().__init__()
        self.observation_space = observation or self.observation_space
        self.action_space = action or self.action_space


@pytest.mark.parametrize(
    ("observation", "action", "wrong"),
    [
        (spaces.MultiBinary(2), None, "observation space MultiBinary is not supported.*FlattenObservation"),
        (spaces.Dict(a=spaces.Discrete(2)), None, "observation space Dict"),
        (None, spaces.MultiDiscrete([2, 2]), "action space MultiDiscrete.* is not supported, wanted Discrete"),
        (None, spaces.Box(0, 3, (2,), np.int64), "floating-point Box"),
    ],
)
def test_spaces_that_are_not_supported(
    observation: spaces.Space[Any] | None, action: spaces.Space[Any] | None, wrong: str
) -> None:
    vector = make_vector([partial(OtherSpaces, observation, action)], AutoresetMode.SAME_STEP)
    with pytest.raises(ValueError, match=wrong):
        spec_of(vector)


@pytest.mark.filterwarnings("ignore:.*ERROR:UserWarning")
@pytest.mark.parametrize("fault", ["raise", "reward", "observation"])
@pytest.mark.parametrize(("mode", "processes"), VECTORS[:4])
def test_a_fault_says_which_environment_and_when(mode: AutoresetMode, processes: bool, fault: str) -> None:
    fine, broken = partial(CountingEnv, (9,)), partial(CountingEnv, (9,), fault=(fault, 2))  # type: ignore[arg-type]
    envs = Envs(make_vector([fine, broken, fine], mode, processes=processes))
    envs.reset()
    for _ in range(2):
        envs.step(torch.zeros(3, dtype=torch.int64))
    said = {
        "raise": "environment 1 raised RuntimeError at step 6: broken on purpose",
        "reward": "environment 1 returned a reward that is not finite at step 6: nan",
        "observation": r"environment 1 returned an observation that is not finite at step 6: \[ ?0. +nan\]",
    }[fault]
    with pytest.raises(EnvironmentFault, match=said):
        envs.step(torch.zeros(3, dtype=torch.int64))
    envs.close()


@pytest.mark.parametrize("mode", MODES[1:])
def test_a_last_observation_that_is_not_finite_is_found(mode: AutoresetMode) -> None:
    """The observation that the reset replaces is stored, so it has to be checked too."""
    envs = Envs(make_vector([partial(CountingEnv, (2,), fault=("observation", 1))], mode))
    envs.reset()
    envs.step(torch.zeros(1, dtype=torch.int64))
    with pytest.raises(EnvironmentFault, match="environment 0 returned an observation that is not finite"):
        envs.step(torch.zeros(1, dtype=torch.int64))


class BrokenReset(CountingEnv):
    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        raise KeyError("no reset")


def test_a_reset_that_raises_is_a_fault() -> None:
    envs = Envs(make_vector([CountingEnv, BrokenReset], AutoresetMode.SAME_STEP))
    with pytest.raises(EnvironmentFault, match="environment 1 raised KeyError at step 0"):
        envs.reset()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("steps", [0, 2, 3, 5])
def test_a_restored_state_goes_on_identically(mode: AutoresetMode, steps: int) -> None:
    envs = Envs(counting(mode))
    envs.reset(seed=3)
    list(play(envs, steps))
    state = envs.state_dict()
    assert state["env"] is not None
    other = Envs(counting(mode))
    other.reset(seed=8)
    list(play(other, 4))
    other.load_state_dict(state, seed=5)
    assert torch.equal(envs.observation, other.observation)
    for a, b in zip(play(envs, 9), play(other, 9), strict=True):
        assert all((a[name] == b[name]).all() for name in a)
        assert envs.finished == other.finished
        assert envs.steps == other.steps
        assert torch.equal(envs.observation, other.observation)


class Forgetful(CountingEnv, EzPickle):
    """Pickles its constructor's arguments only."""

    def __init__(self) -> None:
        CountingEnv.__init__(self)
        EzPickle.__init__(self)


class Unpicklable(CountingEnv):
    def __init__(self) -> None:
        super().__init__()
        self.stream = (i for i in range(3))


def test_what_cannot_be_captured_starts_anew() -> None:
    assert can_capture(counting(AutoresetMode.SAME_STEP))
    for cls in (Forgetful, Unpicklable):
        vector = make_vector([CountingEnv, cls], AutoresetMode.SAME_STEP)
        assert not can_capture(vector)
        assert not can_capture(gymnasium.wrappers.vector.RecordEpisodeStatistics(vector))
    envs = Envs(make_vector([Forgetful, Forgetful], AutoresetMode.SAME_STEP))
    envs.reset()
    list(play(envs, 2))
    state = envs.state_dict()
    assert state["env"] is None
    other = Envs(make_vector([Forgetful, Forgetful], AutoresetMode.SAME_STEP))
    other.load_state_dict(state, seed=1)
    assert other.steps == 4
    assert other.observation[:, 1].tolist() == [0.0, 0.0]
    list(play(other, 3))
    assert other.finished == [(0, 3.0, 3), (1, 3.0, 3)]


def test_processes_cannot_be_captured() -> None:
    vector = make_vector([CountingEnv], AutoresetMode.SAME_STEP, processes=True)
    assert not can_capture(vector)
    vector.close()


class OwnVector(VectorEnv):
    """A vectorised environment of its own kind, which resets by mask."""

    def __init__(self, num_envs: int, length: int = 2) -> None:
        self.num_envs, self.length = num_envs, length
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space = spaces.Box(0.0, np.inf, (1,), np.float32)
        self.single_action_space = spaces.Discrete(2)
        self.time = np.zeros((num_envs, 1), np.float32)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.time[options["reset_mask"] if options else slice(None)] = 0.0
        return self.time, {}  # not a copy: the caller has to make one

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.time += 1.0
        over = self.time[:, 0] == self.length
        return self.time, np.ones(self.num_envs), over & (actions == 1), over & (actions == 0), {}


def make_counting(**kwargs: Any) -> gymnasium.Env[Any, Any]:
    return CountingEnv(**kwargs)


@pytest.fixture
def registered() -> Iterator[None]:
    gymnasium.register("Counting-v0", entry_point=make_counting, vector_entry_point=OwnVector)  # type: ignore[arg-type]
    gymnasium.register("Plain-v0", entry_point=make_counting)
    yield
    for name in ("Counting-v0", "Plain-v0"):
        del gymnasium.registry[name]


@pytest.mark.usefixtures("registered")
def test_an_environments_own_vectorisation_is_used() -> None:
    vector = make_vec("Counting-v0", 3, env_kwargs={"length": 2})
    assert isinstance(vector.unwrapped, OwnVector)
    envs = Envs(vector)
    envs.reset()
    rows = [take(envs.step(torch.tensor([0, 1, 0]))) for _ in range(3)]
    assert [r["observation"][:, 0].tolist() for r in rows] == [[0.0] * 3, [1.0] * 3, [0.0] * 3]
    assert [r["next_observation"][:, 0].tolist() for r in rows] == [[1.0] * 3, [2.0] * 3, [1.0] * 3]
    assert rows[1]["terminated"].tolist() == [False, True, False]
    assert rows[1]["truncated"].tolist() == [True, False, True]


@pytest.mark.usefixtures("registered")
def test_make_vec() -> None:
    assert isinstance(make_vec("Counting-v0", 2, vectorization="sync").unwrapped, SyncVectorEnv)
    vector = make_vec("Plain-v0", 2)
    assert isinstance(vector.unwrapped, SyncVectorEnv)
    assert vector.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    processes = make_vec("Plain-v0", 2, vectorization="async", env_kwargs={"lengths": (5,)})
    assert isinstance(processes.unwrapped, AsyncVectorEnv)
    processes.close()


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("env", "num_envs", "kwargs", "wrong"),
    [
        ("Plain-v0", 0, {}, "num_envs must be >= 1, got 0"),
        ("NoSuch-v0", 1, {}, "environment 'NoSuch-v0' cannot be made"),
        ("no_such_module:Plain-v0", 1, {}, "cannot be made.*no_such_module"),
        ("Plain-v0", 1, {"nonsense": 1}, "cannot be made.*nonsense"),
    ],
)
def test_make_vec_refuses(env: str, num_envs: int, kwargs: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        make_vec(env, num_envs, env_kwargs=kwargs)
