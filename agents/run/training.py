"""Training runs: the loop, and what surrounds it: run directory, checkpoints, evaluations, signals."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal, get_args

import numpy as np
import torch

from agents.agent import Agent
from agents.parts.device_envs import DeviceVectorEnv
from agents.parts.envs import Envs, Vectorization, can_capture, make_vec
from agents.parts.errors import DivergedError, EnvironmentFault
from agents.parts.processes import (
    from_first_process,
    join_processes,
    largest_of_processes,
    own_share,
)
from agents.run.checkpoint import load_checkpoint, save_checkpoint, save_model, write_atomic
from agents.run.configuration import describe, dump_config, flatten, load_config, make_agent
from agents.run.evaluation import MAX_ENVS, Device, Evaluation, choose, choose_device, play
from agents.run.threads import measure_threads, one_thread
from agents.run.tracking import Progress, Tracker
from rlloss.core.checks import check_choice, check_integer
from rlloss.core.distributed import process_count, process_rank

# Evaluations while training see other episodes than training does, the same ones each time.
EVALUATION_SEED_OFFSET = 1_000_003

# Up to 64 environments a compiled gradient step, with the acting before it, saves 1 to 3 ms and takes up to 20 s to
# compile the first time; in device environments, where stepping is compiled with it, it saves 1 to 4 ms and takes 29 s.
UPDATES_WORTH_COMPILING = 25_000
UPDATES_WORTH_COMPILING_ON_DEVICE = 15_000

# glibc's M_TRIM_THRESHOLD: how much may be kept; and M_MMAP_THRESHOLD: in blocks of up to what size, at most.
_KEPT_BYTES = {-1: 2**28, -3: 2**25}

# How often several processes ask each other whether one was told to stop: a message takes as long as a step or two.
_ROUNDS_BETWEEN_MESSAGES = 16


class Interrupted(Exception):
    """A signal asked the run to stop; it stopped after a checkpoint.

    Attributes:
        signal: The signal's number.
    """

    def __init__(self, number: int, again: str) -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name}; to go on: {again}")
        self.signal = number


@dataclass(frozen=True)
class Settings:
    """Everything of a run but its agent; the arguments of :func:`train`."""

    env: str
    env_kwargs: dict[str, Any]
    num_envs: int
    vectorization: Vectorization
    steps: int
    seed: int
    device: str
    threads: int
    compile: Literal["on", "off"]
    log_every: int
    eval_every: int
    eval_episodes: int
    checkpoint_every: int
    tensorboard: bool

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, np.integer):  # seeds out of np.arange, for instance
                object.__setattr__(self, name, int(value))
        for name in ("num_envs", "steps", "threads", "log_every", "eval_episodes"):
            check_integer("train", name, getattr(self, name), low=1)
        for name in ("eval_every", "checkpoint_every"):
            check_integer("train", name, getattr(self, name))
        check_integer("train", "seed", self.seed, high=2**32 - 1)
        check_choice("train", "vectorization", self.vectorization, get_args(Vectorization))
        check_choice("train", "compile", self.compile, ("on", "off"))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Settings:
        """The settings in a run's configuration.

        Raises:
            ValueError: One is missing, unknown or out of range.
        """
        known = {field.name for field in fields(cls)}
        given = config.keys() - {"agent"}
        if given != known:
            raise ValueError(f"config.yaml: settings missing or unknown: {', '.join(sorted(given ^ known))}")
        try:
            return cls(**{name: config[name] for name in known})
        except TypeError as error:
            raise ValueError(f"config.yaml: {error}") from error


def train(
    agent: Agent,
    env: str,
    *,
    env_kwargs: dict[str, Any] | None = None,
    num_envs: int = 1,
    vectorization: Vectorization = "auto",
    steps: int = 50_000,
    seed: int = 0,
    device: Device = "auto",
    threads: int | Literal["auto"] = 1,
    compile: Literal["auto", "on", "off"] = "auto",
    log_every: int = 1_000,
    eval_every: int = 0,
    eval_episodes: int = 20,
    checkpoint_every: int = 100_000,
    tensorboard: bool = True,
    progress: bool = True,
    run_dir: str = "runs",
    name: str = "run",
) -> Path:
    """Train an agent, and leave a run directory behind.

    Called by several processes (torchrun, or an initialised ``torch.distributed``), they train one agent together.

    Every count of steps is in environment steps, summed over environments.

    Args:
        agent: What learns: a class of agents and its arguments.
        env: Gymnasium id of the environment; "my_module:MyEnv-v0" imports the module first.
        env_kwargs: Arguments of the environment's constructor.
        num_envs: Environments that step together, >= 1.
        vectorization: "auto" takes the environment's own vectorised version when it has one, else "sync" (one
            after the other); "async" gives every environment a process.
        steps: Environment steps to train for, >= 1.
        seed: Seed of the environments, the weights and the agent's randomness, in [0, 2^32).
        device: Where the agent lives; "auto" is a GPU when there is one.
        threads: Threads of torch's CPU kernels, >= 1, in each process; "auto" measures how many make the gradient of
            the networks faster (large ones, images and large batches gain), and config.yaml has the number. Threads
            wait for each other: where other work needs the cores, as other runs do, one is best. A seed gives the same
            numbers again with as many threads. numpy's matrix products have one.
        compile: "on" makes a gradient step one compiled graph, and choosing actions another, which is faster and takes
            seconds to start (more the first time); "auto" does so where the run is long enough to earn them back and a
            compiler is there.
        log_every: Steps between two rows of metrics.csv, >= 1; one more comes with the last evaluation.
        eval_every: Steps between two evaluations of the greedy policy; 0 for none but the last. The model that does
            best in them is kept as best.safetensors.
        eval_episodes: Episodes of each evaluation, >= 1.
        checkpoint_every: Steps between two checkpoints; 0 for none but those at the end, at a signal and at an
            environment's fault.
        tensorboard: Write TensorBoard event files.
        progress: Show the progress bar.
        run_dir: Where run directories go: <run_dir>/<env>/<agent>/<name>-s<seed>/.
        name: Name of the run.

    Returns:
        The run directory. Where one of that name exists, a new one is made: <name>-2-s<seed>, and so on.

    Raises:
        TypeError: An argument of another type; no run directory is left.
        ValueError: An argument that is unknown or out of range; no run directory is left.
        EnvironmentFault: An environment raised, or returned a number that is not finite; a checkpoint was written
            that resume goes on from, with new episodes.
        DivergedError: A loss or an action is no longer finite; the last checkpoint is kept.
        Interrupted: SIGINT, SIGTERM or SIGHUP came, and a checkpoint was written.
    """
    settings = Settings(
        env=env,
        env_kwargs=dict(env_kwargs or {}),
        num_envs=num_envs,
        vectorization=vectorization,
        steps=steps,
        seed=seed,
        device=choose_device("train", device),
        threads=1 if isinstance(threads, str) else threads,
        compile="off",
        log_every=log_every,
        eval_every=eval_every,
        eval_episodes=eval_episodes,
        checkpoint_every=checkpoint_every,
        tensorboard=tensorboard,
    )
    check_choice("train", "compile", compile, ("auto", "on", "off"))
    if isinstance(threads, str) and threads != "auto":
        raise ValueError(f"train: threads must be 'auto' or an integer >= 1, got {threads!r}")
    if not re.fullmatch(r"[\w.,=+-]+", name):
        raise ValueError(f"train: name must consist of letters, digits and ._,=+-, got {name!r}")
    config = {"agent": describe(agent), **describe(asdict(settings), objects=False)}
    with join_processes(settings.device), one_thread(), catch_signals() as stop:
        number = own_share("train", "num_envs", settings.num_envs)
        envs = _make_envs(settings, number, agent)
        try:
            # Whether there are action masks is known from here on.
            envs.reset(settings.seed + process_rank() * number)
            settings = replace(settings, compile=_compile(compile, agent, settings, envs))
            config["compile"] = settings.compile
            agent.build(envs.spec, device=settings.device, seed=settings.seed, compiled=settings.compile == "on")
            if threads == "auto":
                settings = replace(settings, threads=measure_threads(agent))
                config["threads"] = settings.threads
            run = from_first_process(
                lambda: _new_run(Path(run_dir), settings, type(agent).__name__.lower(), name, dump_config(config))
            )
            tracker = Tracker(run, agent, list(agent.status()), tensorboard=tensorboard, writes=process_rank() == 0)
            tracker.describe(flatten(config))
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
        ValueError: Not a run directory, no checkpoint in it, or one that does not fit the configuration.
        EnvironmentFault: As in :func:`train`; so are the other errors of a run.
    """
    run = Path(run)
    config = load_config(run / "config.yaml")
    if steps is not None:
        config["steps"] = steps
    settings = Settings.from_config(config)
    choose_device("resume", settings.device)
    agent = make_agent(config["agent"])
    with join_processes(settings.device), one_thread(), catch_signals() as stop:
        state = _load_checkpoint(run)
        done = int(state["envs"]["steps"])
        if steps is not None and steps < done:
            raise ValueError(f"resume: steps must be >= {done}, which are done, got {steps}")
        number = own_share("train", "num_envs", settings.num_envs)
        envs = _make_envs(settings, number, agent)
        try:
            envs.load_state_dict(state["envs"], seed=settings.seed + done + process_rank() * number)
            agent.build(envs.spec, device=settings.device, seed=settings.seed, compiled=settings.compile == "on")
            _restore(agent, state["agent"], run)
            if state["envs"]["env"] is None:
                agent.cut()
            tracker = Tracker(
                run,
                agent,
                list(agent.status()),
                tensorboard=settings.tensorboard,
                purge_step=int(state["tracker"]["logged"]) + 1,
                writes=process_rank() == 0,
            )
            # A checkpoint is loaded to the CPU; rows that wait to be logged belong beside those to come.
            state["tracker"]["pending"] = state["tracker"]["pending"].to(agent.device)
            tracker.load_state_dict(state["tracker"], envs.steps)
            if process_rank() == 0:
                write_atomic(run / "config.yaml", dump_config(config).encode())
            _Run(run, agent, envs, settings, tracker, stop).go(progress=progress)
        finally:
            envs.close()
    return run


def _checkpoint_path(run: Path) -> Path:
    """The checkpoint of this process."""
    return run / (f"checkpoint-{process_rank()}.pt" if process_rank() else "checkpoint.pt")


def _load_checkpoint(run: Path) -> dict[str, Any]:
    """The state of this process.

    Raises:
        ValueError: There is none, or the processes' checkpoints do not belong together.
    """
    path = _checkpoint_path(run)
    state = load_checkpoint(path, torch.device("cpu"))
    if not isinstance(state, dict) or not {"agent", "envs", "tracker"} <= state.keys():
        raise ValueError(f"{path} is not the checkpoint of a run")
    processes = state.get("processes", 1)
    if processes != process_count():
        raise ValueError(
            f"{run} was trained by {processes} processes, and goes on with as many (torchrun --nproc-per-node "
            f"{processes}), got {process_count()}"
        )
    steps = int(state["envs"]["steps"])
    if largest_of_processes(steps) != steps or largest_of_processes(-steps) != -steps:
        raise ValueError(f"{path} is of another step than the checkpoints of the other processes")
    return state


def _make_envs(settings: Settings, num_envs: int, agent: Agent) -> Envs:
    env = make_vec(settings.env, num_envs, vectorization=settings.vectorization, env_kwargs=settings.env_kwargs)
    return Envs(env, settings.device, squash=agent.squash)


def _restore(agent: Agent, state: dict[str, Any], run: Path) -> None:
    try:
        agent.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError) as error:
        why = " ".join(str(error).split())
        if isinstance(error, KeyError):
            why = f"it has no {why}, as one of an older version"
        raise ValueError(f"{run / 'checkpoint.pt'} does not fit the agent of config.yaml: {why}") from error


def _compile(choice: str, agent: Agent, settings: Settings, envs: Envs) -> Literal["on", "off"]:
    """Resolve "auto": compile where that saves more time than it takes."""
    if choice != "auto":
        return "on" if choice == "on" else "off"
    on_device = agent.plays_on_device and isinstance(envs.env, DeviceVectorEnv) and process_count() == 1
    enough = UPDATES_WORTH_COMPILING_ON_DEVICE if on_device else UPDATES_WORTH_COMPILING
    long_enough = agent.count_updates(settings.steps, settings.num_envs) >= enough
    compiler = settings.device == "cuda" or shutil.which(os.environ.get("CXX", "g++")) is not None
    return "on" if long_enough and compiler else "off"


def _new_run(root: Path, settings: Settings, agent: str, name: str, config: str) -> Path:
    """Make a run directory that did not exist, with its configuration."""
    parent = root / re.sub(r"[^\w.-]+", "-", settings.env) / agent
    for number in range(1, 10_000):
        run = parent / f"{name}{'' if number == 1 else f'-{number}'}-s{settings.seed}"
        try:
            run.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ValueError(f"train: run directory {run} cannot be made: {error}") from error
        write_atomic(run / "config.yaml", config.encode())
        return run
    raise ValueError(f"train: too many runs called {name} in {parent}")


def _keep_freed_memory() -> None:
    """Let glibc keep what a gradient step frees for the next step, from now on, whatever MALLOC_TRIM_THRESHOLD_ says.

    It gives blocks of a megabyte back to the system as they are freed, which then clears each page anew: a fifth to a
    quarter of the time of A2C in 1,024 environments. Other C libraries have no such switches.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for parameter, size in _KEPT_BYTES.items():
        mallopt(parameter, size)


class Stop:
    """The signal that asked for a stop, once one did."""

    number: int | None = None


@contextmanager
def catch_signals() -> Iterator[Stop]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into a request to stop; a second one acts as usual."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may set handlers
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:  # nohup: to outlive its terminal
        before[hangup] = signal.getsignal(hangup)

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


class _StoppedEarly(Exception):
    """An evaluation is not needed any more."""


class _Run:
    """One run, from where its agent and environments stand to its last step."""

    def __init__(self, run: Path, agent: Agent, envs: Envs, settings: Settings, tracker: Tracker, stop: Stop) -> None:
        self.run = run
        self.agent = agent
        self.envs = envs
        self.settings = settings
        self.tracker = tracker
        self.stop = stop
        self.processes = process_count()  # asked once: between two steps it takes longer than to log a gradient step

    def go(self, *, progress: bool) -> None:
        """Train, then evaluate and say where the run is."""
        if process_rank() == 0:
            print(_headline(self.agent, self.envs, self.settings), file=sys.stderr)
        torch.set_num_threads(self.settings.threads)
        _keep_freed_memory()
        bar = Progress(self.settings.steps, self.envs.steps, enabled=progress and process_rank() == 0)
        try:
            evaluation = self._go(bar)
        except (EnvironmentFault, DivergedError) as error:
            kept = (
                "the last checkpoint is kept" if (self.run / "checkpoint.pt").exists() else "there is no checkpoint yet"
            )
            raise type(error)(f"{error}; {kept} in {self.run}") from error
        finally:
            bar.close()
            self.tracker.close()
        if evaluation is not None:
            print(f"evaluation: {evaluation}\nrun: {self.run}")

    def _go(self, bar: Progress) -> Evaluation | None:
        """Train and evaluate; what stops it half-way leaves a checkpoint, unless the agent itself has diverged."""
        try:
            self._train(bar)
            self._checkpoint()
            # The last row comes after the checkpoint, so that a run which is continued does not hold it.
            return self._evaluate_and_log()
        except (Interrupted, EnvironmentFault) as error:
            # A fault is one process's: the others' checkpoints would be of other steps.
            if isinstance(error, Interrupted) or self.processes == 1:
                self._checkpoint()
            raise

    def _train(self, bar: Progress) -> None:
        agent, envs, tracker, settings = self.agent, self.envs, self.tracker, self.settings
        next_checkpoint = _next(envs.steps, settings.checkpoint_every)
        next_row = self._next_row()
        # Several processes have to agree on when they stop, which takes a message.
        between_checks = 1 if self.processes == 1 else _ROUNDS_BETWEEN_MESSAGES
        rounds = 0
        while envs.steps < settings.steps:
            if rounds % between_checks == 0:
                self._check_signals()
            rounds += 1
            # What is due comes before the step, so that a run which was stopped here does it when it goes on.
            if envs.steps >= next_row:
                if envs.steps >= self._next_evaluation():
                    self._evaluate_and_log()
                else:
                    tracker.log(envs.steps, agent.status(), {})
                next_row = self._next_row()
            if envs.steps >= next_checkpoint:
                self._checkpoint()
                next_checkpoint = _next(envs.steps, settings.checkpoint_every)

            before = envs.steps
            self._advance(int(min(settings.steps, next_row, next_checkpoint)) - envs.steps)
            for _, episode_return, length in envs.finished:
                tracker.episode(episode_return, length)
            bar.update(envs.steps - before, tracker, agent.status)

    def _advance(self, steps: int) -> None:
        """Step all environments once and learn; on the device, as often as is good, up to ``steps`` or just beyond."""
        agent, envs = self.agent, self.envs
        if isinstance(envs.env, DeviceVectorEnv) and self.processes == 1:
            played = agent.play_on_device(envs.env, steps)
            if played is not None:
                envs.follow(played.finished)
                self.tracker.update(played.metrics)
                return
        agent.observe(envs.step(choose(agent, envs, explore=True)))
        self.tracker.update(agent.update())

    def _next_evaluation(self) -> float:
        return _next(self.tracker.logged, self.settings.eval_every)

    def _next_row(self) -> float:
        return min(_next(self.tracker.logged, self.settings.log_every), self._next_evaluation())

    def _check_signals(self) -> None:
        number = self.stop.number or 0
        if self.processes > 1:
            number = largest_of_processes(number)
        if number:
            start = "python" if self.processes == 1 else f"torchrun --nproc-per-node {self.processes}"
            raise Interrupted(number, f"{start} -m agents resume {self.run}")

    def _stop_early(self) -> None:
        """End an evaluation that others wait for, so that all hear of the signal soon."""
        if self.stop.number is not None:
            raise _StoppedEarly

    def _evaluate_and_log(self) -> Evaluation | None:
        """Evaluate, keep the model where it is the best of the evaluations that eval_every asks for, write a row.

        The first process does; the others, which have the same networks, go on and wait for it at the next step.
        """
        if process_rank():
            self.tracker.log(self.envs.steps, self.agent.status(), {})
            return None
        try:
            evaluation = self._evaluate()
        except _StoppedEarly:
            return None
        if self.envs.steps >= self._next_evaluation():
            self._keep_best(evaluation)
        numbers = {"eval_return_mean": evaluation.mean, "eval_return_std": evaluation.std}
        self.tracker.log(self.envs.steps, self.agent.status(), numbers)
        return evaluation

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
            "processes": self.processes,
        }
        save_checkpoint(_checkpoint_path(self.run), state)
        if process_rank() == 0:
            save_model(self.run / "model.safetensors", self.agent.model)

    def _evaluate(self) -> Evaluation:
        """Play greedy episodes in environments of their own; training notices nothing."""
        settings = self.settings
        envs = _make_envs(settings, min(settings.eval_episodes, MAX_ENVS), self.agent)
        try:
            return play(
                self.agent,
                envs,
                settings.eval_episodes,
                seed=settings.seed + EVALUATION_SEED_OFFSET,
                before_step=self._check_signals if self.processes == 1 else self._stop_early,
            )
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
        f"{'' if process_count() == 1 else f'{process_count()} processes, '}"
        f"device {settings.device}, {settings.threads} threads, compile {settings.compile}, seed {settings.seed}"
    )
    if not can_capture(envs.env):
        text += "\nthe state of these environments cannot be captured: a resumed run begins new episodes"
    return text
