"""Files that are whole or not there: written beside their place and moved into it."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from torch import nn

from agents.parts.processes import wait_for_processes


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file so that a reader, or a crash, sees the old content or the new and nothing between."""
    beside = path.with_name(f".{path.name}.part")  # of one name, so that what a crash leaves is overwritten
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as file:
        file.write(content)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Save tensors and plain data; of several processes none replaces its old file before all have a new one."""
    with replacing(path) as file:
        torch.save(state, file)
        wait_for_processes()


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Load tensors and plain data; nothing is executed.

    Raises:
        ValueError: No such file, or one that is not a checkpoint.
    """
    if not path.exists():
        raise ValueError(f"{path.parent} holds no checkpoint to resume from")
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise ValueError(f"{path} is not a checkpoint, or is damaged") from error
    return state


def save_model(path: Path, model: nn.Module) -> None:
    """Save the weights alone, as safetensors."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    write_atomic(path, safetensors.torch.save(tensors))


def load_model(path: Path, model: nn.Module) -> None:
    """Load :func:`save_model`'s file into a model of the same shape.

    Raises:
        ValueError: No such file, or weights of another model.
    """
    if not path.exists():
        raise ValueError(f"{path.parent} holds no {path.name}: the run saved none yet, or was not told to (eval_every)")
    try:
        model.load_state_dict(safetensors.torch.load_file(path))
    except (RuntimeError, OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} does not fit the model that config.yaml describes: {error}") from error
