"""Files that are whole or not there."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from agents.run.checkpoint import load_checkpoint, load_model, replacing, save_checkpoint, save_model, write_atomic

CPU = torch.device("cpu")


class Crash(BaseException):
    """Not even an Exception: as a KeyboardInterrupt would."""


def crash(*arguments: Any, **options: Any) -> None:
    raise Crash


@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
@pytest.mark.parametrize("old", [b"old", None])
def test_crash_leaves_the_old_file_and_nothing_else(
    where: str, old: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    if old is not None:
        write_atomic(path, old)
    if where != "write":
        monkeypatch.setattr(os, where, crash)
    with pytest.raises(Crash), replacing(path) as file:
        file.write(b"new con")
        if where == "write":
            raise Crash
    assert list(tmp_path.iterdir()) == ([] if old is None else [path])
    assert old is None or path.read_bytes() == old


def test_what_a_killed_process_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".file.part").write_bytes(b"the first half of something long")
    write_atomic(tmp_path / "file", b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"new"}


def test_new_content_is_there_before_it_takes_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, moved = tmp_path / "file", []
    replace = os.replace

    def spy(source: str, target: Path) -> None:
        moved.append((Path(source).read_bytes(), Path(source).parent, target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", spy)
    write_atomic(path, b"new")
    assert moved == [(b"new", tmp_path, path)]
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644, "others may read it"


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    state = {"a": torch.arange(3), "b": {"c": [1, 2.5, "x", None], "d": torch.rand(2, 2, dtype=torch.float64)}}
    save_checkpoint(tmp_path / "checkpoint.pt", state)
    loaded = load_checkpoint(tmp_path / "checkpoint.pt", CPU)
    assert torch.equal(loaded["a"], state["a"])  # type: ignore[arg-type]
    assert torch.equal(loaded["b"]["d"], state["b"]["d"])  # type: ignore[index]
    assert loaded["b"]["c"] == [1, 2.5, "x", None]


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)


@pytest.mark.parametrize("content", ["missing", "bomb", "noise", "half", "empty"])
def test_checkpoint_that_cannot_be_loaded(content: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    if content == "bomb":
        torch.save({"agent": Bomb()}, path)  # loading it with pickle would end this process
    elif content == "half":
        save_checkpoint(path, {"a": torch.zeros(1_000)})
        path.write_bytes(path.read_bytes()[:2_000])
    elif content != "missing":
        path.write_bytes({"noise": b"noise" * 100, "empty": b""}[content])
    with pytest.raises(ValueError, match=r"holds no checkpoint|is not a checkpoint"):
        load_checkpoint(path, CPU)


def test_model_round_trip(tmp_path: Path) -> None:
    linear, other_linear = nn.Linear(3, 2), nn.Linear(3, 2)
    one, other = nn.Sequential(linear, nn.BatchNorm1d(2)), nn.Sequential(other_linear, nn.BatchNorm1d(2))
    with torch.no_grad():
        linear.weight.set_(torch.rand(3, 2).t())  # type: ignore[call-overload]  # not contiguous
    save_model(tmp_path / "model.safetensors", one)
    load_model(tmp_path / "model.safetensors", other)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    other_linear.weight.data.zero_()
    assert linear.weight.abs().sum() > 0


@pytest.mark.parametrize("wrong", ["missing", "shape", "names", "noise"])
def test_model_that_does_not_fit(wrong: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    if wrong == "noise":
        path.write_bytes(b"noise" * 100)
    elif wrong != "missing":
        save_model(path, nn.Linear(4, 2) if wrong == "shape" else nn.Sequential(nn.Linear(3, 2)))
    with pytest.raises(ValueError, match=r"holds no model\.safetensors|does not fit the model that config.yaml"):
        load_model(path, nn.Linear(3, 2))
