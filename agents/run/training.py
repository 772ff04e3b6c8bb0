"""Training runs: the loop, and what surrounds it: run directory, checkpoints, evaluations, signals."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch

from agents.agent import Agent
from agents.parts.envs import EnvironmentFault, Envs, Vectorization, can_capture, make_vec
from agents.run.checkpoint import load_checkpoint, save_checkpoint, save_model, write_atomic
from agents.run.configuration import describe, dump_config, load_config, make_agent
from agents.run.evaluation import MAX_ENVS, Evaluation, play
from agents.run.tracking import DivergedError, Progress, Tracker

# Evaluations while training see other episodes than training does, the same ones each time.
EVALUATION_SEED_OFFSET = 1_000_003


# A compiled gradient step saves 0.3 to 0.7 ms and takes up to 20 s to compile (benchmarks/train_speed.py --compile).
UPDATES_WORTH_COMPILING = 50_000


class Interrupted(Exception):
    """A signal asked the run to stop; it stopped after a checkpoint.

    Attributes:
        signal: The signal's number.
    """

    def __init__(self, number: int, run: Path) -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name}; to go on: python -m agents resume {run}")
        self.signal = number


@dataclass(frozen=True)
class Settings:
    """Everything of a run but its agent; the arguments of :func:`train`."""

    env: str
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    num_envs: int = 1
    vectorization: Vectorization = "auto"
    steps: int = 50_000
    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    compile: Literal["on", "off"] = "off"
    log_every: int = 1_000
    eval_every: int = 0
    eval_episodes: int = 20
    checkpoint_every: int = 0
    tensorboard: bool = True

    def __post_init__(self) -> None:
        for name in ("num_envs", "steps", "threads", "log_every", "eval_episodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"train: {name} must be >= 1, got {getattr(self, name)}")
        for name in ("eval_every", "checkpoint_every", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"train: {name} must be >= 0, got {getattr(self, name)}")


def train(
    agent: Agent,
    env: str,
    *,
    env_kwargs: dict[str, Any] | None = None,
    num_envs: int = 1,
    vectorization: Vectorization = "auto",
    steps: int = 50_000,
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int = 1,
    compile: Literal["auto", "on", "off"] = "auto",
    log_every: int = 1_000,
    eval_every: int = 0,
    eval_episodes: int = 20,
    checkpoint_every: int = 0,
    tensorboard: bool = True,
    progress: bool = True,
    run_dir: str = "runs",
    name: str = "run",
) -> Path:
    """Train an agent, and leave a run directory behind.

    Every count of steps is in environment steps, summed over environments.

    Args:
        agent: What learns: a class of agents and its arguments.
        env: Gymnasium id of the environment; "my_module:MyEnv-v0" imports the module first.
        env_kwargs: Arguments of the environment's constructor.
        num_envs: Environments that step together, >= 1.
        vectorization: "auto" takes the environment's own vectorised version when it has one, else "sync" (one
            after the other); "async" gives every environment a process.
        steps: Environment steps to train for, >= 1.
        seed: Seed of the environments, the weights and the agent's randomness, >= 0.
        device: Where the agent lives; "auto" is a GPU when there is one.
        threads: Threads of torch's CPU kernels, >= 1; more than 1 rarely pays for networks of this size.
        compile: "on" makes loss and gradient one compiled graph, which is faster and takes seconds to start (more the
            first time); "auto" does so where the run is long enough to earn them back and a compiler is there.
        log_every: Steps between two rows of metrics.csv, >= 1.
        eval_every: Steps between two evaluations of the greedy policy; 0 for none but the last. The model that
            evaluates best is kept as best.safetensors.
        eval_episodes: Episodes of each evaluation, >= 1.
        checkpoint_every: Steps between two checkpoints; 0 for none but the last.
        tensorboard: Write TensorBoard event files.
        progress: Show the progress bar.
        run_dir: Where run directories go: <run_dir>/<env>/<agent>/<name>-s<seed>/.
        name: Name of the run.

    Returns:
        The run directory. Where one of that name exists, a new one is made: <name>-2-s<seed>, and so on.

    Raises:
        ValueError: An argument that is unknown or out of range; no run directory is left.
        EnvironmentFault: An environment raised, or returned a number that is not finite; resume goes on from the last
            checkpoint.
        DivergedError: A loss is no longer finite; the last checkpoint is kept.
        Interrupted: SIGINT or SIGTERM came, and a checkpoint was written.
    """
    settings = Settings(
        env=env,
        env_kwargs=dict(env_kwargs or {}),
        num_envs=num_envs,
        vectorization=vectorization,
        steps=steps,
        seed=seed,
        device=_device(device),
        threads=threads,
        compile=_compile(compile, agent, steps, num_envs, device),
        log_every=log_every,
        eval_every=eval_every,
        eval_episodes=eval_episodes,
        checkpoint_every=checkpoint_every,
        tensorboard=tensorboard,
    )
    if not re.fullmatch(r"[\w.,=+-]+", name):
        raise ValueError(f"train: name must consist of letters, digits and ._,=+-, got {name!r}")
    config = {"agent": describe(agent), **asdict(settings)}
    with _threads(threads), _signals() as stop:
        envs = Envs(make_vec(env, num_envs, vectorization=vectorization, env_kwargs=env_kwargs), settings.device)
        try:
            agent.build(envs.spec, device=settings.device, seed=seed, compiled=settings.compile == "on")
            envs.reset(seed)
            run = _new_run(Path(run_dir), settings, type(agent).__name__.lower(), name)
            write_atomic(run / "config.yaml", dump_config(config).encode())
            tracker = Tracker(run, agent, list(agent.status()), tensorboard=tensorboard)
            _Run(run, agent, envs, settings, tracker, stop).go(progress=progress)
        finally:
            envs.close()
    return run


def resume(run: Path | str, *, steps: int | None = None, progress: bool = True) -> Path:
    """Go on with a run from its last checkpoint.

    Where the environments' state could be captured, the run continues as if it had never stopped, to the last bit;
    elsewhere (environments in other processes, Box2D, MuJoCo, Atari) it begins new episodes.

    Args:
        run: The run directory.
        steps: New total of environment steps; None for the total that the run was started with.
        progress: Show the progress bar.

    Returns:
        The run directory.

    Raises:
        ValueError: Not a run directory, or no checkpoint in it.
    """
    run = Path(run)
    config = load_config(run / "config.yaml")
    if steps is not None:
        config["steps"] = steps
    agent = make_agent(config["agent"])
    settings = Settings(**{key: value for key, value in config.items() if key != "agent"})
    state = load_checkpoint(run / "checkpoint.pt", torch.device("cpu"))
    with _threads(settings.threads), _signals() as stop:
        env = make_vec(
            settings.env, settings.num_envs, vectorization=settings.vectorization, env_kwargs=settings.env_kwargs
        )
        envs = Envs(env, settings.device)
        try:
            agent.build(envs.spec, device=settings.device, seed=settings.seed, compiled=settings.compile == "on")
            agent.load_state_dict(state["agent"])
            envs.load_state_dict(state["envs"], seed=settings.seed + int(state["envs"]["steps"]))
            if state["envs"]["env"] is None:
                agent.cut()
            if steps is not None:
                write_atomic(run / "config.yaml", dump_config(config).encode())
            tracker = Tracker(
                run, agent, list(agent.status()), tensorboard=settings.tensorboard, purge_step=envs.steps + 1
            )
            tracker.load_state_dict(state["tracker"], envs.steps)
            _Run(run, agent, envs, settings, tracker, stop).go(progress=progress)
        finally:
            envs.close()
    return run


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("train: device is cuda, but torch finds no GPU")
    return name


def _compile(choice: str, agent: Agent, steps: int, num_envs: int, device: str) -> Literal["on", "off"]:
    """Resolve "auto": compile where that saves more time than it takes."""
    if choice != "auto":
        return "on" if choice == "on" else "off"
    long_enough = agent.count_updates(steps, num_envs) >= UPDATES_WORTH_COMPILING
    compiler = _device(device) == "cuda" or shutil.which(os.environ.get("CXX", "g++")) is not None
    return "on" if long_enough and compiler else "off"


def _new_run(root: Path, settings: Settings, agent: str, name: str) -> Path:
    """Make a run directory that did not exist."""
    parent = root / re.sub(r"[^\w.-]+", "-", settings.env) / agent
    for number in range(1, 10_000):
        run = parent / f"{name}{'' if number == 1 else f'-{number}'}-s{settings.seed}"
        try:
            run.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ValueError(f"train: run directory {run} cannot be made: {error}") from error
        return run
    raise ValueError(f"train: too many runs called {name} in {parent}")


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Give torch's kernels so many threads, and afterwards the caller's number again."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Stop:
    """The signal that asked for a stop, once one did."""

    number: int | None = None


@contextmanager
def _signals() -> Iterator[_Stop]:
    """Turn the first SIGINT or SIGTERM into a request to stop; a second one acts as usual."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may set handlers
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        stop.number = number
        for known, handler in before.items():
            signal.signal(known, handler)

    for number in before:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Run:
    """One run, from where its agent and environments stand to its last step."""

    def __init__(self, run: Path, agent: Agent, envs: Envs, settings: Settings, tracker: Tracker, stop: _Stop) -> None:
        self.run = run
        self.agent = agent
        self.envs = envs
        self.settings = settings
        self.tracker = tracker
        self.stop = stop

    def go(self, *, progress: bool) -> None:
        """Train, then evaluate and say where the run is."""
        print(_headline(self.agent, self.envs, self.settings), file=sys.stderr)
        bar = Progress(self.settings.steps, self.envs.steps, enabled=progress)
        try:
            self._loop(bar)
            self._checkpoint()
        except (EnvironmentFault, DivergedError) as error:
            kept = (
                "the last checkpoint is kept" if (self.run / "checkpoint.pt").exists() else "there is no checkpoint yet"
            )
            raise type(error)(f"{error}; {kept} in {self.run}") from error
        finally:
            bar.close()
            self.tracker.close()
        if self.stop.number is not None:
            raise Interrupted(self.stop.number, self.run)
        evaluation = self._evaluate()
        print(f"evaluation: {evaluation}\nrun: {self.run}")

    def _loop(self, bar: Progress) -> None:
        agent, envs, tracker, settings = self.agent, self.envs, self.tracker, self.settings
        next_log = _next(envs.steps, settings.log_every)
        next_checkpoint = _next(envs.steps, settings.checkpoint_every)
        next_evaluation = _next(envs.steps, settings.eval_every)
        while envs.steps < settings.steps and self.stop.number is None:
            before = envs.steps
            transitions = envs.step(agent.act(envs.observation))
            agent.observe(transitions)
            tracker.update(agent.update())
            for _, episode_return, length in envs.finished:
                tracker.episode(episode_return, length)
            bar.update(envs.steps - before, tracker, agent.status)

            if envs.steps >= min(next_log, next_evaluation):
                evaluation: Mapping[str, float] = {}
                if envs.steps >= next_evaluation:
                    result = self._evaluate()
                    self._keep_best(result)
                    evaluation = {"eval_return_mean": result.mean, "eval_return_std": result.std}
                tracker.log(envs.steps, agent.status(), evaluation)
                next_log = _next(envs.steps, settings.log_every)
                next_evaluation = _next(envs.steps, settings.eval_every)
            if envs.steps >= next_checkpoint:
                self._checkpoint()
                next_checkpoint = _next(envs.steps, settings.checkpoint_every)

    def _keep_best(self, evaluation: Evaluation) -> None:
        """Save the model that evaluated best so far beside the last one."""
        if evaluation.mean > self.tracker.best_evaluation:
            self.tracker.best_evaluation = evaluation.mean
            save_model(self.run / "best.safetensors", self.agent.model)

    def _checkpoint(self) -> None:
        """Write a checkpoint and the model; raise and keep the old ones where a metric is not finite."""
        self.tracker.check(self.envs.steps)
        state = {
            "agent": self.agent.state_dict(),
            "envs": self.envs.state_dict(),
            "tracker": self.tracker.state_dict(),
        }
        save_checkpoint(self.run / "checkpoint.pt", state)
        save_model(self.run / "model.safetensors", self.agent.model)

    def _evaluate(self) -> Evaluation:
        """Play greedy episodes in environments of their own; training notices nothing."""
        settings = self.settings
        env = make_vec(
            settings.env,
            min(settings.eval_episodes, MAX_ENVS),
            vectorization=settings.vectorization,
            env_kwargs=settings.env_kwargs,
        )
        envs = Envs(env, settings.device)
        try:
            return play(self.agent, envs, settings.eval_episodes, seed=settings.seed + EVALUATION_SEED_OFFSET)
        finally:
            envs.close()


def _next(step: int, every: int) -> float:
    """The next multiple of ``every`` after ``step``; never where ``every`` is 0."""
    return (step // every + 1) * every if every else float("inf")


def _headline(agent: Agent, envs: Envs, settings: Settings) -> str:
    """One line on what is about to run."""
    parameters = sum(p.numel() for p in agent.model.parameters())
    text = (
        f"{type(agent).__name__} on {settings.env}: {settings.num_envs} environments, {parameters:,} parameters, "
        f"device {settings.device}, {settings.threads} threads, compile {settings.compile}, seed {settings.seed}"
    )
    if not can_capture(envs.env):
        text += "\nthe state of these environments cannot be captured: a resumed run begins new episodes"
    return text
