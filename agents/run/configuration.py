"""Objects to configuration and back: what ``config.yaml`` of a run holds.

An object is ``{"class_path": ..., "init_args": {...}}``, as jsonargparse writes it. Every loss and agent stores its
constructor's arguments under their own names, so its configuration can be read back from the object.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser
from torch import Tensor

from agents.agent import Agent

# jsonargparse's words for a name that is neither a known class nor module.Class.
_UNKNOWN_CLASS = r"no class \1 fits here (see --help for those that do; your own is named as my_module.\1)"


def describe(value: Any) -> Any:
    """Plain data for a value: numbers, strings, lists, and class path with arguments for objects.

    Raises:
        ValueError: An object whose constructor arguments cannot be read back from it.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    cls = type(value)
    names = list(inspect.signature(cls).parameters)
    missing = [name for name in names if not hasattr(value, name)]
    if missing:
        raise ValueError(
            f"{cls.__name__}: the constructor's argument {missing[0]!r} is not stored as an attribute of that name, "
            "so the configuration of the run cannot be saved"
        )
    return {
        "class_path": f"{cls.__module__}.{cls.__qualname__}",
        "init_args": {name: describe(getattr(value, name)) for name in names},
    }


def make_agent(config: Mapping[str, Any]) -> Agent:
    """The agent that ``describe`` described.

    Raises:
        ValueError: The configuration does not fit the agent.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--agent", type=Agent)
    try:
        parsed = parser.parse_object({"agent": dict(config)})
    except ArgumentError as error:
        raise ValueError(f"the agent's configuration is not valid: {one_line(error)}") from error
    agent: Agent = instantiate(parser, parsed).agent
    return agent


def instantiate(parser: ArgumentParser, config: Any) -> Any:
    """Make the objects of a parsed configuration; jsonargparse renamed the method in 4.49."""
    make = getattr(parser, "instantiate", None) or parser.instantiate_classes
    return make(config)


def one_line(error: Exception) -> str:
    """The innermost complaint of a jsonargparse error, with the dotted name of the argument it is about."""
    keys: list[str] = []
    complaint = ""
    for raw in str(error).splitlines():
        line = raw.strip().removeprefix("- ")
        if line.startswith("Parser key "):
            key, _, rest = line.removeprefix("Parser key ").partition(":")
            keys.append(key.strip("\"'"))
            line = rest.strip()
        if complaint and raw.startswith(" " * 2) and "<class 'NoneType'>" in line:
            continue
        if line and not line.startswith(
            ("Problem with given class_path", "Does not validate", "Subtypes:", "Errors:", "Given value")
        ):
            complaint = complaint or line
    complaint = re.sub(r"Expected a dot import path string: (.*)", _UNKNOWN_CLASS, complaint)
    complaint = re.sub(r"Expected a typing.Literal(\[.*?\])", r"must be one of \1", complaint)
    complaint = re.sub(r"Expected a <class '(\w+)'>(\. Got value: )?", r"must be of type \1\2", complaint)
    complaint = complaint.replace(". Got value: ", ", got ")
    return ": ".join(part for part in (".".join(keys), complaint or str(error).splitlines()[0]) if part)


def dump_config(config: Mapping[str, Any]) -> str:
    """The YAML text of a configuration."""
    text: str = yaml.safe_dump(dict(config), sort_keys=False)
    return text


def load_config(path: Path) -> dict[str, Any]:
    """Read a configuration file.

    Raises:
        ValueError: No such file, or not a configuration.
    """
    try:
        config = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ValueError(f"{path.parent} is not a run directory: it has no {path.name}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(config, dict) or "agent" not in config:
        raise ValueError(f"{path} is not the configuration of a run: it names no agent")
    return config
