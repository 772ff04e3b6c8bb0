"""Environments: no transition crosses an episode, whatever the autoreset mode and whoever wrote the environment."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from agents.parts.device_envs import DeviceVectorEnv
from agents.parts.envs import Envs, can_capture, make_vec, spec_of
from agents.parts.errors import EnvironmentFault
from agents.parts.spaces import Box, Discrete, MultiDiscrete
from agents.parts.transition import Transitions
from tests.agents.worlds import (
    FIRST_ACTION,
    MODES,
    Chain,
    Counting,
    CountingVector,
    Failing,
    Forever,
    Masked,
    Pictures,
    Step,
    Stubborn,
    Target,
    Wide,
    counting,
    episode,
    history,
    possible,
    sync,
)

KINDS = [(kind, mode) for mode in MODES for kind in ("sync", "custom")] + [("async", AutoresetMode.SAME_STEP)]


@pytest.fixture(params=KINDS, ids=[f"{kind}-{mode.name}" for kind, mode in KINDS])
def envs(request: pytest.FixtureRequest) -> Any:
    kind, mode = request.param
    made = Envs(counting(kind, 3, mode))
    yield made
    made.close()


def random_actions(generator: torch.Generator, num_envs: int = 3) -> torch.Tensor:
    return torch.randint(3, (num_envs,), generator=generator)


def valid_rows(transitions: Transitions) -> list[int]:
    mask = transitions.mask
    return list(range(len(transitions.packed))) if mask is None else torch.nonzero(mask).flatten().tolist()


def test_transitions_are_those_of_the_episodes(envs: Envs, generator: torch.Generator) -> None:
    """Every transition in order, none left out, none twice, each with its true successor, reward, end and action."""
    envs.reset(0)
    seen: list[list[Step]] = [[], [], []]
    for _ in range(60):
        acted_on = envs.observation.clone()
        action = random_actions(generator)
        transitions = envs.step(action)
        rows = valid_rows(transitions)
        assert transitions.count == len(rows)
        for i in rows:
            env, number, step, _ = transitions.observation[i].tolist()
            assert transitions.observation[i].tolist() == acted_on[i].tolist()
            assert transitions.action[i] == action[i]
            assert transitions.next_observation[i].tolist() == [env, number, step + 1, action[i] + FIRST_ACTION]
            seen[i].append(
                Step(
                    int(env),
                    int(number),
                    int(step),
                    float(transitions.reward[i]),
                    bool(transitions.terminated[i]),
                    bool(transitions.truncated[i]),
                )
            )
    for i in range(3):
        assert seen[i] == history(i, len(seen[i]))
    # 60 steps less one for each reset, in the mode that spends steps on them
    resets = [sum(s.terminated or s.truncated for s in steps) for steps in seen]
    spent = [len(steps) + (n if envs.spec.has_reset_steps else 0) for steps, n in zip(seen, resets, strict=True)]
    assert all(60 <= n <= 61 for n in spent)
    assert envs.steps == sum(len(steps) for steps in seen)


def test_observations_lie_row_by_row() -> None:
    """Gymnasium's CartPole begins with columns: another layout at the first step would take another graph."""
    envs = Envs(make_vec("CartPole-v1", 3))
    envs.reset(seed=0)
    assert envs.observation.is_contiguous()
    envs.step(torch.zeros(3, dtype=torch.int64))
    assert envs.observation.is_contiguous()
    envs.close()


def test_next_observation_to_act_on_begins_the_next_episode(envs: Envs, generator: torch.Generator) -> None:
    """After an end, what is acted on next as a step is the first observation of the next episode."""
    envs.reset(0)
    for _ in range(20):
        transitions = envs.step(random_actions(generator))
        for i in valid_rows(transitions):
            ended = bool(transitions.terminated[i] | transitions.truncated[i])
            if not ended:
                assert envs.observation[i].tolist() == transitions.next_observation[i].tolist()
            elif not envs.spec.has_reset_steps:
                number = float(transitions.observation[i, 1])
                assert envs.observation[i].tolist() == [i, number + 1, 0, -1]


def test_episode_statistics(envs: Envs, generator: torch.Generator) -> None:
    envs.reset(0)
    finished: list[list[tuple[float, int]]] = [[], [], []]
    for _ in range(40):
        envs.step(random_actions(generator))
        for index, episode_return, length in envs.finished:
            finished[index].append((episode_return, length))
    for i in range(3):
        expected = []
        for number in range(len(finished[i])):
            length = episode(i, number).length
            rewards = [1000.0 * i + 10.0 * number + step for step in range(1, length + 1)]
            expected.append((sum(rewards), length))
        assert len(expected) >= 8
        assert finished[i] == expected


@pytest.mark.parametrize("mode", MODES)
def test_a_reset_forgets_the_episode_before(mode: AutoresetMode, generator: torch.Generator) -> None:
    envs = Envs(counting("sync", 3, mode))
    envs.reset(0)
    while not envs.finished:
        envs.step(random_actions(generator))
    envs.step(random_actions(generator))
    envs.reset(0)
    envs.finished = []
    while not any(index == 1 for index, _, _ in envs.finished):
        envs.step(random_actions(generator))
    [(_, episode_return, length)] = [entry for entry in envs.finished if entry[0] == 1]
    assert length == episode(1, 0).length
    assert episode_return == sum(1000.0 + step for step in range(1, length + 1))


def test_transitions_stay_while_the_next_step_is_written(generator: torch.Generator) -> None:
    envs = Envs(counting("custom", 3, AutoresetMode.SAME_STEP))
    envs.reset(0)
    first = envs.step(random_actions(generator))
    acted_on, before = envs.observation, (first.packed.clone(), envs.observation.clone())
    second = envs.step(random_actions(generator))
    assert torch.equal(first.packed, before[0])
    assert torch.equal(acted_on, before[1])
    assert not torch.equal(first.packed, second.packed)


def test_mode_that_is_not_declared_is_gymnasium_1_0s() -> None:
    env = CountingVector(2, None)
    assert spec_of(env).has_reset_steps


def test_same_step_without_final_obs_is_a_fault(generator: torch.Generator) -> None:
    class Forgetful(CountingVector):
        def step(self, actions: np.ndarray) -> Any:
            return *super().step(actions)[:4], {}

    envs = Envs(Forgetful(3, AutoresetMode.SAME_STEP))
    envs.reset(0)
    with pytest.raises(EnvironmentFault, match="final_obs"):
        for _ in range(5):
            envs.step(random_actions(generator))


class TestSpaces:
    def test_discrete_is_numbered_from_zero(self) -> None:
        envs = Envs(sync(Chain, 2, AutoresetMode.SAME_STEP))
        assert envs.spec.observation == Discrete(5)
        envs.reset(0)
        assert envs.observation.dtype == torch.int64
        assert envs.observation.tolist() == [0, 0]
        transitions = envs.step(torch.tensor([1, 0]))
        assert transitions.next_observation.tolist() == [1, 0]
        for _ in range(4):
            transitions = envs.step(torch.tensor([1, 1]))
        assert transitions.observation.tolist() == [4, 3]
        assert transitions.terminated.tolist() == [True, False]
        assert envs.observation.tolist() == [0, 4]

    def test_final_observation_of_a_discrete_space(self) -> None:
        """Numbered from zero as well, where it comes from final_obs."""
        envs = Envs(SyncVectorEnv([lambda: Chain(limit=2)], autoreset_mode=AutoresetMode.SAME_STEP))
        envs.reset(0)
        envs.step(torch.tensor([1]))
        transitions = envs.step(torch.tensor([1]))
        assert transitions.truncated.tolist() == [True]
        assert transitions.next_observation.tolist() == [2]

    @pytest.mark.parametrize("mode", MODES)
    def test_images_stay_bytes(self, mode: AutoresetMode) -> None:
        envs = Envs(sync(Pictures, 2, mode))
        assert envs.spec.observation == Box((36, 40, 3), torch.uint8)
        envs.reset(0)
        for t in range(3):
            assert envs.observation.dtype == torch.uint8
            assert envs.observation.shape == (2, 36, 40, 3)
            transitions = envs.step(torch.zeros(2, dtype=torch.int64))
            assert bool((transitions.observation == t).all())
            assert bool((transitions.next_observation == t + 1).all())

    def test_numbers_become_float32(self) -> None:
        envs = Envs(counting("sync", 2, AutoresetMode.SAME_STEP))  # float64
        assert envs.spec.observation == Box((4,), torch.float32)
        assert spec_of(_env_of(spaces.Box(0, 9, (2,), np.int32))).observation == Box((2,), torch.float32)
        assert spec_of(_env_of(spaces.Box(0, 1, (2,), np.bool_))).observation == Box((2,), torch.bool)

    def test_box_actions_are_clipped_for_the_environment_and_stored_as_they_are(self) -> None:
        envs = Envs(sync(Target, 2, AutoresetMode.SAME_STEP))
        assert envs.spec.action == Box((2,), torch.float32, (-1.0, -1.0), (1.0, 1.0))
        envs.reset(0)
        action = torch.tensor([[0.5, -0.5], [7.0, -7.0]])
        transitions = envs.step(action)
        assert transitions.action.tolist() == action.tolist()
        assert transitions.reward.tolist() == [0.0, -0.5]  # -(1 - 0.5)^2 - (-1 + 0.5)^2

    def test_squashed_actions_reach_the_bounds_and_no_further(self) -> None:
        seen: list[list[float]] = []

        class Listening(Forever):
            action_space = spaces.Box(np.array([-1.0, 0.5], np.float32), np.array([3.0, 0.75], np.float32))  # type: ignore[assignment]

            def step(self, action: Any) -> Any:
                assert self.action_space.contains(action)
                seen.append(action.tolist())
                return super().step(action)

        envs = Envs(sync(Listening, 1, AutoresetMode.SAME_STEP), squash=True)
        assert envs.spec.action == Box((2,), torch.float32, (-1.0, 0.5), (3.0, 0.75), squashed=True)
        envs.reset(0)
        for u in ([0.0, 0.0], [50.0, -50.0], [0.5, -1.0]):
            assert envs.step(torch.tensor([u])).action.tolist() == [u], "stored as the agent gave it"
        middle, bounds, between = seen
        assert middle == [1.0, 0.625]
        assert bounds == [3.0, 0.5]
        assert between == pytest.approx([1.0 + 2.0 * np.tanh(0.5), 0.625 + 0.125 * np.tanh(-1.0)], rel=1e-6)

    @pytest.mark.parametrize(
        "space",
        [
            spaces.Discrete(2),
            spaces.Box(-np.inf, 1.0, (2,)),
            spaces.Box(np.array([0, -np.inf]), np.ones(2), dtype=np.float64),
        ],
    )
    def test_what_cannot_be_squashed(self, space: spaces.Space[Any]) -> None:
        with pytest.raises(ValueError, match="squashed to a Box with finite bounds alone, got"):
            spec_of(_env_of(spaces.Discrete(2), space), squash=True)

    @pytest.mark.parametrize(
        ("space", "action", "received"),
        [
            (spaces.MultiDiscrete([3, 4], start=[5, -2]), [[0, 3], [2, 0]], [[5, 1], [7, -2]]),
            (
                spaces.MultiDiscrete(np.array([[2, 3], [4, 5]])),
                [[0, 1, 2, 3], [1, 2, 3, 4]],
                [[[0, 1], [2, 3]], [[1, 2], [3, 4]]],
            ),
            (spaces.MultiBinary(2), [[0, 1], [1, 0]], [[0, 1], [1, 0]]),
            (spaces.MultiBinary([2, 1]), [[0, 1], [1, 0]], [[[0], [1]], [[1], [0]]]),
        ],
        ids=str,
    )
    def test_several_discrete_actions_are_numbered_from_zero(
        self, space: spaces.Space[Any], action: list[list[int]], received: list[Any]
    ) -> None:
        seen: list[Any] = []

        class Listening(Forever):
            action_space = space  # type: ignore[assignment]

            def step(self, action: Any) -> Any:
                assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
                seen.append(action.tolist())
                return super().step(action)

        envs = Envs(sync(Listening, 2, AutoresetMode.SAME_STEP))
        nvec = np.broadcast_to(getattr(space, "nvec", 2), space.shape or ()).flatten()
        assert envs.spec.action == MultiDiscrete(tuple(nvec.tolist()))
        envs.reset(0)
        transitions = envs.step(torch.tensor(action))
        assert seen == received
        assert transitions.action.tolist() == action
        assert transitions.action.dtype == torch.int64

    @pytest.mark.parametrize(
        "space",
        [spaces.Dict({"a": spaces.Discrete(2)}), spaces.MultiBinary(3), spaces.Tuple([spaces.Discrete(2)])],
        ids=lambda space: type(space).__name__,
    )
    def test_observation_spaces_that_are_not_supported(self, space: spaces.Space[Any]) -> None:
        with pytest.raises(ValueError, match=f"observation space {type(space).__name__} is not supported"):
            spec_of(_env_of(space))

    @pytest.mark.parametrize(
        "space",
        [spaces.Box(0, 9, (2,), np.int32), spaces.Tuple([spaces.Discrete(2)])],
        ids=lambda space: type(space).__name__,
    )
    def test_action_spaces_that_are_not_supported(self, space: spaces.Space[Any]) -> None:
        with pytest.raises(ValueError, match=r"action space .* is not supported"):
            spec_of(_env_of(spaces.Discrete(2), space))


def _env_of(observation: spaces.Space[Any], action: spaces.Space[Any] | None = None) -> VectorEnv:
    env: VectorEnv = VectorEnv()
    env.num_envs = 1
    env.metadata = {}
    env.single_observation_space = observation
    env.single_action_space = spaces.Discrete(2) if action is None else action
    return env


def mask_after(observation: torch.Tensor) -> list[bool]:
    env, number, step, _ = (int(x) for x in observation.tolist())
    return possible(env, number, step)


class TestActionMasks:
    @pytest.fixture(params=[(kind, mode) for kind in ("sync", "async") for mode in MODES], ids=str)
    def masked(self, request: pytest.FixtureRequest) -> Any:
        kind, mode = request.param
        cls = SyncVectorEnv if kind == "sync" else AsyncVectorEnv
        made = Envs(cls([Masked] * 3, autoreset_mode=mode))
        yield made
        made.close()

    def test_masks_are_those_of_their_observations(self, masked: Envs, generator: torch.Generator) -> None:
        assert not masked.spec.has_action_mask
        masked.reset(0)
        assert masked.spec.has_action_mask and masked.layout.has_action_mask
        ends = 0
        for _ in range(40):
            mask = masked.action_mask
            assert mask is not None and mask.dtype == torch.bool and mask.any(1).all()
            before = mask.clone()
            transitions = masked.step(torch.multinomial(mask.float(), 1, generator=generator).squeeze(1))
            assert transitions.action_mask is not None and transitions.next_action_mask is not None
            assert torch.equal(transitions.action_mask, before)
            for i in valid_rows(transitions):
                assert transitions.action_mask[i].tolist() == mask_after(transitions.observation[i])
                assert transitions.next_action_mask[i].tolist() == mask_after(transitions.next_observation[i])
                ends += bool(transitions.terminated[i] | transitions.truncated[i])
        assert ends > 20

    def test_a_restored_mask_is_the_one_to_act_with(self) -> None:
        for mode in MODES:
            envs, copied = (Envs(sync(Masked, 3, mode)) for _ in range(2))
            envs.reset(0)
            for _ in range(9):
                assert envs.action_mask is not None
                envs.step(envs.action_mask.int().argmax(1))
                copied.load_state_dict(copy.deepcopy(envs.state_dict()), seed=9)
                assert copied.spec == envs.spec
                assert copied.action_mask is not None and torch.equal(copied.action_mask, envs.action_mask)
                one = envs.action_mask.int().argmax(1)
                original = Envs(sync(Masked, 3, mode))
                original.load_state_dict(copy.deepcopy(envs.state_dict()), seed=9)
                assert torch.equal(original.step(one).packed, copied.step(one).packed)

    def test_masks_of_gymnasium_s_taxi(self) -> None:
        newest = max(name for name in gymnasium.registry if name.startswith("Taxi-v"))
        envs = Envs(make_vec(newest, 4))
        envs.reset(0)
        assert envs.action_mask is not None and not envs.action_mask.all()
        assert envs.action_mask.shape == (4, 6)

    def test_who_says_nothing_has_all(self) -> None:
        """One environment of two, and one step of two."""

        class Moody(Forever):
            def step(self, action: np.int64) -> Any:
                *rest, info = super().step(action)
                return *rest, {"action_mask": [False, True]} if self.count == 2 and self.limit == 9 else info

        class First(Moody):
            def reset(self, **options: Any) -> Any:
                return super().reset(**options)[0], {"action_mask": np.array([1, 0])}

        envs = Envs(SyncVectorEnv([First, lambda: Moody(9)], autoreset_mode=AutoresetMode.SAME_STEP))
        envs.reset(0)
        masks = [envs.action_mask]
        for _ in range(2):
            envs.step(torch.zeros(2, dtype=torch.int64))
            masks.append(envs.action_mask)
        assert [None if mask is None else mask.tolist() for mask in masks] == [
            [[True, False], [True, True]],
            [[True, True], [True, True]],
            [[True, True], [False, True]],
        ]

    def test_masks_of_other_spaces_are_none_of_ours(self) -> None:
        class Continuous(Target):
            def reset(self, **options: Any) -> Any:
                return super().reset(**options)[0], {"action_mask": np.ones(2, np.int8)}

        envs = Envs(sync(Continuous, 2, AutoresetMode.SAME_STEP))
        envs.reset(0)
        assert envs.action_mask is None and not envs.spec.has_action_mask

    @pytest.mark.parametrize(
        ("mask", "text"),
        [
            (np.zeros(2, np.int8), "environment 0: no action is possible at step 0"),
            (np.ones(3, np.int8), "an environment's action mask does not fit its 2 actions at step 0"),
        ],
    )
    @pytest.mark.parametrize("at_reset", [True, False])
    def test_masks_that_are_faults(self, mask: np.ndarray, text: str, at_reset: bool) -> None:
        class Wrong(Forever):
            def reset(self, **options: Any) -> Any:
                return super().reset(**options)[0], {"action_mask": mask if at_reset else np.ones(2, np.int8)}

            def step(self, action: np.int64) -> Any:
                return *super().step(action)[:4], {"action_mask": mask}

        envs = Envs(sync(Wrong, 2, AutoresetMode.SAME_STEP))
        with pytest.raises(EnvironmentFault, match=text):
            envs.reset(0)
            envs.step(torch.zeros(2, dtype=torch.int64))


class TestMakeVec:
    def test_auto_takes_the_vector_entry_point(self) -> None:
        assert not isinstance(make_vec("CartPole-v1", 2).unwrapped, SyncVectorEnv)

    def test_auto_steps_one_after_the_other_where_there_is_none(self) -> None:
        env = make_vec("Acrobot-v1", 2)
        assert isinstance(env.unwrapped, SyncVectorEnv)
        assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
        assert env.num_envs == 2

    def test_auto_steps_a_single_one_of_gymnasium_s_alone(self) -> None:
        single = make_vec("CartPole-v1", 1)
        assert isinstance(single, SyncVectorEnv)
        assert single.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
        assert can_capture(single)
        # Whose arguments the single one may not take, and one that is not Gymnasium's own.
        assert not isinstance(make_vec("CartPole-v1", 1, env_kwargs={"max_episode_steps": 9}), SyncVectorEnv)
        assert isinstance(make_vec("rlloss/CartPole-v1", 1), DeviceVectorEnv)

    def test_sync(self) -> None:
        env = make_vec("CartPole-v1", 2, vectorization="sync")
        assert isinstance(env.unwrapped, SyncVectorEnv)
        assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP

    def test_async(self) -> None:
        env = make_vec("CartPole-v1", 2, vectorization="async")
        try:
            assert isinstance(env.unwrapped, AsyncVectorEnv)
            assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
        finally:
            env.close()

    @pytest.mark.parametrize("vectorization", ["auto", "sync"])
    def test_arguments_reach_the_environment(self, vectorization: Any) -> None:
        env = make_vec("tests.agents.worlds:Forever-v0", 2, vectorization=vectorization, env_kwargs={"limit": 1})
        env.reset()
        assert env.step(np.zeros(2, np.int64))[3].tolist() == [True, True]

    @pytest.mark.parametrize(
        ("env", "kwargs", "text"),
        [
            ("Nowhere-v1", {}, "Nowhere"),
            ("no_such_module:Thing-v0", {}, "no_such_module"),
            ("not an id", {}, "not an id"),
            ("", {}, "cannot be made"),
            (":", {}, "cannot be made"),
            (".:Thing-v0", {}, "cannot be made"),
            ("CartPole-v99", {}, "v99"),
            ("Acrobot-v1", {"gravity_of_the_moon": 1}, "gravity_of_the_moon"),
        ],
    )
    def test_what_cannot_be_made(self, env: str, kwargs: dict[str, Any], text: str) -> None:
        with pytest.raises(ValueError, match=text):
            make_vec(env, 2, env_kwargs=kwargs)

    def test_a_constructor_that_raises(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(self: Forever, limit: int) -> None:
            raise AssertionError("limit must be odd")

        monkeypatch.setattr(Forever, "__init__", refuse)
        with pytest.raises(ValueError, match="limit must be odd"):
            make_vec("tests.agents.worlds:Forever-v0", 2, env_kwargs={"limit": 2})

    def test_at_least_one(self) -> None:
        with pytest.raises(ValueError, match="num_envs must be >= 1, got 0"):
            make_vec("CartPole-v1", 0)


class TestFaults:
    @pytest.mark.parametrize(
        ("how", "text"),
        [
            ("raise", "environment 1 raised RuntimeError at step 18: the robot fell over"),
            ("reward", "environment 1: reward is not finite at step 18: nan"),
            ("observation", "environment 1: observation is not finite at step 18: [nan]"),
        ],
    )
    @pytest.mark.parametrize("vectorization", ["sync", "async"])
    def test_says_where(self, how: str, text: str, vectorization: Any, capfd: pytest.CaptureFixture[str]) -> None:
        env_kwargs = {"how": how, "at": 10}
        env = make_vec("tests.agents.worlds:Failing-v0", 2, vectorization=vectorization, env_kwargs=env_kwargs)
        envs = Envs(env)
        try:
            envs.reset(0)
            with pytest.raises(EnvironmentFault) as fault:
                for _ in range(20):
                    envs.step(torch.zeros(2, dtype=torch.int64))
            assert str(fault.value).startswith(text)
        finally:
            envs.close()
        assert capfd.readouterr().err == ""

    @pytest.mark.parametrize("mode", MODES)
    def test_in_a_reset(self, mode: AutoresetMode) -> None:
        envs = Envs(sync(lambda: Failing("reset", at=10, limit=10), 2, mode))
        envs.reset(0)
        with pytest.raises(EnvironmentFault, match=r"environment 0 raised RuntimeError at step .*cannot begin again"):
            for _ in range(12):
                envs.step(torch.zeros(2, dtype=torch.int64))

    def test_final_observation_that_is_not_finite(self) -> None:
        envs = Envs(
            SyncVectorEnv(
                [lambda: Failing("observation", at=3, limit=3, which=0)], autoreset_mode=AutoresetMode.SAME_STEP
            )
        )
        envs.reset(0)
        with pytest.raises(EnvironmentFault, match="environment 0: observation is not finite"):
            for _ in range(3):
                envs.step(torch.zeros(1, dtype=torch.int64))

    def test_who_steps_on_after_a_fault_gets_whole_transitions(self, monkeypatch: pytest.MonkeyPatch) -> None:
        envs = Envs(counting("custom", 2, AutoresetMode.SAME_STEP))
        envs.reset(0)
        envs.step(torch.zeros(2).long())
        before = envs.observation.clone()
        broken: tuple[Any, ...] = np.ones((2, 4)), np.full(2, np.nan), np.zeros(2, np.bool_), np.zeros(2, np.bool_), {}
        with monkeypatch.context() as patch, pytest.raises(EnvironmentFault, match="reward"):
            patch.setattr(envs.env, "step", lambda actions: broken)
            envs.step(torch.zeros(2).long())
        assert torch.equal(envs.observation, before)
        assert torch.equal(envs.step(torch.zeros(2).long()).observation, before)

    @pytest.mark.parametrize("rows", [1, 3, 5])
    def test_another_number_of_observations_than_of_environments(
        self, rows: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        envs = Envs(counting("custom", 4, AutoresetMode.SAME_STEP))
        envs.reset(0)
        result = np.zeros((rows, 4)), np.zeros(4), *np.zeros((2, 4), bool), {}
        monkeypatch.setattr(envs.env, "step", lambda actions: result)
        with pytest.raises(EnvironmentFault, match=f"4 environments returned {rows} observations at step 0"):
            envs.step(torch.zeros(4).long())
        monkeypatch.setattr(envs.env, "reset", lambda **options: (np.zeros((rows, 4)), {}))
        with pytest.raises(EnvironmentFault, match=f"4 environments returned {rows} observations at step 0"):
            envs.reset(0)

    def test_numbers_whose_sum_overflows_are_finite(self) -> None:
        class Huge(Forever):
            observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)

            def reset(self, **options: Any) -> Any:
                super().reset(**options)
                return np.full(2, 3e38, np.float32), {}

            def step(self, action: np.int64) -> Any:
                return np.full(2, 3e38, np.float32), *super().step(action)[1:]

        envs = Envs(sync(Huge, 2, AutoresetMode.SAME_STEP))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            envs.reset(0)
            envs.step(torch.zeros(2, dtype=torch.int64))

    @pytest.mark.parametrize(
        ("observation", "reward", "text"),
        [
            (np.zeros(1, np.float32), 1e300, "environment 0: reward is not finite at step 0: 1e+300"),
            (np.zeros(3, np.float32), 0.0, "environment 0 raised ValueError at step 0"),
        ],
    )
    def test_what_does_not_fit_is_the_environment_s_fault(
        self, observation: np.ndarray, reward: float, text: str
    ) -> None:
        class Misfit(Forever):
            def step(self, action: np.int64) -> Any:
                return observation, reward, *super().step(action)[2:]

        envs = Envs(sync(Misfit, 1, AutoresetMode.SAME_STEP))
        envs.reset(0)
        with pytest.raises(EnvironmentFault, match=text.replace("+", r"\+")):
            envs.step(torch.zeros(1, dtype=torch.int64))

    def test_the_step_of_a_reset_may_have_any_reward(self, generator: torch.Generator) -> None:
        """CountingVector returns NaN there; the returns do not take it up."""
        envs = Envs(CountingVector(3, AutoresetMode.NEXT_STEP))
        envs.reset(0)
        for _ in range(20):
            envs.step(random_actions(generator))
            assert all(np.isfinite(episode_return) for _, episode_return, _ in envs.finished)

    def test_message_is_one_line(self) -> None:
        envs = Envs(sync(Wide, 2, AutoresetMode.SAME_STEP))
        envs.reset(0)
        with pytest.raises(EnvironmentFault) as fault:
            for _ in range(2):
                envs.step(torch.zeros(2, dtype=torch.int64))
        assert "\n" not in str(fault.value)


class TestState:
    @pytest.mark.parametrize(
        ("kind", "mode"), [(kind, mode) for mode in MODES for kind in ("sync", "custom")], ids=lambda value: str(value)
    )
    def test_goes_on_as_if_nothing_had_happened(self, kind: str, mode: AutoresetMode) -> None:
        envs, copied = Envs(counting(kind, 3, mode)), Envs(counting(kind, 3, mode))
        envs.reset(0)
        for steps in range(1, 12):  # so that some states are those right after an end
            envs.step(torch.full((3,), steps % 3))
            copied.load_state_dict(copy.deepcopy(envs.state_dict()), seed=999)
            assert torch.equal(envs.observation, copied.observation)
            original = Envs(counting(kind, 3, mode))
            original.load_state_dict(copy.deepcopy(envs.state_dict()), seed=999)
            for _ in range(6):
                one, other = original.step(torch.zeros(3).long()), copied.step(torch.zeros(3).long())
                assert torch.equal(one.packed, other.packed)
                assert (one.count, original.finished, original.steps) == (other.count, copied.finished, copied.steps)

    def test_the_environments_own_randomness(self) -> None:
        envs, copied = Envs(make_vec("Acrobot-v1", 2)), Envs(make_vec("Acrobot-v1", 2))
        envs.reset(3)
        envs.step(torch.zeros(2).long())
        copied.load_state_dict(envs.state_dict(), seed=0)
        # to the start of the next episodes, which are drawn
        for env in (envs, copied):
            env.env.reset()
        assert torch.equal(
            envs.step(torch.ones(2).long()).next_observation, copied.step(torch.ones(2).long()).next_observation
        )

    def test_the_state_is_a_copy(self, generator: torch.Generator) -> None:
        envs = Envs(counting("sync", 3, AutoresetMode.SAME_STEP))
        envs.reset(0)
        envs.step(random_actions(generator))
        state = envs.state_dict()
        before = copy.deepcopy(state)
        for _ in range(7):
            envs.step(random_actions(generator))
        assert state["steps"] == before["steps"]
        for key in ("env", "current", "returns", "lengths"):
            assert torch.equal(state[key], before[key]), key

    def test_what_can_be_captured(self) -> None:
        assert can_capture(make_vec("CartPole-v1", 2))
        assert can_capture(make_vec("Acrobot-v1", 2))
        assert not can_capture(sync(Stubborn, 2, AutoresetMode.SAME_STEP))
        assert not can_capture(make_vec("tests.agents.worlds:Stubborn-v0", 2))

    def test_a_state_of_another_mode_does_not_fit(self) -> None:
        envs, other = (Envs(counting("custom", 3, mode)) for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP))
        envs.reset(0)
        with pytest.raises(ValueError, match="begin new episodes otherwise"):
            other.load_state_dict(envs.state_dict(), seed=0)

    def test_other_processes_cannot(self) -> None:
        env = make_vec("Acrobot-v1", 1, vectorization="async")
        try:
            assert not can_capture(env)
        finally:
            env.close()

    def test_what_does_not_pickle_cannot(self) -> None:
        class Handle(Forever):
            def __init__(self) -> None:
                super().__init__()
                self.handle = (n for n in range(3))  # generators do not pickle

        assert not can_capture(sync(Handle, 1, AutoresetMode.SAME_STEP))

    def test_begins_anew_with_the_seed_where_nothing_was_captured(self) -> None:
        envs = Envs(sync(Stubborn, 2, AutoresetMode.SAME_STEP))
        envs.reset(0)
        for _ in range(3):
            envs.step(torch.zeros(2).long())
        state = envs.state_dict()
        assert state["env"] is None
        seeds: list[int | None] = []

        class Listening(Forever):
            def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
                seeds.append(seed)
                return super().reset(seed=seed, options=options)

        resumed = Envs(sync(Listening, 2, AutoresetMode.SAME_STEP))
        resumed.load_state_dict(state, seed=7)
        assert seeds == [7, 8]
        assert resumed.steps == 6
        for _ in range(4):
            resumed.step(torch.zeros(2).long())
        assert resumed.finished == [(0, 4.0, 4), (1, 4.0, 4)]


def test_counting_environment_counts() -> None:
    """The proof's own proof: it refuses what its checks would miss."""
    env = Counting()
    env.reset(seed=0)
    with pytest.raises(AssertionError, match="is not in"):
        env.step(np.int64(0))
    for _ in range(episode(0, 0).length):
        env.step(np.int64(FIRST_ACTION))
    with pytest.raises(AssertionError, match="after the end"):
        env.step(np.int64(FIRST_ACTION))
    assert {(e.terminated, e.truncated) for n in range(3) for e in [episode(0, n)]} == {
        (True, False),
        (False, True),
        (True, True),
    }
    assert isinstance(env, gymnasium.Env)
