"""Saves of a run: a checkpoint, and beside it the state that exact resuming needs.

    checkpoint_3.pth           trained weights, optimiser, scaler: after epoch 3
    checkpoint_3.state         position, random states of every process, records; written last
    checkpoint_step1200.pth    the same in the middle of an epoch
    checkpoint_step1200.state
    checkpoint_best.pth        see `training/selection.py`

Both files are written beside their place and moved there. A save counts only when both are there
and the state names the checkpoint's size, so what a kill cut short is never picked up.
"""

import contextlib
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from audiolm.models.checkpoint import DAMAGE, write_atomically

STATE_VERSION = 1
NAME = re.compile(r"checkpoint_(?:step)?(\d+)\.pth")


@dataclass
class Position:
    """How far a run is. Steps are optimiser steps; `epoch` is the one being trained, or, when all
    its steps are done, validated."""

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0

    def advance(self) -> None:
        """One more step is done."""
        self.step += 1
        self.step_in_epoch += 1

    def start_next_epoch(self) -> None:
        """The epoch is trained and validated."""
        self.epoch, self.step_in_epoch = self.epoch + 1, 0


@dataclass(frozen=True)
class Save:
    """A complete save: its checkpoint and its state."""

    checkpoint_path: Path
    state: dict[str, Any]

    @property
    def position(self) -> Position:
        return Position(**self.state["position"])


def checkpoint_name(position: Position, is_epoch_end: bool) -> str:
    """`checkpoint_{epoch}.pth` at an epoch's end, else `checkpoint_step{step}.pth`."""
    if is_epoch_end:
        return f"checkpoint_{position.epoch}.pth"
    return f"checkpoint_step{position.step}.pth"


def state_path(checkpoint_path: Path) -> Path:
    """The state's file beside a checkpoint."""
    return checkpoint_path.with_suffix(".state")


def write_state(checkpoint_path: Path, state: Mapping[str, Any]) -> None:
    """Complete a save whose checkpoint is written.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    content = {
        **state,
        "version": STATE_VERSION,
        "checkpoint_bytes": checkpoint_path.stat().st_size,
    }
    write_atomically(state_path(checkpoint_path), content)


def read_save(checkpoint_path: Path) -> Save | None:
    """The save of this checkpoint, or None when it is not complete."""
    path = state_path(checkpoint_path)
    if not (checkpoint_path.is_file() and path.is_file()):
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGE:
        return None
    is_whole = isinstance(state, dict) and state.get("version") == STATE_VERSION
    if not is_whole or state.get("checkpoint_bytes") != checkpoint_path.stat().st_size:
        return None
    return Save(checkpoint_path, state)


def find_saves(folder: Path) -> list[Save]:
    """The complete saves of a run folder, oldest step first."""
    paths = [path for path in folder.glob("checkpoint_*.pth") if NAME.fullmatch(path.name)]
    saves = [save for path in paths if (save := read_save(path)) is not None]
    return sorted(saves, key=lambda save: save.position.step)


def drop_old_saves(folder: Path, num_kept: int) -> None:
    """Delete all but the newest `num_kept` saves; 0 keeps all."""
    for save in find_saves(folder)[: -num_kept or None] if num_kept else []:
        state_path(save.checkpoint_path).unlink()  # first: half a save is none
        save.checkpoint_path.unlink()


def read_random_states() -> dict[str, Any]:
    """Python's, numpy's, torch's and each GPU's generator of this process, as plain values."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [name, keys.tolist(), *rest],  # type: ignore[union-attr]
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Undo what has been drawn since `read_random_states`."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])


@contextlib.contextmanager
def keep_random_states() -> Iterator[None]:
    """What is drawn inside leaves no trace."""
    states = read_random_states()
    try:
        yield
    finally:
        restore_random_states(states)


def describe_failure(error: Exception, folder: Path) -> str:
    """What to tell when a save could not be written; older saves are untouched."""
    saves = find_saves(folder)
    last = f"the last complete save is {saves[-1].checkpoint_path}" if saves else "none is complete"
    return (
        f"a save in {folder} could not be written ({error}); {last}; "
        f"free some space and go on with --resume {folder}"
    )
