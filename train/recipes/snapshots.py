"""The states of a training to go on from, each a directory as Hugging Face's Trainer writes it."""

from __future__ import annotations

from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState

from train.checkpoints import Checkpoints
from train.world import World

__all__ = ["Snapshots", "read_state", "shared"]

_NAME = "step"
_KEPT = 2
"""The newest, and one before it for where that is damaged."""


class Snapshots:
    """The newest states of one training, by step, and those that hold the best models of these."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self._best = {
            step: read_state(checkpoints.path(_NAME, step)).best_global_step
            for step in checkpoints.numbers(_NAME)
        }
        """The step of the best model so far, by the step of the state that knows it."""

    def newest(self) -> Path | None:
        return self.path(max(self._best)) if self._best else None

    def path(self, step: int) -> Path:
        return self._checkpoints.path(_NAME, step)

    def has(self, step: int) -> bool:
        return step in self._best

    def adopt(self, directory: Path) -> None:
        """Keep the state that lies in `directory`, of the same file system; drop those before."""
        state = read_state(directory)
        self._checkpoints.adopt(directory, _NAME, state.global_step)
        self._best[state.global_step] = state.best_global_step
        newest = sorted(self._best)[-_KEPT:]
        for step in self._best.keys() - {*newest, *(self._best[step] for step in newest)}:
            self._checkpoints.remove(_NAME, step)
            del self._best[step]


def read_state(directory: Path) -> TrainerState:
    state: TrainerState = TrainerState.load_from_json(str(directory / TRAINER_STATE_NAME))
    return state


def shared(directory: Path | None, copy: Path, world: World) -> Path | None:
    """Return the leader's directory, as `copy` to the other processes: hosts share no disk."""
    if world.size == 1:
        return directory
    names = world.broadcast(sorted(path.name for path in directory.iterdir()) if directory else [])
    if not names:
        return None
    if not world.leads:
        copy.mkdir()
    for name in names:
        content = world.broadcast((directory / name).read_bytes() if directory else b"")
        if not world.leads:
            (copy / name).write_bytes(content)
    return directory or copy
