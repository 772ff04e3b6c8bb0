"""The wheel carries the losses alone, and works where nothing but torch is installed."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent

USE_IT = """
import json
import torch
import rlloss
from rlloss import FocalLoss
from rlloss.functional import mse_loss

loss = FocalLoss(gamma=0.0)(torch.zeros(1, 2), torch.tensor([0]))
print(json.dumps({"file": rlloss.__file__, "version": rlloss.__version__, "focal": loss.item()}))
"""


def _run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout with the tools that are installed: nothing is downloaded."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet")
    _run(sys.executable, "-m", "pip", "wheel", ROOT, *options, "-w", folder, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def test_content(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    info = next(name.split("/")[0] for name in names if name.endswith("/METADATA"))
    assert info.startswith("rlloss-") and info.endswith(".dist-info")
    assert {name.split("/")[0] for name in names} == {"rlloss", info}
    source = {path.relative_to(ROOT).as_posix() for path in (ROOT / "rlloss").rglob("*.py")}
    assert {name for name in names if name.startswith("rlloss/")} == source | {"rlloss/py.typed"}
    assert f"{info}/licenses/docs/LICENSE" in names


def test_needs_torch_alone(metadata: Message) -> None:
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert [line.replace(" ", "") for line in required] == ["torch>=2.6"]
    assert metadata["License-Expression"] == "MIT"


def test_works_without_the_checkout(wheel: Path, metadata: Message, tmp_path: Path) -> None:
    """Installed into an environment of its own, imported from a folder of its own; torch is lent to it by a path."""
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    scripts = home / ("Scripts" if sys.platform == "win32" else "bin")
    python = scripts / ("python.exe" if sys.platform == "win32" else "python")
    install = ("install", "--no-deps", "--no-index", "--disable-pip-version-check", "--quiet")
    _run(sys.executable, "-m", "pip", "--python", python, *install, wheel, cwd=tmp_path)

    query = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(_run(python, "-I", "-c", query, cwd=tmp_path).strip())
    (site / "torch_of_the_tests.pth").write_text(str(Path(torch.__file__).parent.parent) + "\n")

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    said = json.loads(_run(python, "-I", "-c", USE_IT, cwd=elsewhere))
    assert Path(said["file"]).resolve() == (site / "rlloss" / "__init__.py").resolve()
    assert said["version"] == metadata["Version"]
    assert said["focal"] == pytest.approx(0.693147, abs=1e-6)
