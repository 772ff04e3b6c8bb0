"""Objects to configuration and back, and errors that say one thing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser

from agents import A2C, DQN, Agent
from agents.run.configuration import describe, dump_config, load_config, make_agent, one_line
from rlloss import (
    ClippedSurrogateLoss,
    CrossEntropyLoss,
    FocalLoss,
    HuberLoss,
    LogCoshLoss,
    PolicyGradientLoss,
    QuantileLoss,
    RegretPolicyGradientLoss,
    TDLoss,
)
from rlloss.supervised.classification import ClassificationLoss, PolyLoss
from rlloss.supervised.regression import MSELoss, RegressionLoss

AGENTS = [
    DQN(),
    DQN(
        loss=TDLoss(HuberLoss(delta=0.5, reduction="sum"), double=True),
        discount=0.9,
        n_step=3,
        dueling=True,
        hidden_sizes=[],
        activation="tanh",
        optimizer="SGD",
        learning_rate=1e-5,
        optimizer_args={"momentum": 0.9, "nesterov": True},
        max_grad_norm=None,
        replay_ratio=0.125,
    ),
    DQN(loss=TDLoss(QuantileLoss(quantile=0.25))),
    A2C(),
    A2C(
        policy_loss=ClippedSurrogateLoss(clip=0.1),
        critic_loss=LogCoshLoss(),
        normalize_advantages=True,
        hidden_sizes=[8, 4],
        orthogonal_init=False,
        optimizer="Adam",
        optimizer_args={"betas": [0.8, 0.99], "eps": 1e-5},
    ),
    A2C(policy_loss=PolicyGradientLoss()),
    A2C(policy_loss=RegretPolicyGradientLoss()),
]


@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: type(agent).__name__)
def test_agent_round_trip_through_yaml(agent: Agent) -> None:
    described = describe(agent)
    text = dump_config({"agent": described})
    assert "!!" not in text, "plain data only"
    again = make_agent(yaml.safe_load(text)["agent"])
    assert type(again) is type(agent)
    assert describe(again) == described
    for name in described["init_args"]:
        one, other = getattr(agent, name), getattr(again, name)
        assert type(one) is type(other), name
        if not isinstance(one, torch.nn.Module):
            assert one == other, name


def test_every_argument_is_described() -> None:
    described = describe(AGENTS[1])
    assert described["class_path"] == "agents.dqn.DQN"
    arguments = described["init_args"]
    assert arguments["optimizer_args"] == {"momentum": 0.9, "nesterov": True}
    assert arguments["max_grad_norm"] is None
    loss = arguments["loss"]["init_args"]
    assert loss["double"] is True
    criterion = loss["criterion"]
    assert criterion["class_path"].endswith(".HuberLoss")
    assert criterion["init_args"]["delta"] == 0.5 and criterion["init_args"]["reduction"] == "sum"


@pytest.mark.parametrize(
    ("loss", "base", "name", "plain"),
    [
        (CrossEntropyLoss(class_weight=torch.tensor([1.0, 2.0])), ClassificationLoss, "class_weight", [1.0, 2.0]),
        (CrossEntropyLoss(class_weight=[0.5, 2.0]), ClassificationLoss, "class_weight", [0.5, 2.0]),
        (FocalLoss(gamma=1.5, alpha=[0.25, 0.75]), ClassificationLoss, "alpha", [0.25, 0.75]),
        (PolyLoss(epsilon=(1.0, 0.5)), ClassificationLoss, "epsilon", [1.0, 0.5]),
        (HuberLoss(delta=2.0), RegressionLoss, "delta", 2.0),
    ],
)
def test_loss_with_tensors_and_sequences_round_trip(loss: Any, base: type, name: str, plain: object) -> None:
    described = describe(loss)
    assert described["init_args"][name] == plain
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--loss", type=base)
    parsed = parser.parse_object({"loss": yaml.safe_load(dump_config(described))})
    again = parser.instantiate(parsed).loss  # type: ignore[attr-defined,unused-ignore]
    assert describe(again) == described
    assert type(again) is type(loss)


class HidingLoss(MSELoss):
    """Takes an argument and does not store it."""

    def __init__(self, sharpness: float = 1.0) -> None:
        super().__init__()
        self._sharpness = sharpness


def test_hidden_argument_is_an_error(tmp_path: Path) -> None:
    message = "HidingLoss: the constructor's argument 'sharpness' is not stored"
    with pytest.raises(ValueError, match=message):
        describe(DQN(loss=TDLoss(HidingLoss())))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"class_path": "agents.DQN", "init_args": {"discont": 0.9}}, "discont"),
        ({"class_path": "agents.DQN", "init_args": {"discount": "high"}}, "high"),
        ({"class_path": "agents.DQM"}, "DQM"),
        ({"class_path": "rlloss.HuberLoss"}, "HuberLoss"),
        ({"class_path": "agents.DQN", "init_args": {"discount": 2.0}}, "discount must be"),
        ({"class_path": "os.system", "init_args": {"command": "true"}}, "system"),
    ],
)
def test_make_agent_refuses(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make_agent(config)
    assert "\n" not in str(error.value)


def _error(arguments: list[str]) -> Exception:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--agent", type=Agent)
    parser.add_argument("--steps", type=int)
    with pytest.raises((ArgumentError, ValueError)) as error:
        parser.instantiate(parser.parse_args(arguments))  # type: ignore[attr-defined,unused-ignore]
    return error.value


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("--agent DQN --agent.loss TDLoss --agent.loss.criterion NoLoss", ["agent.loss.criterion", "NoLoss"]),
        ("--agent DQN --agent.discount abc", ["agent.discount", "abc", "of type float"]),
        ("--agent DQN --agent.activation gelu", ["agent.activation", "must be one of", "relu", "gelu"]),
        ("--agent DQN --agent.n_step 1.5", ["agent.n_step", "1.5"]),
        ("--agent DQM", ["agent", "DQM"]),
        ("--agent DQN --agent.discont 1", ["discont"]),
        ("--agent DQN --agent.hidden_sizes [a]", ["agent.hidden_sizes"]),
        ("--steps many", ["steps", "many"]),
        ("--stepz 3", ["stepz"]),
        ("--agent A2C --agent.critic_loss PolicyGradientLoss", ["agent.critic_loss", "PolicyGradientLoss"]),
        ("--agent DQN --agent.discount 2", ["discount must be", "2"]),
        (
            "--agent DQN --agent.loss SarsaLoss --agent.loss.double true",
            ["agent.loss: SarsaLoss", "no argument 'double'"],
        ),
        (
            "--agent DQN --agent.loss TDLoss --agent.loss.criterion HuberLoss --agent.loss.criterion.delt 2",
            ["agent.loss.criterion: HuberLoss has no argument 'delt'"],
        ),
        ("--agent DQN --agent.loss.double true", ["name its class before its arguments"]),
        ("--agent DQN --agent.learning_rate_steps 5", ["learning_rate_steps needs learning_rate_end"]),
    ],
)
def test_one_line_of_real_errors(arguments: str, parts: list[str]) -> None:
    line = one_line(_error(arguments.split()))
    assert "\n" not in line
    assert len(line) < 400, line
    for part in parts:
        assert part in line, line


OTHERS = "env: CartPole-v1\nenv_kwargs: {}\nnum_envs: 1\nvectorization: auto\nsteps: 1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is not a run directory"),
        ("agent: [", "is not valid YAML"),
        ("- 1\n", "it must name agent, env, env_kwargs, num_envs, steps, vectorization"),
        ("env: CartPole-v1\n", "it must name agent, env, env_kwargs, num_envs, steps, vectorization"),
        ("", "it must name agent, env, env_kwargs, num_envs, steps, vectorization"),
        (f"{OTHERS}\nagent: null\n", "agent is of another type than a run's: None"),
        (f"{OTHERS}\nagent: {{}}\nnum_envs: '3'\n", "num_envs is of another type than a run's: '3'"),
        ("agent: !!python/object/apply:os.system [true]\n", "is not valid YAML"),
        (b"\xff\xfe\x00", "is not valid YAML"),
    ],
)
def test_load_config_refuses(text: str | bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        load_config(path)
