"""A study's file: variants of one configuration, environments and seeds, resolved and checked before the first run."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from agents.parts.envs import make_vec
from agents.run.configuration import describe, dump_config, instantiate, one_line
from agents.run.training import Settings, train
from rlloss.core.checks import check_number

# What a study's file may hold, and an environment's entry in it.
_FIELDS = {"name", "base", "seeds", "overrides", "environments", "variants"}
_ENVIRONMENT_FIELDS = {"low", "high", "threshold", "base", "overrides"}
# Arguments of agents train that a study sets itself.
_OWN_ARGUMENTS = {"config", "seed", "run_dir", "name", "progress"}


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
        configurations: Complete configurations by environment and variant.
    """

    name: str
    seeds: list[int]
    environments: list[Environment]
    variants: list[Variant]
    configurations: dict[str, dict[str, dict[str, Any]]]

    def digest(self, environment: str, variant: str) -> str:
        """The digest of a variant's configuration in an environment."""
        return _digest(dump_config(self.configurations[environment][variant]))

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
    def key(self) -> tuple[str, str, int, str]:
        """Environment, variant, seed and digest of the configuration."""
        return self.environment, self.variant, self.seed, self.digest

    @property
    def digest(self) -> str:
        """Tells its configuration from others."""
        return _digest(self.configuration)


def _digest(configuration: str) -> str:
    return hashlib.sha256(configuration.encode()).hexdigest()[:12]


def slug(name: str) -> str:
    """A name as that of a folder."""
    return re.sub(r"[^\w.=-]+", "-", name).strip("-.") or "study"


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
    numbers = _seeds(path, data["seeds"] if seeds is None else list(seeds))
    environments = [_environment(path, name, entry) for name, entry in data["environments"].items()]
    variants = [
        _variant(path, str(name), overrides, data["environments"]) for name, overrides in data["variants"].items()
    ]
    for names in ([environment.name for environment in environments], [variant.name for variant in variants]):
        _check_folders(path, names)
    configurations: dict[str, dict[str, dict[str, Any]]] = {}
    for environment in environments:
        entry = data["environments"][environment.name]
        base = path.parent / (entry.get("base") or data["base"])
        common = {"env": environment.name, **data.get("overrides", {}), **entry.get("overrides", {})}
        configurations[environment.name] = {}
        for variant in variants:
            overrides = common | variant.overrides | variant.environments.get(environment.name, {})
            configurations[environment.name][variant.name] = _resolve(
                f"{path}: variant {variant.name!r}", base, overrides
            )
    study = Study(str(data["name"]), numbers, environments, variants, configurations)
    plans = [
        (environment, variant, int(configuration["steps"]), dump_config(configuration))
        for environment, configs in configurations.items()
        for variant, configuration in configs.items()
    ]
    jobs = [
        Job(environment, variant, seed, steps, text) for seed in numbers for environment, variant, steps, text in plans
    ]
    return study, jobs


class _Loader(yaml.SafeLoader):
    """Refuses a name that comes twice, of which YAML would drop the first without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{min(twice)!r} comes twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text(), _Loader)
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
    _check_arguments(path, "overrides", data.setdefault("overrides", {}))
    return data


def _seeds(path: Path, seeds: Any) -> list[int]:
    """Seeds of a file: a list, or how many from 0 on."""
    if isinstance(seeds, list):
        for seed in seeds:
            if type(seed) is not int or seed < 0:
                raise ValueError(f"study: {path}: seeds must be whole numbers >= 0, got {seed!r}")
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"study: {path}: a seed comes twice in {seeds}; the same run twice is no evidence")
        return seeds
    if type(seeds) is not int or seeds < 1:
        raise ValueError(f"study: {path}: seeds must be >= 1, or a list, got {seeds!r}")
    return list(range(seeds))


def _check_folders(path: Path, names: list[str]) -> None:
    folders: dict[str, str] = {}
    for name in names:
        other = folders.setdefault(slug(name), name)
        if other != name:
            raise ValueError(f"study: {path}: {other!r} and {name!r} would share the folder {slug(name)}")


def _check_arguments(path: Path, where: str, arguments: Any) -> None:
    if not isinstance(arguments, Mapping):
        raise ValueError(f"study: {path}: {where} must be a mapping of arguments, got {arguments!r}")
    own = _OWN_ARGUMENTS & arguments.keys()
    if own:
        raise ValueError(f"study: {path}: {where}: {min(own)} is the study's own, and not to be set")


def _environment(path: Path, name: str, entry: Any) -> Environment:
    if not isinstance(entry, Mapping) or not {"low", "high"} <= entry.keys() <= _ENVIRONMENT_FIELDS:
        raise ValueError(
            f"study: {path}: environment {name} must have low and high, and may have threshold, base, overrides"
        )
    low, high, threshold = entry["low"], entry["high"], entry.get("threshold")
    try:
        check_number("study", f"low of {name}", low)
        check_number("study", f"high of {name}", high, low=low, low_open=True)
        if threshold is not None:
            check_number("study", f"threshold of {name}", threshold)
    except TypeError as error:  # in a file, a value of another type is a wrong value like others
        raise ValueError(str(error)) from error
    if not isinstance(entry.get("base", ""), str):
        raise ValueError(f"study: {path}: base of {name} must be a file's name, got {entry['base']!r}")
    _check_arguments(path, f"overrides of {name}", entry.get("overrides", {}))
    return Environment(name, float(low), float(high), None if threshold is None else float(threshold))


def _variant(path: Path, name: str, overrides: Any, environments: Mapping[str, Any]) -> Variant:
    what = f"variant {name!r}"
    _check_arguments(path, what, overrides)
    common = dict(overrides)
    own = common.pop("environments", {})
    if not isinstance(own, Mapping):
        raise ValueError(f"study: {path}: environments of {what} must be a mapping, got {own!r}")
    unknown = own.keys() - environments.keys()
    if unknown:
        raise ValueError(f"study: {path}: {what} has arguments for {', '.join(unknown)}, not in the study")
    for where, arguments in own.items():
        _check_arguments(path, f"{where} of {what}", arguments)
    return Variant(name, common, {where: dict(arguments) for where, arguments in own.items()})


def _resolve(what: str, base: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of ``agents train`` but those of the study, checked, as plain data."""
    parser = make_train_parser()
    arguments = ["--config", str(base)]
    for name, value in overrides.items():
        arguments += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    try:
        made = instantiate(parser, parser.parse_args(arguments))
        values = made.as_dict()
        # As train will check them; what "auto" comes to is found out there.
        found_out = {"compile": "off"} | ({"threads": 1} if values["threads"] == "auto" else {})
        known = {name: values[name] for name in inspect.signature(Settings).parameters}
        settings = Settings(**known | {"env_kwargs": values["env_kwargs"] or {}} | found_out)
        make_vec(settings.env, 1, vectorization="sync", env_kwargs=settings.env_kwargs).close()
    except (ArgumentError, ValueError, TypeError) as error:
        raise ValueError(f"study: {what}: {one_line(error)}") from error
    plain = {key: value for key, value in values.items() if key not in {"agent", *_OWN_ARGUMENTS}}
    return {"agent": describe(made.agent), **plain}
