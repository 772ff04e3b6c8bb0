"""The command line as a user meets it: overrides arrive, mistakes end in one clear line and leave nothing behind."""

import json
from pathlib import Path

import pytest
import yaml

from agents.__main__ import main

CONFIG = str(Path(__file__).parents[2] / "configs/dqn/cartpole.yaml")
TINY = ["--steps", "1100", "--eval_episodes", "2", "--progress", "false", "--tensorboard", "false"]


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_overrides_reach_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "--config", CONFIG, "--agent.loss.criterion", "HuberLoss", "--agent.loss.criterion.delta", "2"]
    assert main([*command, "--agent.n_step", "3", "--seed", "3", *TINY]) == 0
    run = Path("runs/CartPole-v1/dqn/run-s3")
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"run: {run}"
    config = yaml.safe_load((run / "config.yaml").read_text())
    criterion = config["agent"]["init_args"]["loss"]["init_args"]["criterion"]
    assert criterion["class_path"].endswith("HuberLoss") and criterion["init_args"]["delta"] == 2.0
    assert config["agent"]["init_args"]["n_step"] == 3
    assert (run / "model.safetensors").exists() and (run / "checkpoint.pt").exists()

    assert main(["evaluate", str(run), "--episodes", "3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["episodes"] == 3 and len(result["returns"]) == 3
    assert main(["resume", str(run), "--steps", "1300", "--progress", "false"]) == 0
    steps = [line.split(",")[0] for line in (run / "metrics.csv").read_text().splitlines()[1:]]
    assert steps == ["1000"] or int(steps[-1]) >= 1000
    assert yaml.safe_load((run / "config.yaml").read_text())["steps"] == 1300


MISTAKES = {
    "unknown loss": (["--agent.loss.criterion", "NoLoss"], "agent.loss.criterion"),
    "loss of another kind": (["--agent.loss.criterion", "CrossEntropyLoss"], "agent.loss.criterion"),
    "type of a loss's argument": (["--agent.loss.criterion.delta", "abc"], "agent.loss.criterion.delta"),
    "range of a loss's argument": (["--agent.loss.criterion.delta", "0"], "delta"),
    "range of an agent's argument": (["--agent.learning_rate", "-1"], "learning_rate"),
    "unknown argument": (["--agent.learning_rat", "1"], "learning_rat"),
    "optimiser": (["--agent.optimizer", "Adamm"], "optimizer"),
    "optimiser's argument": (["--agent.optimizer_args.foo", "1"], "foo"),
    "optimiser's argument of a wrong length": (["--agent.optimizer_args.betas", "[0.9]"], "optimizer"),
    "unreduced loss": (["--agent.loss.criterion.reduction", "none"], "reduction"),
    "argument of a loss that has no name": (["--agent", "A2C", "--agent.policy_loss.criterion.gamma", "2"], "before"),
    "type of a policy loss's argument": (
        ["--agent", "A2C", "--agent.policy_loss", "ClippedSurrogateLoss", "--agent.policy_loss.clip", "abc"],
        "agent.policy_loss.clip: must be of type float, got abc",
    ),
    "environment": (["--env", "Nope-v0"], "Nope"),
    "environment's module": (["--env", "no_module:Nope-v0"], "no_module"),
    "environment's argument": (["--env_kwargs.foo", "1"], "foo"),
    "action space": (["--env", "Pendulum-v1"], "Discrete"),
    "agent": (["--agent", "NoAgent"], "agent"),
    "kind of argument": (["--env_kwargs", "{foo:1}"], "got {foo:1}"),
    "steps": (["--steps", "0"], "steps"),
    "number of environments": (["--num_envs", "0"], "num_envs"),
    "no environment": (["--agent", "A2C", "--num_envs", "0"], "num_envs"),
    "threads": (["--threads", "many"], "threads: must be of type int or one of ['auto'], got many"),
    "seed": (["--seed", "-1"], "seed"),
    "device": (["--device", "tpu"], "device"),
    "name": (["--name", "a/b"], "name"),
    "configuration": (["--config", "nope.yaml"], "nope.yaml"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_in_one_line(mistake: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, named = MISTAKES[mistake]
    assert main(["train", "--config", CONFIG, *arguments]) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and named in lines[0]
    assert captured.out == ""
    assert not Path("runs").exists()


@pytest.mark.parametrize("command", [["evaluate"], ["resume"]])
def test_not_a_run_directory(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "nowhere"]) == 2
    assert capsys.readouterr().err == "error: nowhere is not a run directory: it has no config.yaml\n"


def test_what_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train"]) == 2
    assert capsys.readouterr().err == "error: train needs agent and env; see python -m agents train --help\n"


def test_printed_configuration_is_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "--config", CONFIG, "--agent.loss.criterion", "LogCoshLoss", "--print_config"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "LogCoshLoss" in printed
    Path("printed.yaml").write_text(printed)
    assert main(["train", "--config", "printed.yaml", *TINY]) == 0


def test_help_describes_every_argument(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name in ("env", "env_kwargs", "num_envs", "steps", "seed", "device", "eval_every", "eval_episodes",
                 "checkpoint_every", "threads", "run_dir"):  # fmt: skip
        assert f"--{name} " in text
    assert "summed over environments" in text or "Environment steps to train for" in text
