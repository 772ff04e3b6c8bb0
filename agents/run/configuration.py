"""Objects to configuration and back: what ``config.yaml`` of a run holds.

An object is ``{"class_path": ..., "init_args": {...}}``, as jsonargparse writes it. Every loss and agent stores its
constructor's arguments under their own names, so its configuration can be read back from the object.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jsonargparse import ArgumentError, ArgumentParser
from torch import Tensor

from agents.agent import Agent

# jsonargparse's words for a name that is neither a known class nor module.Class.
_UNKNOWN_CLASS = r"no class \1 fits here (see --help for those that do; your own is named as my_module.\1)"


def describe(value: Any, *, objects: bool = True) -> Any:
    """Plain data for a value: numbers, strings, lists, and class path with arguments for objects.

    Args:
        value: What to describe.
        objects: Whether objects may be in it.

    Raises:
        ValueError: An object that may not be there, that no other process could import, or whose constructor
            arguments cannot be read back from it.
    """
    if isinstance(value, np.generic | np.ndarray | Tensor):
        value = value.tolist()  # of a single number, that number
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): describe(item, objects=objects) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item, objects=objects) for item in value]
    cls = type(value)
    if not objects:
        raise ValueError(f"{value!r} is no plain data, so the configuration of the run cannot be saved")
    if "<locals>" in cls.__qualname__:
        raise ValueError(
            f"{cls.__qualname__} is defined inside a function, where evaluate and resume cannot find it; "
            "define it at the top of a module"
        )
    if cls.__module__ == "__main__":
        warnings.warn(
            f"{cls.__qualname__} is defined in the main script: evaluate and resume find it from that script alone",
            stacklevel=3,
        )
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
    missing = re.search(r"following arguments are required: (.*)", str(error))
    if missing:
        command = missing[1].partition(".")[0]
        names = missing[1].replace(f"{command}.", "")
        return f"{command} needs {names.replace(', ', ' and ')}; see python -m agents {command} --help"
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
            is_alternative = complaint.startswith("Expected") and line.startswith("Expected a typing.Literal")
            complaint = f"{complaint} or {line}" if is_alternative else complaint or line
    given = dict(re.findall(r"Given (value): (.*)", str(error), flags=re.MULTILINE)[:1])
    nested = re.match(r"NestedArg\(key='(.*)', val='(.*)'\)", given.get("value", ""))
    name = ".".join(keys)
    refused = re.search(r"given class_path '[\w.]*?(\w+)':\s+Option '(\w+)' is not accepted", str(error))
    if refused:
        return f"{name}: {refused[1]} has no argument {refused[2]!r}"
    if nested and keys and not name.endswith(f".{nested[1]}"):  # else the argument itself is what is wrong
        return f"{name}: name its class before its arguments: --{name} CLASS --{name}.{nested[1]} {nested[2]}"
    complaint = re.sub(r"Expected a dot import path string: (.*)", _UNKNOWN_CLASS, complaint)
    complaint = re.sub(r"Expected an instantiatable class, but \S+ is abstract", "name a class (see --help)", complaint)
    complaint = complaint.replace(" or Expected a typing.Literal", " or one of ")
    complaint = re.sub(r"Expected a typing.Literal(\[.*?\])", r"must be one of \1", complaint)
    complaint = re.sub(r"Expected a <class '(\w+)'>(\. Got value: )?", r"must be of type \1\2", complaint)
    complaint = complaint.replace(". Got value: ", ", got ")
    if given and "got" not in complaint:
        complaint += f", got {given['value']}"
    return ": ".join(part for part in (".".join(keys), complaint or str(error).splitlines()[0]) if part)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, float | str]:
    """Settings by the dotted names of the command line; a class by its name, what is no number as text.

    >>> flatten({"agent": {"class_path": "agents.dqn.DQN", "init_args": {"n_step": 3}}, "steps": 10})
    {'agent': 'DQN', 'agent.n_step': 3, 'steps': 10}
    """
    flat: dict[str, float | str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and "class_path" in value:
            flat[prefix + name] = str(value["class_path"]).rsplit(".", 1)[-1]
            value = value.get("init_args") or {}
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if type(value) in (int, float) else str(value)
    return flat


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
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    needed = {"agent", "env", "env_kwargs", "num_envs", "vectorization", "steps"}
    if not isinstance(config, dict) or not needed <= config.keys():
        raise ValueError(f"{path} is not the configuration of a run: it must name {', '.join(sorted(needed))}")
    wrong = [
        name
        for name, kind in {"agent": dict, "env": str, "env_kwargs": dict, "num_envs": int, "steps": int}.items()
        if not isinstance(config[name], kind)
    ]
    if wrong:
        raise ValueError(f"{path}: {wrong[0]} is of another type than a run's: {config[wrong[0]]!r}")
    return config
