"""What is learned: every loss on CartPole-v1, the marks of rl-baselines3-zoo, and MinAtar.

    python benchmarks/learning.py cartpole   # every value loss in DQN, every policy loss, advantage and critic in A2C
    python benchmarks/learning.py marks      # the shipped configurations against rl-baselines3-zoo's benchmark.md
    python benchmarks/learning.py minatar    # DQN and a variant of it, 1,000,000 frames of each game

A run that is done is a line of docs/results/<experiment>.csv and is not run again, so the same command continues an
experiment that was stopped. In the end, or at once with --table, the table is printed, and the curves of MinAtar are
drawn.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.stats

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
FIELDS = ["variant", "seed", "steps", "return", "steps_to_mark", "best_return"]


class Variant(NamedTuple):
    """A configuration with further arguments of the command line, and the return that it should reach."""

    name: str
    config: str
    arguments: str = ""
    mark: float = math.nan


class Experiment(NamedTuple):
    """Variants and seeds.

    ``curves`` keeps the training returns of each run as a file of its own. ``best`` also plays 100 new episodes with
    the model that did best in the evaluations while training.
    """

    variants: list[Variant]
    seeds: int
    arguments: str = ""
    curves: bool = False
    best: bool = False


_UNIT = "--agent.loss.low 0 --agent.loss.high 100"
_CRITIC = "--agent.critic_loss.low 0 --agent.critic_loss.high 100"
# Several epochs of minibatches a rollout, for what weighs new probabilities against old ones.
_EPOCHS = (
    "--agent.rollout_length 32 --agent.epochs 4 --agent.minibatches 4 --agent.normalize_advantages true "
    "--agent.gae_lambda 0.95 --agent.optimizer Adam --agent.optimizer_args {} --agent.learning_rate 0.001"
)
# Twice the steps and targets of one: errors that count by their squares, or a distribution of quantiles, take longer.
_LONGER = "--compile on --steps 100000 --agent.learning_rate_steps 100000 --agent.n_step 1"
# Returns up to 100 make a policy certain before its critic knows anything.
_SCALED = "--agent.normalize_rewards true --agent.entropy_coefficient 0.01"
VALUE_LOSSES = {
    "TDLoss(MSELoss)": f"--agent.loss.criterion MSELoss {_LONGER}",
    "TDLoss(HuberLoss)": "",
    # At beta 1 and alpha 1 these are Huber's.
    "TDLoss(SmoothL1Loss)": f"--agent.loss.criterion SmoothL1Loss --agent.loss.criterion.beta 0.5 {_LONGER}",
    "TDLoss(LogCoshLoss)": "--agent.loss.criterion LogCoshLoss",
    "TDLoss(MAELoss)": "--agent.loss.criterion MAELoss",
    "TDLoss(AsymmetricHuberLoss)": "--agent.loss.criterion AsymmetricHuberLoss --agent.loss.criterion.alpha 0.5 "
    f"{_LONGER}",
    "TDLoss(QuantileLoss)": "--agent.loss.criterion QuantileLoss",
    "TDLoss(ExpectileLoss)": f"--agent.loss.criterion ExpectileLoss {_LONGER}",
    "TDLoss(rescale)": f"--agent.loss.rescale true {_LONGER}",
    # On-policy: old transitions tell of old policies.
    "SarsaLoss": "--agent.loss SarsaLoss --agent.replay_capacity 2000 --agent.epsilon_end 0.01",
    "ExpectedSarsaLoss": f"--agent.loss ExpectedSarsaLoss {_LONGER}",
    "SoftQLoss": "--agent.loss SoftQLoss",
    "MunchausenLoss": "--agent.loss MunchausenLoss",
    "AdvantageLearningLoss": f"--agent.loss AdvantageLearningLoss {_LONGER}",
    "PersistentLoss": "--agent.loss PersistentLoss",
    "QVLoss": f"--agent.loss QVLoss {_LONGER}",
    "QVLoss(maximum)": f"--agent.loss QVLoss --agent.loss.maximum true {_LONGER}",
    "CategoricalTDLoss": f"--agent.loss CategoricalTDLoss {_UNIT}",
    "QuantileTDLoss": f"--agent.loss QuantileTDLoss {_LONGER}",
    "HLGaussTDLoss": f"--agent.loss HLGaussTDLoss {_UNIT}",
    "TwoHotTDLoss": f"--agent.loss TwoHotTDLoss {_UNIT}",
}
POLICY_LOSSES = {
    "PolicyGradientLoss(CrossEntropyLoss)": "",
    "PolicyGradientLoss(FocalLoss)": "--agent.policy_loss.criterion FocalLoss",
    "PolicyGradientLoss(PolyLoss)": "--agent.policy_loss.criterion PolyLoss",
    "ClippedSurrogateLoss": f"--agent.policy_loss ClippedSurrogateLoss {_EPOCHS}",
    "ClippedSurrogateLoss(dual clip, KL)": "--agent.policy_loss ClippedSurrogateLoss --agent.policy_loss.dual_clip 3 "
    f"--agent.policy_loss.kl_coefficient 0.5 {_EPOCHS}",
    "AdvantageWeightedRegressionLoss": "--agent.policy_loss AdvantageWeightedRegressionLoss "
    f"--agent.policy_loss.temperature 0.3 {_EPOCHS}",
    "AllActionPolicyGradientLoss": f"--agent.policy_loss AllActionPolicyGradientLoss {_SCALED}",
    "RegretPolicyGradientLoss": f"--agent.policy_loss RegretPolicyGradientLoss {_SCALED}",
    "REINFORCE": "--agent.advantage return --agent.rollout_length 128",
    "REINFORCE with baseline": "--agent.rollout_length 128",
    "UPGO": f"--agent.advantage upgo {_SCALED}",
    "V-trace": "--agent.advantage vtrace --agent.rollout_length 20 --agent.epochs 2",
    "critic HLGaussLoss": f"--agent.critic_loss HLGaussLoss {_CRITIC}",
    "critic TwoHotLoss": f"--agent.critic_loss TwoHotLoss {_CRITIC}",
}
EXPERIMENTS = {
    "cartpole": Experiment(
        [
            *(Variant(f"DQN {name}", "dqn/cartpole", text, 475.0) for name, text in VALUE_LOSSES.items()),
            Variant("DQN Rainbow", "dqn/rainbow_cartpole", "", 475.0),
            *(Variant(f"A2C {name}", "a2c/cartpole", text, 475.0) for name, text in POLICY_LOSSES.items()),
        ],
        seeds=3,
        arguments="--eval_every 5000 --eval_episodes 50",
    ),
    "marks": Experiment(
        [
            Variant("DQN CartPole-v1", "dqn/cartpole", "", 500.0),
            Variant("DQN Acrobot-v1", "dqn/acrobot", "", -77.0),
            Variant("DQN MountainCar-v0", "dqn/mountaincar", "", -101.0),
            Variant("DQN LunarLander-v3", "dqn/lunarlander_short", "", 154.0),
            Variant("A2C CartPole-v1", "a2c/cartpole", "", 500.0),
            Variant("A2C Acrobot-v1", "a2c/acrobot", "", -83.0),
            Variant("A2C Pendulum-v1", "a2c/pendulum", "", -163.0),
            Variant("A2C LunarLander-v3", "a2c/lunarlander_short", "", 156.0),
        ],
        seeds=5,
        arguments="--eval_episodes 100 --eval_every 5000",
        best=True,
    ),
    "minatar": Experiment(
        [
            Variant(f"{name} {game}", f"dqn/minatar{suffix}", f"--env MinAtar/{game}-v0")
            for game in ("Breakout", "Asterix")
            for name, suffix in (("DQN", ""), ("Munchausen, 3 steps", "_munchausen"))
        ],
        seeds=3,
        curves=True,
    ),
}


def done(name: str) -> list[dict[str, str]]:
    """The rows of an experiment so far."""
    return _read(RESULTS / f"{name}.csv")


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def slug(name: str) -> str:
    """A variant's name as that of a file."""
    return re.sub(r"\W+", "-", name).strip("-").lower()


def run(name: str, experiment: Experiment, variant: Variant, seed: int, lock: threading.Lock) -> bool:
    """Train once, or go on from the same command's checkpoint, and append what it reached; whether it ended."""
    folder = ROOT / "runs" / "learning" / name / f"{slug(variant.name)}-s{seed}"
    checkpoint = next(folder.rglob("checkpoint.pt"), None)
    command = ["train", "--config", f"configs/{variant.config}.yaml", *experiment.arguments.split()]
    command += [*variant.arguments.split(), "--seed", str(seed), "--run_dir", str(folder), "--tensorboard", "false"]
    noted = folder / "command.txt"
    if checkpoint is not None and noted.exists() and noted.read_text() == " ".join(command):
        command = ["resume", str(checkpoint.parent)]
    else:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        noted.write_text(" ".join(command))
    try:
        _agents(*command, "--progress", "false")
        (metrics,) = folder.rglob("metrics.csv")
        best = (
            json.loads(_agents("evaluate", str(metrics.parent), "--model", "best", "--json")) if experiment.best else {}
        )
    except subprocess.CalledProcessError as error:
        print(f"{variant.name}, seed {seed}: {' '.join(error.stderr.split())[-500:]}", file=sys.stderr)
        return False
    rows = _read(metrics)
    evaluations = [(int(row["step"]), float(row["eval_return_mean"])) for row in rows if row["eval_return_mean"]]
    reached = next((step for step, value in evaluations if value >= variant.mark), "")
    steps, last = evaluations[-1]
    best_return = f"{best['mean']:.2f}" if best else ""
    row = dict(zip(FIELDS, [variant.name, seed, steps, f"{last:.2f}", reached, best_return], strict=True))
    with lock:
        if experiment.curves:
            curve = RESULTS / name / f"{slug(variant.name)}-s{seed}.csv"
            curve.unlink(missing_ok=True)
            _append(curve, ["step", "return_mean"], [{key: r[key] for key in ("step", "return_mean")} for r in rows])
        _append(RESULTS / f"{name}.csv", FIELDS, [row])
    shutil.rmtree(folder)
    print(f"{variant.name}, seed {seed}: {row['return']}", file=sys.stderr)
    return True


def _agents(*arguments: str) -> str:
    """What a command of ours prints."""
    command = [sys.executable, "-m", "agents", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def _append(path: Path, fields: list[str], rows: Sequence[Mapping[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


def table(name: str, experiment: Experiment) -> str:
    """Markdown: mean return over seeds with its 95 % interval, of the last and of the best model; steps to the mark."""
    best = "| best model | 95 % CI " if experiment.best else ""
    lines = [f"| | steps | seeds | return | 95 % CI {best}| mark | steps to the mark |"]
    lines.append("|---|---:|---:|---:|---|" + ("---:|---|" if best else "") + "---:|---|")
    rows = done(name)
    for variant in experiment.variants:
        mine = [row for row in rows if row["variant"] == variant.name]
        if not mine:
            continue
        cells = [variant.name, f"{int(mine[0]['steps']):,}", str(len(mine)), *_mean([row["return"] for row in mine])]
        if best:
            cells += _mean([row["best_return"] for row in mine if row["best_return"]])
        cells += ["" if math.isnan(variant.mark) else f"{variant.mark:g}"]
        cells += [", ".join(f"{int(row['steps_to_mark']):,}" if row["steps_to_mark"] else "-" for row in mine)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(values: Sequence[str]) -> list[str]:
    """The mean and Student's 95 % interval, as cells of a table."""
    if not values:
        return ["", ""]
    numbers = [float(value) for value in values]
    mean = statistics.fmean(numbers)
    if len(numbers) == 1:
        return [f"{mean:.1f}", ""]
    half = scipy.stats.t.ppf(0.975, len(numbers) - 1) * statistics.stdev(numbers) / math.sqrt(len(numbers))
    return [f"{mean:.1f}", f"[{mean - half:.1f}, {mean + half:.1f}]"]


def plot(name: str, experiment: Experiment) -> Path:
    """Draw training returns over steps, a panel per environment: each seed and their mean."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    games = list(dict.fromkeys(variant.name.split()[-1] for variant in experiment.variants))
    figure, panels = plt.subplots(1, len(games), figsize=(5 * len(games), 4), squeeze=False, layout="constrained")
    for game, axes in zip(games, panels[0], strict=True):
        for variant in (v for v in experiment.variants if v.name.endswith(game)):
            curves = [_read(path) for path in sorted((RESULTS / name).glob(f"{slug(variant.name)}-s*.csv"))]
            lines = [np.array([[float(row["step"]), float(row["return_mean"])] for row in curve]) for curve in curves]
            if not lines:
                continue
            label = f"{variant.name.removesuffix(game).strip()} ({len(lines)} seeds)"
            length = min(map(len, lines))
            (mean,) = axes.plot(*np.mean([line[:length] for line in lines], 0).T, label=label)
            for line in lines:
                axes.plot(*line.T, color=mean.get_color(), alpha=0.3, linewidth=0.8)
        axes.set(title=game, xlabel="frames", ylabel="return of the last 100 training episodes", ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    path = RESULTS / f"{name}.png"
    figure.savefig(path, dpi=120)
    return path


def main() -> int:
    """Run what is missing of an experiment, print its table, and draw its curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=list(EXPERIMENTS))
    parser.add_argument("--table", action="store_true", help="print the table of what is done, and run nothing")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    parser.add_argument("--only", default="", help="only variants whose name holds this")
    options = parser.parse_args()
    experiment = EXPERIMENTS[options.experiment]
    ended: list[bool] = []
    if not options.table:
        have = {(row["variant"], int(row["seed"])) for row in done(options.experiment)}
        missing = [
            (variant, seed)
            for seed in range(experiment.seeds)
            for variant in experiment.variants
            if options.only in variant.name and (variant.name, seed) not in have
        ]
        lock = threading.Lock()
        with ThreadPoolExecutor(options.jobs) as pool:
            ended = list(pool.map(lambda one: run(options.experiment, experiment, one[0], one[1], lock), missing))
    print(table(options.experiment, experiment))
    if experiment.curves:
        print(plot(options.experiment, experiment))
    return 0 if all(ended) else 1


if __name__ == "__main__":
    sys.exit(main())
