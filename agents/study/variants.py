"""A study's file: variants of one configuration, environments and seeds, resolved and checked before the first run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from agents.run.configuration import describe, dump_config, instantiate, one_line
from agents.run.training import train
from rlloss.core.checks import check_integer, check_number

# What a study's file may hold, and an environment's entry in it.
_FIELDS = {"name", "base", "seeds", "overrides", "environments", "variants"}
_ENVIRONMENT_FIELDS = {"low", "high", "threshold", "base", "overrides"}


@dataclass(frozen=True)
class Environment:
    """Where variants are compared.

    Attributes:
        name: Its Gymnasium id.
        low: Return that counts as 0, such as that of random actions.
        high: Return that counts as 1, > low.
        threshold: Return whose first evaluation at or above it is counted; None for none.
    """

    name: str
    low: float
    high: float
    threshold: float | None


@dataclass(frozen=True)
class Variant:
    """What one variant changes of the base: arguments of ``agents train`` by their dotted names.

    Attributes:
        name: What the report calls it.
        overrides: Arguments in every environment.
        environments: Further arguments by environment.
    """

    name: str
    overrides: dict[str, Any]
    environments: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Study:
    """What is compared.

    Attributes:
        name: The study's name.
        seeds: Seeds of each variant in each environment.
        environments: Where.
        variants: What; one without overrides is the base that the others are compared to.
        configurations: The base's complete configuration by environment.
    """

    name: str
    seeds: list[int]
    environments: list[Environment]
    variants: list[Variant]
    configurations: dict[str, dict[str, Any]]

    def to_yaml(self) -> str:
        """The text that :meth:`from_yaml` reads."""
        return dump_config(asdict(self))

    @classmethod
    def from_yaml(cls, text: str) -> Study:
        """Read what :meth:`to_yaml` wrote."""
        data = yaml.safe_load(text)
        environments = [Environment(**entry) for entry in data["environments"]]
        variants = [Variant(**entry) for entry in data["variants"]]
        return cls(data["name"], data["seeds"], environments, variants, data["configurations"])


@dataclass(frozen=True)
class Job:
    """One run of a study.

    Attributes:
        environment: Where.
        variant: Name of the variant.
        seed: The run's seed.
        steps: Environment steps that it takes.
        configuration: All arguments of ``agents train`` but the seed, as YAML.
    """

    environment: str
    variant: str
    seed: int
    steps: int
    configuration: str

    @property
    def key(self) -> tuple[str, str, int]:
        """Environment, variant and seed."""
        return self.environment, self.variant, self.seed

    @property
    def digest(self) -> str:
        """Tells its configuration from others in results.csv."""
        return hashlib.sha256(self.configuration.encode()).hexdigest()[:12]


def make_train_parser(description: str | None = None) -> ArgumentParser:
    """The parser of ``agents train``: configuration files and arguments override each other in order."""
    parser = ArgumentParser(description=description, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file of arguments, see configs/")
    parser.add_function_arguments(train)
    return parser


def load_study(path: Path | str, *, seeds: Iterable[int] | None = None) -> tuple[Study, list[Job]]:
    """Read a study's file, and plan its runs: seed by seed, so that all variants have as many at any time.

    Args:
        path: The study's file.
        seeds: Seeds instead of the file's.

    Raises:
        ValueError: Not a study's file, or an argument that ``agents train`` refuses, with the variant's name.
    """
    path = Path(path)
    data = _read(path)
    if seeds is not None:
        numbers = list(seeds)
    else:
        numbers = list(range(data["seeds"])) if isinstance(data["seeds"], int) else list(data["seeds"])
    for seed in numbers:
        check_integer("study", "seeds", seed)
    environments = [_environment(path, name, entry) for name, entry in data["environments"].items()]
    variants = [
        _variant(path, name, overrides or {}, data["environments"]) for name, overrides in data["variants"].items()
    ]
    plans: dict[tuple[str, str], tuple[str, int]] = {}
    configurations: dict[str, dict[str, Any]] = {}
    for environment in environments:
        entry = data["environments"][environment.name]
        base = path.parent / (entry.get("base") or data["base"])
        common = {"env": environment.name, **(data.get("overrides") or {}), **(entry.get("overrides") or {})}
        _, configurations[environment.name] = _resolve(f"{path}: base", base, common)
        for variant in variants:
            overrides = common | variant.overrides | variant.environments.get(environment.name, {})
            plans[environment.name, variant.name] = _resolve(f"{path}: variant {variant.name!r}", base, overrides)[0]
    study = Study(str(data["name"]), numbers, environments, variants, configurations)
    jobs = [
        Job(environment.name, variant.name, seed, steps, text)
        for seed in numbers
        for environment in environments
        for variant in variants
        for text, steps in [plans[environment.name, variant.name]]
    ]
    return study, jobs


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ValueError(f"study: cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"study: {path} is not valid YAML: {error}") from error
    needed: dict[str, type | tuple[type, ...]] = {
        "name": str,
        "base": str,
        "seeds": (int, list),
        "environments": dict,
        "variants": dict,
    }
    if not isinstance(data, dict) or not needed.keys() <= data.keys() <= _FIELDS:
        raise ValueError(
            f"study: {path} must name {', '.join(needed)} and may have overrides, got "
            f"{', '.join(map(str, data)) if isinstance(data, dict) else type(data).__name__}"
        )
    for name, kind in needed.items():
        if not isinstance(data[name], kind) or not data[name]:
            raise ValueError(f"study: {path}: {name} is empty or of another type than a study's: {data[name]!r}")
    return data


def _environment(path: Path, name: str, entry: Any) -> Environment:
    if not isinstance(entry, Mapping) or not {"low", "high"} <= entry.keys() <= _ENVIRONMENT_FIELDS:
        raise ValueError(
            f"study: {path}: environment {name} must have low and high, and may have threshold, base, overrides"
        )
    low, high, threshold = entry["low"], entry["high"], entry.get("threshold")
    check_number("study", f"low of {name}", low)
    check_number("study", f"high of {name}", high, low=low, low_open=True)
    if threshold is not None:
        check_number("study", f"threshold of {name}", threshold)
    return Environment(name, float(low), float(high), None if threshold is None else float(threshold))


def _variant(path: Path, name: str, overrides: Any, environments: Mapping[str, Any]) -> Variant:
    if not isinstance(overrides, Mapping):
        raise ValueError(f"study: {path}: variant {name!r} must be a mapping of arguments, got {overrides!r}")
    own = overrides.get("environments") or {}
    unknown = own.keys() - environments.keys()
    if unknown:
        raise ValueError(f"study: {path}: variant {name!r} has arguments for {', '.join(unknown)}, not in the study")
    common = {key: value for key, value in overrides.items() if key != "environments"}
    return Variant(str(name), common, {key: dict(value) for key, value in own.items()})


def _resolve(what: str, base: Path, overrides: Mapping[str, Any]) -> tuple[tuple[str, int], dict[str, Any]]:
    """All arguments of ``agents train`` as YAML with the number of steps, and as a run's config.yaml has them."""
    parser = make_train_parser()
    arguments = ["--config", str(base)]
    for name, value in overrides.items():
        arguments += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    try:
        parsed = parser.parse_args(arguments)
        made = instantiate(parser, parsed)
    except (ArgumentError, ValueError, TypeError) as error:
        raise ValueError(f"study: {what}: {one_line(error)}") from error
    plain = {
        key: value for key, value in made.as_dict().items() if key not in ("config", "agent", "seed", "run_dir", "name")
    }
    configuration = {"agent": describe(made.agent), **plain}
    return (dump_config(configuration), int(made.steps)), configuration
