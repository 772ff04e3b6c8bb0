"""Every configuration that ships loads, and those of CartPole reach what they promise."""

import re
from pathlib import Path

import pytest
import yaml

from agents.__main__ import main
from agents.parts.envs import Envs, make_vec
from agents.run.configuration import make_agent

# Those of studies are planned in tests/agents/study/test_running.py.
CONFIGS = sorted(
    path for path in (Path(__file__).parents[1] / "configs").rglob("*.yaml") if path.parent.name != "studies"
)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_configuration_builds_its_agent(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "--config", str(path), "--print_config"])
    assert ended.value.code == 0, capsys.readouterr().err
    config = yaml.safe_load(path.read_text())
    if config["env"].startswith("MinAtar/"):
        pytest.importorskip("minatar")
    agent = make_agent(config["agent"])
    envs = Envs(make_vec(config["env"], config["num_envs"]), squash=agent.squash)
    envs.reset(0)
    agent = agent.build(envs.spec)
    agent.observe(envs.step(agent.act(envs.observation)))
    assert agent.count_updates(config["steps"], config["num_envs"]) > 0
    envs.close()


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["dqn", "a2c"])
def test_cartpole_is_solved(agent: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = next(path for path in CONFIGS if path.parent.name == agent and path.name == "cartpole.yaml")
    assert main(["train", "--config", str(path), "--run_dir", str(tmp_path), "--progress", "false"]) == 0
    mean = float(re.findall(r"evaluation: return ([\d.]+)", capsys.readouterr().out)[0])
    assert mean >= 475
