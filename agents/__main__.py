"""The command line: ``python -m agents train | evaluate | resume | study | report | compare``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

import agents  # noqa: F401  (makes DQN and A2C known by name)
import rlloss  # noqa: F401  (makes every loss known by name)
from agents.parts.errors import DivergedError, EnvironmentFault
from agents.run.configuration import instantiate, one_line
from agents.run.evaluation import evaluate
from agents.run.training import Interrupted, resume, train
from agents.study.comparison import compare
from agents.study.report import report
from agents.study.running import StudyFailed, study
from agents.study.variants import make_train_parser

USAGE_ERROR = 2
RUN_FAILED = 1


def make_parser() -> ArgumentParser:
    """The parser of all commands, made from the signatures of what they call."""
    parser = ArgumentParser(
        prog="python -m agents",
        description="Train, resume and evaluate agents whose loss is yours to choose.",
        exit_on_error=False,
    )
    commands = parser.add_subcommands(required=True, dest="command")

    command = make_train_parser("Train an agent; --config files and arguments override each other in order.")
    commands.add_subcommand("train", command, help="train an agent and leave a run directory behind")

    command = ArgumentParser(description="Go on with a run from its last checkpoint.")
    command.add_function_arguments(resume, as_positional=True)
    commands.add_subcommand("resume", command, help="go on with a run from its last checkpoint")

    command = ArgumentParser(description="Play whole episodes with the model of a run; nothing is unpickled.")
    command.add_function_arguments(evaluate, as_positional=True, skip={"video"})
    command.add_argument("--video", action="store_true", help="Also film one episode into the run's videos/.")
    command.add_argument("--json", action="store_true", help="Print one JSON object instead of a line of text.")
    commands.add_subcommand("evaluate", command, help="play episodes with a trained agent")

    command = ArgumentParser(description="Run what is missing of a study, variants x environments x seeds, and report.")
    command.add_function_arguments(study)
    commands.add_subcommand("study", command, help="compare variants of a configuration across seeds")

    command = ArgumentParser(description="Write the page and the figures of a study's results.")
    command.add_function_arguments(report, as_positional=True)
    commands.add_subcommand("report", command, help="make a study's page and figures")

    command = ArgumentParser(description="Compare run directories: what differs, and what came of it.")
    command.add_argument("runs", nargs="+", help="Run directories; those that differ in the seed alone are one row.")
    command.add_argument("--output", help="File for the learning curves: .png, .svg, .pdf, or .html with the table.")
    commands.add_subcommand("compare", command, help="compare runs that were made by hand")
    return parser


def run_command(name: str, arguments: dict[str, Any]) -> None:
    """Call what a command stands for."""
    plain: dict[str, Callable[..., object]] = {"train": train, "resume": resume, "study": study}
    if name in plain:
        plain[name](**arguments)
    elif name == "report":
        print(f"report: {report(**arguments)}")
    elif name == "compare":
        print(compare(**arguments))
    else:
        as_json = arguments.pop("json")
        result = evaluate(**arguments)
        print(json.dumps(result.to_json()) if as_json else result)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 1 for a run that failed, 2 for bad arguments."""
    sys.path.insert(0, str(Path.cwd()))  # losses and environments of the user's own modules
    parser = make_parser()
    try:
        parsed = parser.parse_args(arguments)
        made = instantiate(parser, parsed)
    except (ArgumentError, ValueError, TypeError) as error:
        return _fail(one_line(error), USAGE_ERROR)
    values = made[made.command].as_dict()
    if made.command == "train":
        values.pop("config")  # which the parser has read
    try:
        run_command(made.command, values)
    except ValueError as error:
        return _fail(str(error), USAGE_ERROR)
    except (EnvironmentFault, DivergedError, StudyFailed) as error:
        return _fail(str(error), RUN_FAILED)
    except Interrupted as error:
        if os.environ.get("RANK", "0") == "0":  # of several processes one says it
            print(f"{error}", file=sys.stderr)
        return 128 + error.signal
    return 0


def _fail(message: str, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    sys.exit(main())
