"""The state of an unfinished autoencoder's training, and the recipe that it belongs to."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xwam.train import checkpoint

RECIPE = "recipe.json"
MAY_CHANGE = ("learning_rate", "max_gradient_norm")  # when a run goes on


def go_on(saved: Path, state: checkpoint.TrainingState, recipe: dict[str, Any]) -> int:
    """Load what was saved; returns the steps done. Raises ValueError when it was made by another recipe."""
    stored = json.loads((saved / RECIPE).read_text())
    for name in stored.keys() | recipe.keys():
        now, before = recipe.get(name), stored.get(name)
        if now != before and name not in MAY_CHANGE:
            raise ValueError(
                f"{name}={now} differs from {before} of the training in {saved}: "
                "continue with the same, or train into an empty folder."
            )
    return checkpoint.load_training(saved, state)


def write_training(target: Path, state: checkpoint.TrainingState, step: int, recipe: dict[str, Any]) -> None:
    """Write state and recipe, whole or not at all."""

    def fill(folder: Path) -> None:
        checkpoint.save_training(folder, state, step)
        (folder / RECIPE).write_text(json.dumps(recipe, indent=1) + "\n")

    checkpoint.write_whole(target, fill)


def films_hash(films: Sequence[Tensor]) -> str:
    """Sixteen digits that tell these films from others, by their lengths, first and last pictures."""
    digest = hashlib.sha256()
    for film in films:
        ends = film[[0, -1]].cpu().contiguous().view(torch.uint8)
        digest.update(f"{tuple(film.shape)}".encode() + ends.numpy().tobytes())
    return digest.hexdigest()[:16]
