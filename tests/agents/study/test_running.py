"""A tiny study end to end: what is done stays, what was stopped goes on, what has changed or failed begins anew."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents.__main__ import main
from agents.study.report import Analysis
from agents.study.results import read_results
from agents.study.running import _reason
from agents.study.variants import Study, load_study

ROOT = Path(__file__).parents[3]
TINY: dict[str, Any] = {
    "name": "tiny study",
    "base": str(ROOT / "configs/dqn/cartpole.yaml"),
    "seeds": 2,
    "overrides": {
        "steps": 400, "num_envs": 4, "log_every": 200, "eval_every": 200, "eval_episodes": 2,
        "agent.learning_starts": 200, "agent.batch_size": 16, "compile": "off", "tensorboard": False,
    },
    "environments": {"CartPole-v1": {"low": 20, "high": 500, "threshold": 5.0}},
    "variants": {"Huber": {}, "MSE": {"agent.loss.criterion": "MSELoss"}},
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, Path]]:
    """Runs a study's file; the exit code and the study's directory."""
    monkeypatch.chdir(ROOT)

    def run_study(content: dict[str, Any], *arguments: str) -> tuple[int, Path]:
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        command = ["study", "--config", str(tmp_path / "study.yaml"), "--directory", str(tmp_path / "studies")]
        return main([*command, "--progress", "false", *arguments]), tmp_path / "studies" / "tiny-study"

    return run_study


def test_a_study(run: Callable[..., tuple[int, Path]], capfd: pytest.CaptureFixture[str]) -> None:
    code, folder = run(TINY, "--seeds", "1")
    assert code == 0
    assert capfd.readouterr().out == f"study: {folder}\nreport: {folder / 'report.html'}\n"
    results = read_results(folder)
    assert [(r.environment, r.variant, r.seed) for r in results.runs] == [
        ("CartPole-v1", "Huber", 0),
        ("CartPole-v1", "MSE", 0),
    ]
    for result in results.runs:
        assert [point.step // 200 for point in result.curve] == [1, 2]
        assert result.reached(5.0) == result.curve[0] and 0 < result.curve[0].seconds < result.seconds
        assert result.reached(1e6) is None and result.reached(None) is None
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.csv")}
    assert len(made) == 2 and not list(folder.rglob("checkpoint.pt"))

    # A further seed, a variant that has changed, one that fails: the others are not run again.
    changed = TINY | {"seeds": 1, "variants": {"Huber": {}, "MSE": {"agent.loss.criterion": "MAELoss"}}}
    changed["variants"]["Broken"] = {"agent.learning_rate": 1e30, "agent.optimizer": "SGD"}
    code, _ = run(changed)
    captured = capfd.readouterr()
    assert code == 1
    assert "a run failed, the first: CartPole-v1, Broken, seed 0: error: " in captured.err
    again = {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.csv")}
    assert made.items() <= again.items() and len([path for path in again if "MSE" in path.parts]) == 2
    results = read_results(folder)
    assert [r.variant for r in results.runs] == ["Huber", "MSE", "MSE"], "the one before the change is kept"
    assert [r.variant for r in Analysis(results).finished] == ["Huber", "MSE"]
    assert [failure[1] for failure in results.failures] == ["Broken"]


def test_only(run: Callable[..., tuple[int, Path]], capfd: pytest.CaptureFixture[str]) -> None:
    """One name, or those that match; what is left out keeps its results, but not under another configuration."""
    names = {"Huber": {}, "Huber 2": {"agent.loss.criterion.delta": 2.0}}
    code, folder = run(TINY | {"seeds": 1, "variants": names}, "--only", "Huber")
    assert code == 0 and [r.variant for r in read_results(folder).runs] == ["Huber"]
    assert run(TINY | {"seeds": 1, "variants": names}, "--only", "Huber*")[0] == 0
    assert [r.variant for r in read_results(folder).runs] == ["Huber", "Huber 2"]
    capfd.readouterr()
    assert run(TINY, "--only", "Hubber")[0] == 2
    assert "no variant or environment of the name 'Hubber'" in capfd.readouterr().err
    names["Huber 2"] = {"agent.loss.criterion.delta": 3.0}
    assert run(TINY | {"seeds": 1, "variants": names}, "--only", "Huber")[0] == 0
    results = read_results(folder)
    assert [r.variant for r in results.runs] == ["Huber", "Huber 2"]
    assert [r.variant for r in Analysis(results).finished] == ["Huber"]


def test_small_files_are_enough(run: Callable[..., tuple[int, Path]]) -> None:
    """A study goes on from them, as on another machine, and loses none of them."""
    _, folder = run(TINY, "--jobs", "2")
    shutil.rmtree(folder / "runs")
    versions = (folder / "versions.json").read_text().replace("Linux", "Elsewhere")
    (folder / "versions.json").write_text(versions)
    whole = read_results(folder)
    assert len(whole.runs) == 4

    # Fewer seeds and variants, another threshold: nothing runs, and the rest stays in the files.
    less = TINY | {"variants": {"Huber": {}}, "environments": {"CartPole-v1": {"low": 20, "high": 500, "threshold": 6}}}
    assert run(less, "--seeds", "1")[0] == 0
    assert not (folder / "runs").exists()
    assert sorted(r.key for r in read_results(folder).runs) == sorted(r.key for r in whole.runs)
    assert (folder / "versions.json").read_text() == versions, "nothing has run here"

    # What is new runs, and both machines are named.
    more = TINY | {"seeds": 1, "variants": TINY["variants"] | {"MAE": {"agent.loss.criterion": "MAELoss"}}}
    assert run(more)[0] == 0
    assert len(list(folder.rglob("metrics.csv"))) == 1
    results = read_results(folder)
    assert len(results.runs) == 5 and {r.key: r for r in whole.runs}.items() <= {r.key: r for r in results.runs}.items()
    assert "Elsewhere" in results.versions["platform"] and "; Linux" in results.versions["platform"]


def test_a_second_process_is_kept_out(run: Callable[..., tuple[int, Path]], capsys: pytest.CaptureFixture[str]) -> None:
    _, folder = run(TINY | {"seeds": 1, "variants": {"Huber": {}}})
    with (folder / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert run(TINY)[0] == 2
    assert f"another process runs the study in {folder}" in capsys.readouterr().err


def test_a_run_that_is_killed_says_so(tmp_path: Path) -> None:
    assert _reason(tmp_path / "log.txt", -signal.SIGKILL) == "killed by SIGKILL, perhaps for want of memory"
    assert _reason(tmp_path / "log.txt", 3) == "exit code 3"
    (tmp_path / "log.txt").write_text("headline\nerror: why\n")
    assert _reason(tmp_path / "log.txt", 1) == "error: why"


def start_and_signal(tmp_path: Path, *numbers: signal.Signals) -> tuple[list[str], int, str]:
    """A study of one long run that gets signals in its middle: its arguments, exit code and last words."""
    long = TINY | {"seeds": 1, "variants": {"Huber": {}}, "overrides": TINY["overrides"] | {"steps": 6000}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(long))
    arguments = ["study", "--config", str(tmp_path / "study.yaml"), "--progress", "false", "--directory", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "agents", *arguments],
        cwd=ROOT, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    wait_until(lambda: bool(list(tmp_path.rglob("metrics.csv"))))
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.5)
    error = process.communicate(timeout=120)[1]
    return arguments, process.returncode, error


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)


def check_that_it_goes_on(arguments: list[str], tmp_path: Path) -> None:
    (checkpoint,) = tmp_path.rglob("checkpoint.pt")
    head = next(tmp_path.rglob("metrics.csv")).read_text().splitlines()[:2]
    assert main(arguments) == 0
    assert not checkpoint.exists()
    assert next(tmp_path.rglob("metrics.csv")).read_text().splitlines()[:2] == head, "begun anew"
    (result,) = read_results(tmp_path / "tiny-study").runs
    assert result.steps >= 6000


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_study_that_was_stopped_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    arguments, code, error = start_and_signal(tmp_path, number)
    assert code == 128 + number, error
    again = f"python -m agents {' '.join(arguments[:3])} --directory {tmp_path} --executor local"
    assert error.splitlines()[-1].endswith(f"to go on: {again}")
    check_that_it_goes_on(arguments, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [(signal.SIGKILL,), (signal.SIGTERM, signal.SIGKILL)])
def test_the_runs_of_a_study_that_was_killed_save_and_end(numbers: tuple[signal.Signals, ...], tmp_path: Path) -> None:
    arguments, _, _ = start_and_signal(tmp_path, *numbers)
    wait_until(lambda: bool(list(tmp_path.rglob("checkpoint.pt"))))
    (log,) = tmp_path.rglob("log.txt")
    wait_until(lambda: "resume" in log.read_text())  # its last line, which says how to go on
    assert "resume" in log.read_text()
    check_that_it_goes_on(arguments, tmp_path)


CARTPOLE = TINY["environments"]["CartPole-v1"]
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "argument": ({"variants": {"Bad": {"agent.loss.criterio": "MSELoss"}}}, "variant 'Bad': "),
    "value": ({"variants": {"Bad": {"agent.learning_rate": -1}}}, "learning_rate must be in (0, inf)"),
    "setting": ({"variants": {"Bad": {"eval_episodes": 0}}}, "variant 'Bad': train: eval_episodes must be"),
    "threads": ({"variants": {"Bad": {"threads": 0}}}, "variant 'Bad': train: threads must be"),
    "env_kwargs": ({"variants": {"Bad": {"env_kwargs": {"no_such": 1}}}}, "variant 'Bad': make_vec: "),
    "own": ({"variants": {"Bad": {"seed": 7}}}, "variant 'Bad': seed is the study's own"),
    "folders": ({"variants": {"A b": {}, "A-b": {"steps": 300}}}, "'A b' and 'A-b' would share the folder A-b"),
    "variant": ({"variants": {"Bad": 3}}, "variant 'Bad' must be a mapping of arguments, got 3"),
    "where": (
        {"variants": {"Bad": {"environments": ["CartPole-v1"]}}},
        "environments of variant 'Bad' must be a mapping",
    ),
    "nothing": ({"variants": {"Bad": {"environments": {"CartPole-v1": None}}}}, "CartPole-v1 of variant 'Bad' must be"),
    "environment": ({"variants": {"Bad": {"environments": {"Nope-v0": {}}}}}, "has arguments for Nope-v0"),
    "unknown": ({"environments": {"Nope-v0": {"low": 0, "high": 1}}}, "environment 'Nope-v0' cannot be made"),
    "scale": ({"environments": {"CartPole-v1": {"low": 5, "high": 5}}}, "high of CartPole-v1 must be in (5, inf)"),
    "number": ({"environments": {"CartPole-v1": {"low": "a", "high": 5}}}, "low of CartPole-v1 must be a number"),
    "no number": ({"environments": {"CartPole-v1": CARTPOLE | {"low": True}}}, "low of CartPole-v1 must be a number"),
    "overrides": (
        {"environments": {"CartPole-v1": CARTPOLE | {"overrides": 3}}},
        "overrides of CartPole-v1 must be a map",
    ),
    "own base": (
        {"environments": {"CartPole-v1": CARTPOLE | {"base": 3}}},
        "base of CartPole-v1 must be a file's name",
    ),
    "common": ({"overrides": [1]}, "overrides must be a mapping of arguments, got [1]"),
    "field": ({"variant": {}}, "must name name, base, seeds, environments, variants"),
    "seeds": ({"seeds": 0}, "seeds is empty"),
    "negative": ({"seeds": -3}, "seeds must be >= 1"),
    "bool": ({"seeds": True}, "seeds must be >= 1"),
    "text": ({"seeds": ["a"]}, "seeds must be whole numbers >= 0, got 'a'"),
    "twice": ({"seeds": [0, 0]}, "a seed comes twice"),
    "base": ({"base": "nowhere.yaml"}, "nowhere.yaml"),
}


def test_a_name_that_comes_twice_is_refused(tmp_path: Path) -> None:
    text = yaml.safe_dump(TINY, sort_keys=False) + "  MSE: {agent.n_step: 2}\n"
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(ValueError, match="'MSE' comes twice"):
        load_study(tmp_path / "study.yaml")


def test_what_is_found_out_by_each_run_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(TINY | {"overrides": {"threads": "auto", "compile": "auto"}}))
    _, jobs = load_study(tmp_path / "study.yaml")
    assert jobs
    for job in jobs:
        arguments = yaml.safe_load(job.configuration)
        assert (arguments["threads"], arguments["compile"]) == ("auto", "auto")


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_study_is_refused_before_its_first_run(
    name: str, run: Callable[..., tuple[int, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    change, complaint = WRONG[name]
    code, folder = run(TINY | change)
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and complaint in line
    assert not folder.exists()


def test_every_study_that_ships_can_be_planned() -> None:
    paths = sorted((ROOT / "configs" / "studies").glob("*.yaml"))
    assert paths
    for path in paths:
        study, jobs = load_study(path)
        assert len(jobs) == len(study.seeds) * len(study.environments) * len(study.variants)
        assert len({(job.environment, job.configuration) for job in jobs}) == len(study.environments) * len(
            study.variants
        )
        assert Study.from_yaml(study.to_yaml()) == study
