"""The state of an unfinished autoencoder's training, and the recipe that it belongs to."""

import json
from pathlib import Path
from typing import Any

from xwam.train import checkpoint

RECIPE = "recipe.json"


def go_on(saved: Path, state: checkpoint.TrainingState, recipe: dict[str, Any]) -> int:
    """Load what was saved; returns the steps done. Raises ValueError when it was made by another recipe."""
    path = saved / RECIPE
    stored = json.loads(path.read_text()) if path.is_file() else recipe  # older ones do not say
    for name, value in recipe.items():
        if stored[name] != value:
            raise ValueError(
                f"{name}={value} differs from {stored[name]} of the training in {saved}: "
                "continue with the same, or train into an empty folder."
            )
    return checkpoint.load_training(saved, state)


def write_training(target: Path, state: checkpoint.TrainingState, step: int, recipe: dict[str, Any]) -> None:
    """Write state and recipe, whole or not at all."""

    def fill(folder: Path) -> None:
        checkpoint.save_training(folder, state, step)
        (folder / RECIPE).write_text(json.dumps(recipe, indent=1) + "\n")

    checkpoint.write_whole(target, fill)
