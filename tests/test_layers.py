"""Imports point one way, and each outside package has its place; read from the source, without importing it."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the bottom up. A module may import from its own layer and from those below; `rlloss` and
# `rlloss.functional` gather the names of the library and stand above its layers.
LAYERS = [
    ("rlloss.core",),
    ("rlloss.supervised",),
    ("rlloss.rl",),
    ("rlloss.functional",),
    ("rlloss",),
    ("agents.parts",),
    ("agents.agent",),
    ("agents.dqn", "agents.a2c"),
    ("agents.run",),
    ("agents.study",),
    ("agents", "agents.__main__"),
]
# Names within one layer that do not know each other.
STRANGERS = [("agents.dqn", "agents.a2c")]
# The only agent module that what runs agents may know.
CONTRACT = "agents.agent"


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def _layer(module: str) -> int:
    """The layer of the longest name that fits."""
    fits = [(len(name), layer) for layer, names in enumerate(LAYERS) for name in names if _is_in(module, name)]
    return max(fits)[1]


def imports_of(source: str, module: str, *, is_package: bool = False) -> set[str]:
    """Every module or name that a source imports, wherever in the file, under its full name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".") if is_package else module.split(".")[:-1]
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "__import__"):
            found |= {str(argument.value) for argument in node.args[:1] if isinstance(argument, ast.Constant)}
    return found


def _modules() -> dict[str, set[str]]:
    files = [path for package in ("rlloss", "agents") for path in sorted((ROOT / package).rglob("*.py"))]
    return {
        _module_name(path): imports_of(path.read_text("utf-8"), _module_name(path), is_package=path.stem == "__init__")
        for path in files
    }


MODULES = _modules()
every_module = pytest.mark.parametrize("module", MODULES)


def _own(imported: set[str]) -> set[str]:
    return {name for name in imported if name.split(".")[0] in ("rlloss", "agents")}


def upward(module: str, imported: set[str]) -> list[str]:
    """Imports from a layer above, or across from a module that the module must not know."""
    wrong = [name for name in sorted(_own(imported)) if _layer(_resolve(name)) > _layer(module)]
    for pair in STRANGERS:
        for one, other in (pair, pair[::-1]):
            if _is_in(module, one):
                wrong += [name for name in sorted(imported) if _is_in(name, other)]
    return wrong


def _resolve(name: str) -> str:
    """``rlloss.MSELoss`` is a name in the package ``rlloss``; only a name that is a module has a layer of its own."""
    while name not in MODULES and "." in name:
        name = name.rsplit(".", 1)[0]
    return name


@every_module
def test_imports_point_down(module: str) -> None:
    assert upward(module, MODULES[module]) == []


@pytest.mark.parametrize("module", [module for module in MODULES if _is_in(module, "rlloss")])
def test_losses_need_torch_alone(module: str) -> None:
    """But for the pictures, whose matplotlib is an extra (tests/rlloss/test_main.py runs the rest without it)."""
    outside = {name.split(".")[0] for name in MODULES[module]} - set(sys.stdlib_module_names)
    assert outside <= {"torch", "rlloss"} | ({"matplotlib"} if module == "rlloss.plot" else set())


@every_module
def test_gymnasium_is_known_to_environments_alone(module: str) -> None:
    """Those that agents step, and those that are ours: to everyone else a device environment is one of Gymnasium's."""
    known = "agents.parts.envs", "agents.parts.sync_env", "agents.parts.device_envs", "agents.parts.classic_control"
    if module not in known:
        assert not [name for name in MODULES[module] if _is_in(name, "gymnasium")]


@every_module
def test_run_knows_agents_through_their_contract(module: str) -> None:
    if _is_in(module, "agents.run"):
        agents = [name for name in MODULES[module] if any(_is_in(name, other) for other in LAYERS[7])]
        assert not agents, f"{module} may import {CONTRACT} alone, not {agents}"


def test_library_was_found() -> None:
    assert {"rlloss", "rlloss.core.reduction", "rlloss.supervised.regression", "rlloss.rl.value"} <= set(MODULES)


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("rlloss.core.reduction", "import rlloss.supervised.regression", True),
        ("rlloss.core.reduction", "def f():\n    from ..rl import value", True),
        ("rlloss.core.reduction", "from . import checks", False),
        ("rlloss.supervised.regression", "from rlloss.rl.value import TDLoss", True),
        ("rlloss.supervised.regression", "from rlloss import MSELoss", True),
        ("rlloss.supervised.regression", "import rlloss.functional as F", True),
        ("rlloss.rl.value", "from rlloss.supervised.regression import mse_loss", False),
        ("rlloss.rl.value", "import agents", True),
        ("agents.parts.replay", "from rlloss import MSELoss", False),
        ("agents.parts.replay", "import agents.agent", True),
        ("agents.dqn", "from agents.a2c import A2C", True),
        ("agents.a2c", "import agents.dqn", True),
        ("agents.dqn", "from agents.agent import Agent", False),
        ("agents.run.training", "from agents.study import report", True),
        ("agents.__main__", "from agents.study import report", False),
    ],
)
def test_the_test_sees(monkeypatch: pytest.MonkeyPatch, module: str, source: str, wrong: bool) -> None:
    """The rules above on made-up modules: a rule that lets everything through would pass on good code too."""
    planned = ("agents", "agents.agent", "agents.dqn", "agents.a2c", "agents.study", "agents.study.report")
    for name in planned:
        monkeypatch.setitem(MODULES, name, MODULES.get(name, set()))
    assert bool(upward(module, imports_of(source, module))) is wrong
